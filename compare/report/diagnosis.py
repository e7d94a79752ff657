"""A result as plain text, without maps and tables: what a failing test says."""

from __future__ import annotations

from collections.abc import Iterator

from ...graphs.printable import one_line
from ..result import Result
from .sentences import WITHOUT_EFFECT, headline, latent_lines, short_lines


def diagnosis(result: Result) -> str:
    """What the terminal prints, but for its map and its tables."""
    return "\n".join(_lines(result))


def _lines(result: Result) -> Iterator[str]:
    yield one_line(headline(result))
    if result.first_step is not None:
        yield one_line(result.first_step.text)
    for number, cause in enumerate(result.root_causes, 1):
        what, *rest = map(one_line, short_lines(cause, result))
        yield from ("", f"{number}. {what}", *(f"   {line}" for line in rest))
    if result.root_causes:
        yield from ("", one_line(result.closed.text))
    if result.verdict:
        yield one_line(result.verdict)
    if result.latent:
        yield from ("", f"{WITHOUT_EFFECT}:", *(f"- {one_line(line)}" for line in latent_lines(result)))
    for spot in result.blind_spots:
        yield from ("", f"This input cannot show: {one_line(spot.text)}")
    if result.next_capture is not None and not result.parity:
        yield from ("", f"Next: {one_line(result.next_capture.text)}")
    for note in result.notes:
        yield from ("", f"Note: {one_line(note)}")
