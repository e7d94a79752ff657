"""The command `opdiff compare`."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..graphs.errors import InputError, Interrupted
from ..graphs.run import Settings
from ..graphs.weights import check_folder, written_beside
from .diagnose import compare
from .report.printing import printing
from .report.terminal import print_result
from .result import Result

_STEPS = {
    "load": "reading both",
    "align": "running both step by step, and finding which value is which",
    "run": "running both on the tokens",
    "replay": "replaying every region on A's values, in double precision",
    "explain": "explaining what differs",
    "effects": "mending region by region",
    "input": "asking what this input can show",
}


def run_compare(
    a: Path,
    b: Path,
    reference: Path | None,
    tokens: str | None,
    names: Path | None,
    json_path: Path | None,
    every_tap: bool,
    provider: str,
) -> bool:
    """Compare, print, and write the JSON where asked; True where the two are the same."""
    if json_path is not None:
        check_folder(json_path)
    result = compared(
        a, b, reference, None if tokens is None else parse_tokens(tokens), Settings(provider=provider), names
    )
    if json_path is not None:
        write_json(result, json_path)
    with printing():
        print_result(result, _console(), every_tap)
    return result.parity


def _console() -> Console:
    """A terminal as wide as it is; a pipe or a file as wide as the tables need."""
    return Console(width=None if sys.stdout.isatty() else 132, soft_wrap=True)


def compared(
    a: Path,
    b: Path,
    reference: Path | None,
    tokens: list[int] | None,
    settings: Settings,
    names: Path | None = None,
) -> Result:
    """Compare, with a progress line on stderr where that is a terminal.

    Raises:
        Interrupted: the user stopped it.
    """
    console, steps = Console(stderr=True), [_STEPS["load"]]
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=None)

        def enter(step: str) -> None:
            steps.append(_STEPS[step])
            progress.update(task, description=_STEPS[step])

        try:
            return compare(a, b, tokens, reference, settings, enter, names)
        except KeyboardInterrupt as e:
            raise Interrupted(f"{a.name} and {b.name}: interrupted while {steps[-1]}; nothing was written") from e


def write_json(result: Result, path: Path) -> None:
    """Write the result's JSON, whole or not at all."""
    with written_beside(path) as partial:
        partial.write_text(result.to_json())


def parse_tokens(text: str) -> list[int]:
    """`1,5,3` as numbers.

    Raises:
        InputError: something else than whole numbers between commas.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as e:
        raise InputError(f"--tokens {text!r}: not a list of token ids; write it as 1,5,3") from e
