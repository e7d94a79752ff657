"""Of a long input, the first positions: what a fault does to the logits is measured there, for a share of the cost."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ...graphs.cores import on_all_cores
from ...graphs.errors import OpdiffError
from ..judge.locate import Local
from ..judge.places import FEW, places_apart
from ..sides.graph_side import GraphSide
from .effect import Effects


def early_effects(
    a: GraphSide, b: GraphSide, n_tokens: int, at_fault: Sequence[Local], sets: Collection[frozenset[str]]
) -> Effects:
    """Effects at as few of the first tokens as show every fault at `FEW` positions; at all, where that is all.

    They are at all of them, too, where later tokens change earlier logits, or a graph is of a fixed length.

    Raises:
        OpdiffError: the effects of these two cannot be measured.
    """
    n = FEW + max(on_all_cores(lambda local: _first_position(local, a.taps[local.tap].axes, n_tokens), at_fault))
    if n < n_tokens:
        try:
            effects = Effects(a.beginning(n), b.beginning(n), sets)
        except OpdiffError:
            return Effects(a, b, sets)
        if effects.meets_single_precision():
            return effects
    return Effects(a, b, sets)


def _first_position(local: Local, axes: Sequence[str], n_tokens: int) -> int:
    """Where a region first differs by more than rounding; all of them where that cannot be said."""
    apart = places_apart(local, axes)
    if apart is None or len(apart) != n_tokens or not apart.any():
        return n_tokens
    return int(np.argmax(apart))
