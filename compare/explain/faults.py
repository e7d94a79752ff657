"""The faults of B against A: which regions, at which node, for which cause; and what differs but is no fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...graphs.axes import canonical_axes, same_shape, unbatched
from ...graphs.errors import ShapeError
from ...graphs.stages import split_tap_name
from ..judge.cancel import cancelling
from ..judge.locate import Local, is_scores
from ..measure import comparable, distance
from ..sides.graph_side import GraphSide
from ..sides.side import Side
from .causes import Cause, Explained, Explainer, gather
from .pinpoint import Pinpoint, Pinpointer
from .relations import relations


@dataclass(frozen=True)
class Unexplained:
    """Regions of one stage that differ in the same way, for which the catalogue has no name."""

    taps: tuple[str, ...]
    difference: str
    relations: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Faults:
    """All faults. `cancelled` are groups of taps that differ but cancel; `below` differ by less than float32 resolves."""

    found: Mapping[str, Local] = field(repr=False)
    taps: tuple[str, ...]
    causes: tuple[Cause, ...]
    unexplained: tuple[Unexplained, ...]
    explained: Mapping[str, Explained]
    pinpoints: Mapping[str, Pinpoint]
    relations: Mapping[str, tuple[str, ...]]
    cancelled: tuple[tuple[str, ...], ...]
    below: tuple[str, ...]

    @property
    def named(self) -> tuple[str, ...]:
        """The taps at fault that a convention explains."""
        return tuple(tap for tap in self.taps if self.explained[tap].candidates)


def faults(a: Side, b: Side, found: Mapping[str, Local], explainer: Explainer) -> Faults:
    """Explain every semantic region that does not cancel with others."""
    cancelled = cancelling(a, b, found)
    innocent = {tap for group in cancelled for tap in group}
    suspects = [tap for tap, local in found.items() if local.verdict == "semantic" and tap not in innocent]
    explained = {tap: explainer.explain(found[tap]) for tap in suspects}
    causes, dropped = _without_cancelling(a, b, gather(list(explained.values())), explained, explainer)
    pinpointer = Pinpointer(a, b)
    pinpoints = {tap: pinpointer.pinpoint(tap) for tap in suspects}
    below = tuple(tap for tap in suspects if _is_below_float32(found[tap], explained[tap]))
    named = {tap for cause in causes for tap in cause.taps}
    unnamed = [tap for tap in suspects if not explained[tap].candidates and tap not in below]
    related = {tap: _relations(found[tap], a) for tap in unnamed}
    return Faults(
        found,
        tuple(tap for tap in suspects if tap in named or tap in unnamed),
        tuple(causes),
        tuple(_grouped(unnamed, pinpoints, related, explained)),
        explained,
        pinpoints,
        related,
        (*cancelled, *dropped),
        below,
    )


def harmless_places(a: Side, b: Side, cause: Cause, found: Mapping[str, Local]) -> tuple[str, ...]:
    """Regions computed as differently as those of a cause, by the same programs, that yet agree with their weights.

    A trace has no programs, so none are known of it.
    """
    if not (isinstance(a, GraphSide) and isinstance(b, GraphSide)):
        return ()
    programs = {(a.regions[t].program.signature, b.regions[t].program.signature) for t in cause.taps}
    return tuple(
        tap
        for tap in b.regions
        if found[tap].verdict != "semantic"
        and (a.regions[tap].program.signature, b.regions[tap].program.signature) in programs
    )


def _is_below_float32(local: Local, explained: Explained) -> bool:
    """Whether a difference without a name is smaller than what float32 itself leaves open in this region."""
    return not explained.candidates and local.error <= local.floor


def _without_cancelling(
    a: Side, b: Side, causes: Sequence[Cause], explained: Mapping[str, Explained], explainer: Explainer
) -> tuple[list[Cause], list[tuple[str, ...]]]:
    """Leave out causes that change nothing for all that read their taps: one more on the positions of q and k alike."""
    kept, dropped = [], []
    for cause in causes:
        if len(cause.taps) > 1 and _changes_nothing(a, b, cause, explained, explainer):
            dropped.append(cause.taps)
        else:
            kept.append(cause)
    return kept, dropped


def _changes_nothing(a: Side, b: Side, cause: Cause, explained: Mapping[str, Explained], explainer: Explainer) -> bool:
    name, ours, _ = cause.choice
    by_block: dict[int | None, list[str]] = {}
    for tap in cause.taps:
        by_block.setdefault(split_tap_name(tap)[0], []).append(tap)
    for block, taps in by_block.items():
        around = [tap for tap in explained if split_tap_name(tap)[0] == block]
        settings = explained[taps[0]].settings
        assert settings is not None
        for tap in around:
            for candidate in explained[tap].candidates[:1]:
                for key, _, value in candidate:
                    settings = settings.with_value(key, value)
        readers = [tap for tap in dict.fromkeys((*a.readers(around), *b.readers(around))) if tap not in around]
        if not explainer.cancels(around, readers, settings, settings.with_value(name, ours)):
            return False
    return True


def _relations(local: Local, a: Side) -> tuple[str, ...]:
    if local.a64 is None or local.b64 is None:
        return ()
    axes = a.taps[local.tap].axes
    try:
        left, right = same_shape(local.a64, local.b64)
    except ShapeError:
        return ()
    left, right, agree = comparable(unbatched(left, axes), unbatched(right, axes), is_scores(local.tap))
    words = [word for word in canonical_axes(axes) if word != "batch"]
    if left.ndim != len(words):
        words = [*words[: left.ndim - 1], "channel"]
    masks = () if agree else ("other entries are masked",)

    def meets(one: np.ndarray, other: np.ndarray) -> bool:
        return distance(one, other, False) <= local.reach

    return (*masks, *relations(left, right, words, meets))


def _grouped(
    taps: Sequence[str],
    pinpoints: Mapping[str, Pinpoint],
    related: Mapping[str, tuple[str, ...]],
    explained: Mapping[str, Explained],
) -> list[Unexplained]:
    groups: dict[tuple, list[str]] = {}
    for tap in taps:
        key = (split_tap_name(tap)[1], _without_block(pinpoints[tap].difference, tap), related[tap])
        groups.setdefault(key, []).append(tap)
    return [
        Unexplained(tuple(places), pinpoints[places[0]].difference, related[places[0]], explained[places[0]].reason)
        for places in groups.values()
    ]


def _without_block(text: str, tap: str) -> str:
    block = split_tap_name(tap)[0]
    return text if block is None else text.replace(f"blk.{block}.", "blk.N.").replace(f"blk.{block - 1}.", "blk.N-1.")
