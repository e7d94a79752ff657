"""How far two values of one tap lie apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graphs.axes import same_shape
from ..graphs.errors import ShapeError

_UNDERFLOW = float(np.log(np.float64(np.finfo(np.float32).smallest_subnormal)))


@dataclass(frozen=True, slots=True)
class Deviation:
    """B against A. `status` is `compared`, or says why it could not be: `shapes ...`, `not finite`, `masks differ`.

    `nmse` is sum (a-b)^2 / sum a^2 over the entries that are finite on both sides and masked on neither.
    """

    status: str
    nmse: float | None
    max_abs: float | None
    cosine: float | None
    worst_index: tuple[int, ...] | None
    n_nonfinite_a: int = 0
    n_nonfinite_b: int = 0


def norm(values: np.ndarray) -> float:
    """The Euclidean norm. (numpy's own asks BLAS, whose threads cost more than they bring on small arrays.)"""
    return float(np.sqrt(np.sum(np.square(values))))


def unmasked(scores: np.ndarray) -> np.ndarray:
    """Which entries a float32 softmax over the last axis can see: those whose exp does not underflow to zero."""
    with np.errstate(invalid="ignore"):
        return scores - np.max(scores, axis=-1, keepdims=True, initial=-np.inf) > _UNDERFLOW


def comparable(a: np.ndarray, b: np.ndarray, is_scores: bool) -> tuple[np.ndarray, np.ndarray, bool]:
    """Both in float64 and one shape; for scores, masked entries become 0 on both sides. Last: whether masks agree.

    Raises:
        ShapeError: the two cannot be brought to one shape.
    """
    a, b = same_shape(np.asarray(a, np.float64), np.asarray(b, np.float64))
    if not is_scores:
        return a, b, True
    seen_a, seen_b = unmasked(a), unmasked(b)
    seen = seen_a & seen_b
    return np.where(seen, a, 0.0), np.where(seen, b, 0.0), bool(np.array_equal(seen_a, seen_b))


def distance(a: np.ndarray, b: np.ndarray, is_scores: bool) -> float:
    """The Euclidean distance; inf where the masks, or the places of NaN and Inf, are not the same."""
    a, b, agree = comparable(a, b, is_scores)
    finite = np.isfinite(a)
    if not agree or not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    same_special = np.array_equal(np.nan_to_num(a[~finite]), np.nan_to_num(b[~finite]))
    return norm((a - b)[finite]) if same_special else float("inf")


def size(a: np.ndarray, is_scores: bool) -> float:
    """The Euclidean norm over finite, unmasked entries."""
    a = np.asarray(a, np.float64)
    seen = np.isfinite(a) & (unmasked(a) if is_scores else True)
    return norm(a[seen])


def deviation(a: np.ndarray, b: np.ndarray, is_scores: bool = False) -> Deviation:
    """All figures for one pair of values."""
    try:
        left, right, agree = comparable(a, b, is_scores)
    except ShapeError as e:
        return Deviation(f"shapes {e}", None, None, None, None)
    n_left, n_right = (int(np.count_nonzero(~np.isfinite(x))) for x in (left, right))
    finite = np.isfinite(left) & np.isfinite(right)
    status = "not finite" if n_left or n_right else "compared" if agree else "masks differ"
    if not finite.any():
        return Deviation(status, None, None, None, None, n_left, n_right)
    left, right = np.where(finite, left, 0.0), np.where(finite, right, 0.0)
    difference = np.abs(left - right)
    power, norms = float(np.sum(left**2)), norm(left) * norm(right)
    error = float(np.sum(difference**2))
    nmse = error / power if power else (0.0 if error == 0 else float("inf"))
    cosine = float(np.sum(left * right)) / norms if norms else (1.0 if error == 0 else 0.0)
    worst = tuple(int(i) for i in np.unravel_index(int(np.argmax(difference)), difference.shape))
    return Deviation(status, nmse, float(difference.max()), min(1.0, cosine), worst, n_left, n_right)
