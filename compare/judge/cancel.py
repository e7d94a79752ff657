"""Differences that cancel: regions that differ on their own, but not together with those that read them.

Interleaved RoPE on permuted rows, or one more on the positions of q and k alike, are other ways to compute the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations

from ...graphs.errors import OpdiffError
from ...graphs.stages import split_tap_name
from ..measure import distance, size
from ..sides.graph_side import GraphSide
from ..sides.side import Side
from ..sides.trace_side import TraceSide, joined, replayed, runnable
from .locate import DOUBLE_UNIT, SINGLE_UNIT, Local, is_scores, judge_region
from .places import FEW

_LARGEST = 8


def cancelling(a: Side, b: Side, found: Mapping[str, Local]) -> tuple[tuple[str, ...], ...]:
    """Groups of semantic regions that are no fault: with the cuts at their taps left out, their readers agree.

    The smallest groups of each block are found first; one that has been accounted for is in no other.
    """
    semantic = [tap for tap, local in found.items() if local.verdict == "semantic"]
    by_block: dict[int | None, list[str]] = {}
    for tap in semantic:
        by_block.setdefault(split_tap_name(tap)[0], []).append(tap)
    refuted: set[tuple] = set()
    early = _early(a, b) if semantic else None
    groups: list[tuple[str, ...]] = []
    for taps in by_block.values():
        left = [tap for tap in taps if a.readers([tap]) and b.readers([tap])]
        for group in _subsets(left):
            if set(group).issubset(left) and _hangs_together(b, group) and _cancels(a, b, group, found, refuted, early):
                cured = [tap for tap in _readers(a, b, group) if found[tap].verdict == "semantic"]
                groups.append((*group, *cured))
                left = [tap for tap in left if tap not in groups[-1]]
    return tuple(groups)


def _readers(a: Side, b: Side, group: Sequence[str]) -> list[str]:
    return list(dict.fromkeys((*a.readers(group), *b.readers(group))))


def _hangs_together(side: Side, group: Sequence[str]) -> bool:
    """Whether the taps of a group are read by one another, or by a common reader, so that they could cancel at all."""
    links = {tap: {tap, *side.readers([tap])} for tap in group}
    joined, rest = set(links[group[0]]), list(group[1:])
    while rest:
        near = next((tap for tap in rest if joined & links[tap]), None)
        if near is None:
            return False
        joined |= links[near]
        rest.remove(near)
    return True


def _subsets(taps: Sequence[str]) -> Iterable[tuple[str, ...]]:
    """Every subset, smallest first; of many taps only the single ones, the pairs, and all."""
    sizes = range(1, len(taps) + 1) if len(taps) <= _LARGEST else (1, 2, len(taps))
    return chain.from_iterable(combinations(taps, n) for n in sizes)


def _early(a: Side, b: Side) -> tuple[GraphSide, GraphSide] | None:
    """Both sides at the first few of many tokens: a group that does not cancel there does not cancel. None where that is all,
    or they have no such beginning.
    """
    if not (isinstance(a, GraphSide) and isinstance(b, GraphSide)) or len(a.tokens) < 2 * FEW:
        return None
    try:
        return a.beginning(FEW), b.beginning(FEW)
    except OpdiffError:
        return None


def _cancels(
    a: Side,
    b: Side,
    group: tuple[str, ...],
    found: Mapping[str, Local],
    refuted: set[tuple],
    early: tuple[GraphSide, GraphSide] | None,
) -> bool:
    readers = _readers(a, b, group)
    key = tuple(_computation(side, tap) for side in (a, b) for tap in (*group, *readers))
    if key in refuted:
        return False
    if early is not None and any(one.verdict == "semantic" for one in _joined_judged(*early, group, readers)):
        refuted.add(key)
        return False
    if not all(_agrees(one, a, b, group, found) for one in _joined_judged(a, b, group, readers)):
        refuted.add(key)
        return False
    return True


def _joined_judged(a: Side, b: Side, group: Sequence[str], readers: Sequence[str]) -> Iterator[Local]:
    """The verdicts on those that read a group, with the cuts at its taps left out."""
    left, right = joined(a, group, readers), joined(b, group, readers)
    yield from (judge_region(left, right, tap) for tap in readers)


def is_unread(a: Side, b: Side, group: Sequence[str], found: Mapping[str, Local]) -> bool:
    """Whether a group's difference reaches nothing on this input: an expert that no token chose, an entry that is masked."""
    graph, values = runnable(a, b), replayed(a, b).values
    ours = {tap: value for tap in group if (value := found[tap].a64) is not None}
    theirs = {tap: value for tap in group if (value := found[tap].b64) is not None}
    for tap in a.readers(group):
        right = graph.run(tap, {**values, **ours}, "float64")
        reached = distance(right, graph.run(tap, {**values, **theirs}, "float64"), is_scores(tap))
        if reached > (SINGLE_UNIT * DOUBLE_UNIT) ** 0.5 * size(right, is_scores(tap)):
            return False
    return True


def _computation(side: Side, tap: str) -> tuple:
    """What a region computes and what it reads, the same for equal regions of different blocks."""
    block, stage = split_tap_name(tap)
    region = side.regions[tap]
    places = [split_tap_name(name) for name in region.inputs]
    return stage, region.program.signature, tuple((name, near == block) for near, name in places)


def _agrees(reader: Local, a: Side, b: Side, group: tuple[str, ...], found: Mapping[str, Local]) -> bool:
    """Whether a reader agrees when joined with the group.

    What rounded constants could excuse must also be far less than the group's differences would do to the reader on
    their own: nearer, on a log scale, to rounding. A small fault may else hide behind a table in its reader.
    """
    if reader.verdict == "semantic":
        return False
    if reader.error <= reader.threshold:
        return True
    graph, values = runnable(a, b), replayed(a, b).values
    others = {tap: found[tap].a64 if isinstance(b, TraceSide) else found[tap].b64 for tap in group}
    alone = graph.run(reader.tap, {**values, **{tap: v for tap, v in others.items() if v is not None}}, "float64")
    reached = distance(graph.run(reader.tap, values, "float64"), alone, is_scores(reader.tap))
    return reader.error**2 <= reached * reader.threshold
