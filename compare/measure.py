"""How far two values of one tap lie apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..graphs.axes import same_shape
from ..graphs.errors import ShapeError

_MASK, _APART = 1e6, 1e3  # what is lower, and so many times farther from 0 than all else, may be a mask
_ELEMENTS_AT_ONCE = 1 << 17
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
    return _below_the_highest(scores) > _UNDERFLOW


def _below_the_highest(scores: np.ndarray) -> np.ndarray:
    """Each score less the highest one of its row."""
    with np.errstate(invalid="ignore"):
        return np.asarray(scores - np.max(scores, axis=-1, keepdims=True, initial=-np.inf))


def both_unmasked(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for two sides' scores, of one shape. What one side masks counts as masked on the other, too, where that leaves it so
    low that float32 shows nothing of it: a mask of -100 is one as -inf is, whatever score it is added to.
    """
    below = _below_the_highest(a), _below_the_highest(b)
    (seen_a, faint_a), (seen_b, faint_b) = ((one > _UNDERFLOW, one <= _UNDERFLOW / 2) for one in below)
    return seen_a & (seen_b | ~faint_a), seen_b & (seen_a | ~faint_b)


def may_hide(lowest: float) -> bool:
    """Whether the lowest one of some values may be a mask."""
    return -np.inf < lowest < -_MASK


def hidden(values: np.ndarray) -> np.ndarray | None:
    """Which entries are no numbers but a mask, in a tap that nobody calls scores: of one value, far below all others.

    A norm over them would hide every other difference. None where no entry is.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        lowest = float(np.min(values, initial=0.0))
        if not may_hide(lowest):
            return None
        low = values < lowest / 2
        rest = np.abs(values[~low])
        is_apart = rest.size and float(np.max(rest)) * _APART < -lowest
        is_one = float(np.max(values[low])) < lowest * (1 - 1 / _APART)
    return low if is_apart and is_one else None


def comparable(a: np.ndarray, b: np.ndarray, is_scores: bool) -> tuple[np.ndarray, np.ndarray, bool]:
    """Both in float64 and one shape; masked entries become 0 on both sides. Last: whether masks agree.

    Raises:
        ShapeError: the two cannot be brought to one shape.
    """
    a, b = same_shape(np.asarray(a, np.float64), np.asarray(b, np.float64))
    if is_scores:
        seen_a, seen_b = both_unmasked(a, b)
    else:
        low_a, low_b = hidden(a), hidden(b)
        if low_a is None and low_b is None:
            return a, b, True
        seen_a, seen_b = (np.ones(a.shape, bool) if low is None else ~low for low in (low_a, low_b))
    seen = seen_a & seen_b
    return np.where(seen, a, 0.0), np.where(seen, b, 0.0), bool(np.array_equal(seen_a, seen_b))


def _parts(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Two arrays of one shape, a part of the first axis at a time: where it begins, and both there."""
    if a.ndim == 0:
        a, b = a.reshape(1), b.reshape(1)
    n_at_once = max(1, _ELEMENTS_AT_ONCE * len(a) // max(1, a.size))
    for start in range(0, len(a), n_at_once):
        yield start, a[start : start + n_at_once], b[start : start + n_at_once]


def distance(a: np.ndarray, b: np.ndarray, is_scores: bool) -> float:
    """The Euclidean distance; inf where the masks, or the places of NaN and Inf, are not the same.

    Raises:
        ShapeError: the two cannot be brought to one shape.
    """
    parts = _parts(*same_shape(np.asarray(a), np.asarray(b)))
    return float(np.sqrt(sum(_squared_distance(*comparable(left, right, is_scores)) for _, left, right in parts)))


def _squared_distance(a: np.ndarray, b: np.ndarray, masks_agree: bool) -> float:
    difference = a - b
    squares = squared(difference)
    if masks_agree and np.isfinite(squares):
        return squares
    finite = np.isfinite(a)
    if not masks_agree or not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    same_special = np.array_equal(np.nan_to_num(a[~finite]), np.nan_to_num(b[~finite]))
    return float(np.sum(np.square(difference[finite]))) if same_special else float("inf")


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of the products of two arrays' entries. (numpy's own dot asks BLAS, whose threads wait for one another: where
    other processes want the cores, many times longer than the sum takes.)"""
    return float(np.einsum("i,i->", a.ravel(), b.ravel()))


def squared(values: np.ndarray) -> float:
    """The sum of squares."""
    return dot(values, values)


def size(a: np.ndarray, is_scores: bool) -> float:
    """The Euclidean norm over finite, unmasked entries."""
    return float(np.sqrt(sum(_squared_size(np.asarray(part, np.float64), is_scores) for _, part, _ in _parts(a, a))))


def _squared_size(a: np.ndarray, is_scores: bool) -> float:
    low = None if is_scores else hidden(a)
    seen = np.isfinite(a) & (unmasked(a) if is_scores else True if low is None else ~low)
    return float(np.sum(np.square(a[seen])))


@dataclass(slots=True)
class _Sums:
    """What a deviation is made of, added up over parts."""

    power: float = 0.0
    other_power: float = 0.0
    error: float = 0.0
    dot: float = 0.0
    largest: float = -1.0
    worst: tuple[int, ...] = ()
    n_finite: int = 0
    n_nonfinite: tuple[int, int] = (0, 0)
    masks_agree: bool = True

    def add(self, start: int, a: np.ndarray, b: np.ndarray, masks_agree: bool) -> None:
        self.masks_agree &= masks_agree
        power, other_power = squared(a), squared(b)
        if np.isfinite(power + other_power):
            self.n_finite += a.size
        else:
            finite_a, finite_b = np.isfinite(a), np.isfinite(b)
            finite = finite_a & finite_b
            self.n_finite += int(np.count_nonzero(finite))
            self.n_nonfinite = (
                self.n_nonfinite[0] + int(np.sum(~finite_a)),
                self.n_nonfinite[1] + int(np.sum(~finite_b)),
            )
            if not finite.any():
                return
            a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
            power, other_power = squared(a), squared(b)
        difference = np.abs(a - b)
        place = int(np.argmax(difference))
        if difference.flat[place] > self.largest:
            within = np.unravel_index(place, difference.shape)
            self.largest, self.worst = float(difference.flat[place]), (start + int(within[0]), *map(int, within[1:]))
        self.power, self.other_power = self.power + power, self.other_power + other_power
        self.error += squared(difference)
        self.dot += dot(a, b)


def deviation(a: np.ndarray, b: np.ndarray, is_scores: bool = False) -> Deviation:
    """All figures for one pair of values."""
    try:
        a, b = same_shape(np.asarray(a), np.asarray(b))
    except ShapeError as e:
        return Deviation(f"shapes {e}", None, None, None, None)
    sums = _Sums()
    for start, left, right in _parts(a, b):
        sums.add(start, *comparable(left, right, is_scores))
    status = "not finite" if any(sums.n_nonfinite) else "compared" if sums.masks_agree else "masks differ"
    if not sums.n_finite:
        return Deviation(status, None, None, None, None, *sums.n_nonfinite)
    norms = (sums.power * sums.other_power) ** 0.5
    nmse = sums.error / sums.power if sums.power else (0.0 if sums.error == 0 else float("inf"))
    cosine = sums.dot / norms if norms else (1.0 if sums.error == 0 else 0.0)
    worst = sums.worst if a.ndim else ()
    return Deviation(status, nmse, sums.largest, min(1.0, cosine), worst, *sums.n_nonfinite)
