"""A result against a baseline, in lines."""

from __future__ import annotations

from collections.abc import Iterator

from ...graphs.printable import one_line
from ..baseline import Compared, Placed
from .words import places


def baseline_lines(against: Compared) -> Iterator[str]:
    """Whether it passes; then what is new, what is known, and what is gone."""
    yield f"{'pass' if against.passes else 'fail'}, by the baseline: {_counts(against)}"
    for one in against.new:
        yield _line("new there" if one.is_partial else "new", one)
    if against.left_over is not None:
        yield f"new: {one_line(against.left_over)}"
    unseen = "not compared in this run, so not known"
    for word, placed in (("known", against.known), ("gone", against.gone), (unseen, against.unseen)):
        for one in placed:
            yield _line(word, one)
    if not against.has_same_tokens:
        yield "the baseline is of other tokens, which may show other causes"


def _counts(against: Compared) -> str:
    n_new, n_unseen = len(against.new) + (against.left_over is not None), len(against.unseen)
    counts = {"new": n_new, "known": len(against.known), "gone": len(against.gone), "not compared": n_unseen}
    return ", ".join(f"{n} {word}" for word, n in counts.items() if n) or "nothing was known, and nothing is found"


def _line(word: str, one: Placed) -> str:
    return one_line(f"{word}: {one.cause.what}; at {places(one.taps)}")
