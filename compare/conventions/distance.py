"""How far two values of one tap lie apart, with masked scores compared by meaning."""

from __future__ import annotations

import numpy as np

from .case import Array


def distance(a: Array, b: Array, *, scores: bool = False) -> float:
    """||a - b|| / max(||a||, ||b||) over the entries that are finite in both; 0 for two zero tensors.

    With `scores`, or where either holds -inf, entries that softmax over the last axis takes to 0 in float32 are masked:
    their values are not compared, but they must be the same entries on both sides.

    Returns:
        inf when shapes, masks or infinities disagree, or when either holds NaN.
    """
    if a.shape != b.shape or np.isnan(a).any() or np.isnan(b).any():
        return float("inf")
    compared = np.isfinite(a) & np.isfinite(b)
    if scores or np.isneginf(a).any() or np.isneginf(b).any():
        left, right = is_masked(a), is_masked(b)
        if (left != right).any():
            return float("inf")
        compared &= ~left
    elif (np.where(np.isfinite(a), 0.0, a) != np.where(np.isfinite(b), 0.0, b)).any():
        return float("inf")
    return _relative(a[compared], b[compared])


def is_masked(scores: Array) -> np.ndarray:
    """Which entries softmax over the last axis takes to 0 in float32: bool, the shape of `scores`.

    A row of -inf alone is masked throughout.
    """
    highest = scores.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", under="ignore"):
        taken = np.exp((scores - np.where(np.isfinite(highest), highest, 0.0)).astype(np.float32))
    return np.asarray(taken == 0)


def _relative(a: Array, b: Array) -> float:
    scale = max(norm(a), norm(b))
    return norm(a - b) / scale if scale else 0.0


def norm(x: Array) -> float:
    """The Euclidean norm over all entries. Not by BLAS, whose threads take longer to meet than these sums take."""
    return float(np.sqrt(np.square(x).sum()))
