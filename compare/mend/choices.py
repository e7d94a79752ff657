"""Experts that two sides choose otherwise though their regions agree: near ties, which rounding before them decides."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress

import numpy as np

from ...graphs.axes import same_shape, unbatched
from ...graphs.errors import OpdiffError
from ...graphs.stages import LOGITS, split_tap_name, tap_name
from ..sides.graph_side import GraphSide
from ..sides.side import Side
from .runs import Change, run_changed

CHOICE, ROUTER = "expert_choice", "router_logits"
_LISTED = 6  # positions


def flipped_choices(a: Side, b: Side, at_fault: Collection[str]) -> Iterator[str]:
    """A line for each tap at which B chooses other experts than A, and which is not at fault itself.

    It says at which positions, by how little A's own choice was made, and what A's choice in B does to B's logits.
    """
    for tap in b.taps:
        if split_tap_name(tap)[1] != CHOICE or tap in at_fault or tap not in a.taps:
            continue
        ours, theirs = (np.sort(_of_prompt(side, tap), axis=-1) for side in (a, b))
        if ours.shape == theirs.shape and ours.ndim == 2:
            positions = np.flatnonzero((ours != theirs).any(-1))
            if len(positions):
                yield _line(a, b, tap, positions, ours.shape[-1])


def _of_prompt(side: Side, tap: str) -> np.ndarray:
    return unbatched(side.values[tap], side.taps[tap].axes)


def _line(a: Side, b: Side, tap: str, positions: np.ndarray, n_chosen: int) -> str:
    where = ", ".join(map(str, positions[:_LISTED])) + (" and others" if len(positions) > _LISTED else "")
    margin = _margin(a, tap, positions, n_chosen)
    by = "" if margin is None else f" (margin {margin:.1e} of the router's logits)"
    moved = _moved(a, b, tap)
    effect = "" if moved is None else f"; with A's choice, B's logits move by up to {moved:.3g}"
    return f"{tap}: the choice of experts flips by rounding at position {where}{by}{effect}"


def _margin(a: Side, tap: str, positions: np.ndarray, n_chosen: int) -> float | None:
    """The largest distance between the last expert that A chose and the next one, where the choices flip."""
    router = tap_name(ROUTER, split_tap_name(tap)[0])
    if router not in a.taps:
        return None
    logits = -np.sort(-np.asarray(_of_prompt(a, router), np.float64), axis=-1)
    if logits.ndim != 2 or logits.shape[-1] <= n_chosen:
        return None
    return float(np.max(logits[positions, n_chosen - 1] - logits[positions, n_chosen]))


def _moved(a: Side, b: Side, tap: str) -> float | None:
    """How far B's logits move where it is given A's choice; None where it cannot be run so."""
    if not isinstance(b, GraphSide) or LOGITS not in b.regions:
        return None
    with suppress(OpdiffError):
        given, _ = same_shape(a.values[tap], b.values[tap])
        _, ran = run_changed(b, [Change(given={tap: given})], [LOGITS], "float32", b.values)
        if not isinstance(ran, OpdiffError):
            return float(np.max(np.abs(ran[LOGITS].astype(np.float64) - np.asarray(b.values[LOGITS], np.float64))))
    return None
