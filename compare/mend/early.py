"""Of a long input, the first positions: what a fault does to the logits is measured there, for a share of the cost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from ...graphs.axes import canonical_axes, same_shape
from ...graphs.errors import OpdiffError
from ..judge.locate import Local, is_scores
from ..measure import norm, unmasked
from ..sides.graph_side import GraphSide
from .effect import Effects

N_POSITIONS = 16


def early_effects(
    a: GraphSide, b: GraphSide, n_tokens: int, at_fault: Iterable[Local], sets: Collection[frozenset[str]]
) -> Effects:
    """Effects at as few of the first tokens as show every fault at `N_POSITIONS` positions; at all, where that is all.

    They are at all of them, too, where later tokens change earlier logits, or a graph is of a fixed length.

    Raises:
        OpdiffError: the effects of these two cannot be measured.
    """
    n = N_POSITIONS + max(_first_position(local, a.taps[local.tap].axes, n_tokens) for local in at_fault)
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
    words = [word for word in canonical_axes(axes) if word != "batch"]
    if local.a64 is None or local.b64 is None or local.a64.ndim != len(words) or "token" not in words:
        return n_tokens
    try:
        left, right = same_shape(local.a64, local.b64)
    except OpdiffError:
        return n_tokens
    if left.ndim != len(words) or left.shape[words.index("token")] != n_tokens:
        return n_tokens
    with np.errstate(invalid="ignore"):
        far = np.where(left == right, 0.0, np.abs(np.nan_to_num(left - right, nan=np.inf)))
    if is_scores(local.tap):
        seen_left, seen_right = unmasked(left), unmasked(right)
        far = np.where(seen_left & seen_right, far, np.where(seen_left == seen_right, 0.0, np.inf))
    by_position = np.moveaxis(far, words.index("token"), 0).reshape(n_tokens, -1)
    return next((n for n, row in enumerate(by_position) if norm(row) > local.reach), n_tokens)
