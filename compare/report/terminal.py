"""A result on the terminal: the causes first, in lines that a person can act on; then a map of the regions; then the tables."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from ..result import Result
from .heat_map import LEGEND, heat_map
from .plain_table import plain
from .sentences import WITHOUT_EFFECT, coverage, detail_lines, headline, latent_lines, logits_text, short_lines
from .tables import tables


@dataclass(frozen=True, slots=True)
class Shown:
    """How much is printed.

    Args:
        quiet: the answer and what each cause is, and no more.
        verbose: all that is known of each cause.
        tables: the logits, the regions at fault and the stages; with `every_tap` each tap.
    """

    quiet: bool = False
    verbose: bool = False
    tables: bool = False
    every_tap: bool = False


def print_result(result: Result, console: Console, shown: Shown) -> None:
    """Print the answer, the causes, and what is known beside them."""
    console.print(f"[bold]{plain(headline(result))}[/bold]")
    if shown.quiet:
        for number, cause in enumerate(result.root_causes, 1):
            console.print(f"{number}. {plain(cause.text)}")
        return
    if result.first_step is not None:
        console.print(plain(result.first_step.text))
    _print_causes(result, console, shown.verbose)
    _print_map(result, console)
    _print_beside(result, console)
    if shown.tables or shown.every_tap:
        for table in tables(result, shown.every_tap):
            console.print()
            console.print(table)
    console.print(f"\n[dim]{plain(coverage(result))}[/dim]")


def _print_causes(result: Result, console: Console, verbose: bool) -> None:
    for number, cause in enumerate(result.root_causes, 1):
        first, *rest = (cause.text, *detail_lines(cause, result)) if verbose else short_lines(cause, result)
        console.print(f"\n[bold]{number}. {plain(first)}[/bold]")
        for line in rest:
            console.print(f"   {plain(line)}")
    if result.root_causes:
        console.print(f"\n[bold]{plain(result.closed.text)}[/bold]")
    if result.verdict:
        console.print(f"[bold]{plain(result.verdict)}[/bold]")
    logits = logits_text(result)
    if logits is not None and not result.parity:
        console.print(plain(logits))


def _print_map(result: Result, console: Console) -> None:
    if result.parity:
        return
    console.print()
    for line in heat_map(result.rows):
        console.print(line, overflow="crop", no_wrap=True)
    for text in LEGEND:
        console.print(f"[dim]{text}[/dim]")


def _print_beside(result: Result, console: Console) -> None:
    """What differs without effect, what the input cannot show, what to capture next, and notes."""
    if result.latent:
        console.print(f"\n[yellow]{WITHOUT_EFFECT}:[/yellow]")
    for line in latent_lines(result):
        console.print(f"- {plain(line)}")
    for spot in result.blind_spots:
        console.print(f"\n[yellow]This input cannot show:[/yellow] {plain(spot.text)}")
    if result.next_capture is not None and not result.parity:
        console.print(f"\n[yellow]Next:[/yellow] {plain(result.next_capture.text)}")
    for note in result.notes:
        console.print(f"\n[dim]Note: {plain(note)}[/dim]")
