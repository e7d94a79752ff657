"""Of a long input, the first positions: what a fault does to the logits is measured there, for a share of the cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..graphs.axes import canonical_axes, same_shape
from ..graphs.errors import OpdiffError
from ..graphs.stages import LOGITS
from .locate import SINGLE_UNIT, Local, is_scores
from .measure import norm, unmasked
from .side import GraphSide

N_POSITIONS = 16


def early(a: GraphSide, b: GraphSide, tokens: Sequence[int], at_fault: Iterable[Local]) -> tuple[GraphSide, GraphSide]:
    """Both sides on as few of the first tokens as show every fault at `N_POSITIONS` positions; as they are where that is all.

    They stay as they are, too, where later tokens change earlier logits, or a graph is of a fixed length.
    """
    n = N_POSITIONS + max(_first_position(local, a.taps[local.tap].axes, len(tokens)) for local in at_fault)
    if n >= len(tokens):
        return a, b
    try:
        short = a.on(tokens[:n]), b.on(tokens[:n])
    except OpdiffError:
        return a, b
    return short if all(_is_beginning(*pair) for pair in zip(short, (a, b), strict=True)) else (a, b)


def _first_position(local: Local, axes: Sequence[str], n_tokens: int) -> int:
    """Where a region first differs by more than rounding; all of them where that cannot be said."""
    words = [word for word in canonical_axes(axes) if word != "batch"]
    if local.a64 is None or local.b64 is None or local.a64.ndim != len(words) or "token" not in words:
        return n_tokens
    try:
        left, right = same_shape(local.a64, local.b64)
    except OpdiffError:
        return n_tokens
    if left.ndim != len(words):
        return n_tokens
    far = np.where(left == right, 0.0, np.abs(np.nan_to_num(left - right, nan=np.inf)))
    if is_scores(local.tap):
        seen_left, seen_right = unmasked(left), unmasked(right)
        far = np.where(seen_left & seen_right, far, np.where(seen_left == seen_right, 0.0, np.inf))
    by_position = np.moveaxis(far, words.index("token"), 0).reshape(n_tokens, -1)
    return next((n for n, row in enumerate(by_position) if norm(row) > local.reach), n_tokens)


def _is_beginning(short: GraphSide, whole: GraphSide) -> bool:
    """Whether the short run's logits are the first of the whole run's, nearer to rounding than to anything else."""
    logits, axes = short.values[LOGITS], whole.taps[LOGITS].axes
    place = logits.ndim - len(canonical_axes(axes)) + canonical_axes(axes).index("token")
    first = np.take(whole.values[LOGITS], range(logits.shape[place]), axis=place)
    return norm(logits - first) <= SINGLE_UNIT**0.5 * norm(first)
