"""Whether two arrays hold the same numbers, and how one must be laid out to be the other."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations, permutations

import numpy as np

from ..measure import hidden, may_hide, squared

Plan = tuple[tuple[str, tuple[int, ...]], ...]  # ("reshape", shape) or ("transpose", order), one after the other
MASK_SIZE = 1e30  # whatever is larger stands for infinity: float32's lowest number is a mask as -inf is
_LARGEST, _MOST_AXES, _PROBED = 1 << 22, 5, 64
AT_ONCE = 1 << 15  # elements that are compared at a time: what a core keeps near it
_MOST_ORDERED = 4  # axes of which every order is tried


def plain(array: np.ndarray) -> np.ndarray:
    """Floats in float64, with what stands for infinity, or is a mask, as infinity; anything else as it is."""
    if array.dtype.kind in "biu":
        return array
    wide = np.asarray(array, np.float64)
    lowest, highest = float(np.min(wide, initial=0.0)), float(np.max(wide, initial=0.0))
    low = hidden(wide) if may_hide(lowest) else None
    if low is None and max(-lowest, highest) <= MASK_SIZE:
        return wide
    large = np.abs(wide) > MASK_SIZE
    if low is not None:
        large |= low
    return np.where(large, np.copysign(np.inf, wide), wide)


def is_close(a: np.ndarray, b: np.ndarray, nearness: float) -> bool:
    """Whether two plain arrays of one shape are equal: whole numbers exactly, floats relative to their norms."""
    if a.shape != b.shape:
        return False
    if a.dtype.kind in "biu" or b.dtype.kind in "biu":
        return a.dtype.kind == b.dtype.kind and bool(np.array_equal(a, b))
    error, size = _error_and_size(a.ravel(), b.ravel())
    if not np.isfinite(error + size):
        finite = np.isfinite(a)
        if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return False
        error, size = _error_and_size(a[finite], b[finite])
    return error <= nearness**2 * size


def _error_and_size(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The sum of squares of the differences between two flat arrays, and the larger one of their own."""
    error = size = other = 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, a.size, AT_ONCE):
            left, right = a[start : start + AT_ONCE], b[start : start + AT_ONCE]
            error, size, other = error + squared(left - right), size + squared(left), other + squared(right)
    return error, max(size, other)


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its ones."""
    return tuple(size for size in shape if size != 1)


def by_sizes(shape: tuple[int, ...], other: tuple[int, ...]) -> list[Plan]:
    """How an array of one shape may be laid out in another one, told by the sizes of its axes. Where two are of one size, those
    ways that leave the last axis the last: it has the channels, and the others may be heads and as many tokens.
    """
    ours, theirs = squeezed(shape), squeezed(other)
    if sorted(ours) != sorted(theirs) or len(ours) > _MOST_AXES:
        return []
    is_told = len(set(ours)) == len(ours)
    return [
        _turned(shape, ours, order, other)
        for order in permutations(range(len(ours)))
        if tuple(ours[axis] for axis in order) == theirs and (is_told or order[-1] == len(ours) - 1)
    ]


def layouts(shape: tuple[int, ...], other: tuple[int, ...]) -> list[Plan]:
    """Every way in which an array of one shape may be laid out in another one, where the sizes of its axes do not tell: its
    axes in some order, or those of the other; none where there is but one way.
    """
    ours, theirs = squeezed(shape), squeezed(other)
    is_told = sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours)
    if is_told or max(len(ours), len(theirs)) > _MOST_ORDERED:
        return []
    found = [_turned(shape, ours, order, other) for order in permutations(range(len(ours)))]
    for order in permutations(range(len(theirs))):
        turned = tuple(theirs[axis] for axis in order)
        found.append(_turned(shape, turned, tuple(int(axis) for axis in np.argsort(order)), other))
    return list(dict.fromkeys(found))


def _turned(shape: tuple[int, ...], axes: tuple[int, ...], order: tuple[int, ...], other: tuple[int, ...]) -> Plan:
    """Seen as these axes, in this order, and then in the other shape."""
    if order == tuple(range(len(axes))):
        return () if shape == other else (("reshape", other),)
    return (("reshape", axes), ("transpose", order), ("reshape", other))


def arrangement(a: np.ndarray, b: np.ndarray, nearness: float) -> Plan | None:
    """How plain `a` becomes `b` by moving its numbers; None where it does not.

    The same shape in another order is a difference, not a layout; so are two axes of one size that changed places.
    """
    if is_close(a, b, nearness):
        return ()
    if a.shape == b.shape or a.size != b.size or a.size > _LARGEST:
        return None
    ours, theirs, known = squeezed(a.shape), squeezed(b.shape), _Known(b, a, nearness)
    if known.is_as(a.ravel()):
        return (("reshape", b.shape),)
    if ours == theirs:
        return None
    order = _order(a.reshape(ours), known)
    if order is not None:
        return _turned(a.shape, ours, order, b.shape)
    order = _order(b.reshape(theirs), _Known(a, b, nearness))
    if order is None:
        return None
    turned = tuple(theirs[axis] for axis in order)
    back = tuple(int(axis) for axis in np.argsort(order))
    return _turned(a.shape, turned, back, b.shape)


class _Known:
    """A plain array with which others of as many numbers are compared, whatever their shape: a few of their entries first."""

    def __init__(self, array: np.ndarray, other: np.ndarray, nearness: float) -> None:
        self._flat, self._nearness = array.ravel(), nearness
        self._probed = _spread(array.size)
        self._some = self._flat[self._probed]
        self._most = 0.0  # the error that all entries may have together
        if array.dtype.kind == other.dtype.kind == "f":
            self._most = nearness**2 * max(squared(array), squared(other))

    def is_as(self, other: np.ndarray) -> bool:
        """Whether the other one has the same numbers in the same order."""
        some = other[np.unravel_index(self._probed, other.shape)]
        with np.errstate(invalid="ignore"):
            is_far = squared(np.subtract(some, self._some, dtype=np.float64)) > self._most
        return not is_far and is_close(other.ravel(), self._flat, self._nearness)


@lru_cache
def _spread(n: int) -> np.ndarray:
    """Places all over so many."""
    return np.linspace(0, n - 1, _PROBED).astype(int)


def _order(a: np.ndarray, wanted: _Known) -> tuple[int, ...] | None:
    """The order of `a`'s axes in which it reads as `wanted` does, but for the shape; equal sizes keep their order."""
    if a.ndim > _MOST_AXES:
        return None
    for order in permutations(range(a.ndim)):
        swapped = any(first > second and a.shape[first] == a.shape[second] for first, second in combinations(order, 2))
        if not swapped and order != tuple(range(a.ndim)) and wanted.is_as(a.transpose(order)):
            return order
    return None


def arranged(array: np.ndarray, plan: Plan) -> np.ndarray:
    """An array laid out as a plan says."""
    for what, argument in plan:
        array = array.reshape(argument) if what == "reshape" else array.transpose(argument)
    return array
