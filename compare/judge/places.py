"""Where along its tokens a region differs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...graphs.axes import canonical_axes, same_shape
from ...graphs.errors import OpdiffError
from ..measure import norm, unmasked
from .locate import Local, is_scores


def places_apart(local: Local, axes: Sequence[str], along: str = "token") -> np.ndarray | None:
    """For each place of an axis, whether the region differs there by more than rounding; None where that cannot be said."""
    words = [word for word in canonical_axes(axes) if word != "batch"]
    if local.a64 is None or local.b64 is None or local.a64.ndim != len(words) or along not in words:
        return None
    try:
        left, right = same_shape(local.a64, local.b64)
    except OpdiffError:
        return None
    place = words.index(along)
    if left.ndim <= place or left.shape[place] != local.a64.shape[place]:
        return None
    with np.errstate(invalid="ignore"):
        far = np.where(left == right, 0.0, np.abs(np.nan_to_num(left - right, nan=np.inf)))
    if is_scores(local.tap):
        seen_left, seen_right = unmasked(left), unmasked(right)
        far = np.where(seen_left & seen_right, far, np.where(seen_left == seen_right, 0.0, np.inf))
    rows = np.moveaxis(far, place, 0).reshape(far.shape[place], -1)
    return np.array([norm(row) > local.reach for row in rows])
