"""What to capture next: the one further tap, input or side that would settle what a comparison leaves open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...graphs.stages import LOGITS, graph_order
from ..report.words import places
from ..result import BlindSpot, Closed, NextCapture, RootCause

_EXPLAINED = ("convention", "edit")


def next_capture(
    common: Sequence[str],
    only_a: Sequence[str],
    only_b: Sequence[str],
    causes: Sequence[RootCause],
    closed: Closed,
    blind_spots: Sequence[BlindSpot],
    has_reference: bool,
) -> NextCapture | None:
    """The first thing that is open, and what settles it; None where nothing is.

    A fault without an explanation comes first, then logits that were not compared, a difference that no region accounts for,
    who is right, what the input cannot show, and taps that only one side has.
    """
    open_ones = (
        *_unexplained(common, only_a, only_b, causes),
        *_no_logits(common),
        *_left_over(only_a, only_b, closed),
        *_who_is_right(causes, has_reference),
        *_unseen(blind_spots),
        *_on_one_side(only_a, only_b, "were not compared"),
    )
    return next(iter(open_ones), None)


def _unexplained(
    common: Sequence[str], only_a: Sequence[str], only_b: Sequence[str], causes: Sequence[RootCause]
) -> Iterator[NextCapture]:
    for cause in causes:
        if cause.kind in _EXPLAINED:
            continue
        tap = cause.taps[0]
        before = max((graph_order(one) for one in common if graph_order(one) < graph_order(tap)), default=(-2, 0, ""))
        for side, other, names in (("b", "A", only_a), ("a", "B", only_b)):
            inside = tuple(name for name in names if before < graph_order(name) < graph_order(tap))
            if inside:
                text = f"capture {places(inside)} of {side.upper()}, which {other} has: it cuts the region of {tap}, for which there is no explanation"
                yield NextCapture("taps", side, inside, None, text)
        text = f"tap what both sides compute on the way to {tap}, step by step: its region has no explanation as it is cut now"
        yield NextCapture("taps", None, (tap,), None, text)


def _no_logits(common: Sequence[str]) -> Iterator[NextCapture]:
    if LOGITS not in common:
        text = "capture the logits of both sides: without them, what a fault does is not known"
        yield NextCapture("taps", None, (LOGITS,), None, text)


def _left_over(only_a: Sequence[str], only_b: Sequence[str], closed: Closed) -> Iterator[NextCapture]:
    if closed.all_found is False:
        yield from _on_one_side(only_a, only_b, "may hold what no region accounts for")


def _who_is_right(causes: Sequence[RootCause], has_reference: bool) -> Iterator[NextCapture]:
    if causes and not has_reference:
        text = (
            "give a third side with --reference, an exported `reference` or a trace of hf: it says which side is right"
        )
        yield NextCapture("reference", None, (), None, text)


def _unseen(blind_spots: Sequence[BlindSpot]) -> Iterator[NextCapture]:
    for spot in blind_spots:
        if spot.proposal is not None:
            written = ",".join(map(str, spot.proposal))
            text = f"run it with --tokens {written}: these tokens reach stages that this input cannot show"
            yield NextCapture("tokens", None, (), spot.proposal, text)
        elif spot.schedule is not None:
            text = f"run it with --schedule-b {spot.schedule}: one step cannot show what later steps do with the cache"
            yield NextCapture("schedule", "b", (), None, text)


def _on_one_side(only_a: Sequence[str], only_b: Sequence[str], why: str) -> Iterator[NextCapture]:
    for side, names in (("b", only_a), ("a", only_b)):
        if names:
            text = f"capture {places(names)} of {side.upper()} too: only the other side has them, and they {why}"
            yield NextCapture("taps", side, tuple(names), None, text)
