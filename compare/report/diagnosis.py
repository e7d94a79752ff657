"""A result in words, without tables: what differs, where, and what it does; for a test's message, a comment, an annotation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..result import Effect, Result, RootCause
from .printable import one_line
from .terminal import _headline, effect_text
from .words import places


def diagnosis(result: Result) -> str:
    """All that the terminal prints but for its tables."""
    return "\n".join(_lines(result))


def _lines(result: Result) -> Iterator[str]:
    yield headline(result)
    if result.first_step is not None:
        yield one_line(result.first_step.text)
    for number, cause in enumerate(result.root_causes, 1):
        yield from ("", *cause_lines(number, cause, result))
    if result.root_causes:
        yield from ("", one_line(result.closed.text))
    if result.verdict:
        yield one_line(result.verdict)
    for spot in result.blind_spots:
        yield from ("", f"This input cannot show: {one_line(spot.text)}")
    for note in result.notes:
        yield from ("", f"Note: {one_line(note)}")


def cause_lines(number: int, cause: RootCause, result: Result) -> Iterator[str]:
    """A cause as the terminal tells it: what it is, where, at which lines, and what it does."""
    yield f"{number}. {what(cause)}"
    yield f"   at {where(cause)}"
    for side, source in ((result.b, cause.source), (result.a, cause.a_source)):
        if source:
            yield f"   {one_line(side.name)}: {from_here(source)}"
    yield f"   effect on the logits: {effect_in_one(cause.effect)}"


def headline(result: Result) -> str:
    """The answer."""
    return one_line(_headline(result))


def what(cause: RootCause) -> str:
    """What differs, and whom the reference agrees with, without the places."""
    return one_line(cause.text.replace(f"; at {places(cause.taps)}", "", 1))


def where(cause: RootCause) -> str:
    """The places: `q_proj and o_proj in blocks 0 to 29`."""
    return one_line(places(cause.taps))


def effect_in_one(effect: Effect | None) -> str:
    """What a cause does to the logits, as one number where it is one."""
    if effect is None:
        return "not known"
    if effect.changes_logits and effect.finite == effect.finite_in_order == "kept":
        return f"mended alone, it moves them by up to {effect.max_change:.3g}"
    return effect_text(effect)


def from_here(source: str) -> str:
    """A source line, its path from the current folder where it lies below that."""
    path = Path(source)
    return one_line(str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else source)
