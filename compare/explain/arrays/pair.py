"""Two arrays of one shape, made ready for asking what one is to the other: where they differ, and a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

ROUNDING = 1e-6
_WHOLE_NUMBERS = 1e-12
_AT_ONCE = 1 << 17
_SAMPLED = 4096


@dataclass(frozen=True, slots=True)
class Relation:
    """What one array is to another.

    `text` completes "the weight is ...". `key` is the text without the numbers that belong to this very array, so that
    the same fault of two blocks has one key; a number that is the fault (a factor of 0.5) stays. `telling`: whether it is
    a law (a permutation, a factor, a rounding), not just how many entries differ.
    """

    text: str
    key: str
    telling: bool


@dataclass(frozen=True, slots=True, eq=False)
class ArrayPair:
    """A's array and B's.

    a, b: contiguous, of one shape and one dtype, float32 or float64.
    words: one for each axis.
    rounding: two numbers whose difference is within this share of the larger one are equal.
    differs: where they are not equal. `n_differing`: at how many places.
    places: a sample of flat indices, places that differ among them. `left`, `right`: A's and B's numbers there, float64.
    cut: axes of which this is only a part, so that indices along them are not those of the whole array.
    """

    a: np.ndarray
    b: np.ndarray
    words: tuple[str, ...]
    rounding: float
    differs: np.ndarray
    n_differing: int
    places: np.ndarray
    left: np.ndarray
    right: np.ndarray
    cut: frozenset[int] = frozenset()


def array_pair(
    a: np.ndarray,
    b: np.ndarray,
    words: Sequence[str],
    cut: frozenset[int] = frozenset(),
    rounding: float | None = None,
) -> ArrayPair:
    """Both arrays, of one shape, with what every law asks first. `rounding` is that of their types if not given."""
    if rounding is None:
        rounding = _WHOLE_NUMBERS if _is_whole(a) and _is_whole(b) else ROUNDING
    a, b = _as_floats(a), _as_floats(b)
    dtype = np.result_type(a, b)
    a, b = np.ascontiguousarray(a, dtype).reshape(a.shape), np.ascontiguousarray(b, dtype).reshape(b.shape)
    differs = _differs(a, b, rounding)
    n_differing = int(np.count_nonzero(differs))
    places = _sampled(differs, n_differing)
    left, right = a.reshape(-1)[places].astype(np.float64), b.reshape(-1)[places].astype(np.float64)
    return ArrayPair(a, b, tuple(words), rounding, differs, n_differing, places, left, right, cut)


def close(x: np.ndarray, y: np.ndarray, rounding: float, scale: np.ndarray | None = None) -> np.ndarray:
    """Where two arrays are equal but for rounding; NaN equals NaN, and an infinity only itself.

    Args:
        scale: the size of the numbers that were rounded, where it is not the larger of the two (a sum may cancel).
    """
    with np.errstate(all="ignore"):
        if scale is None:
            scale = np.maximum(np.abs(x), np.abs(y))
        near = (np.abs(x - y) <= rounding * scale) & np.isfinite(scale) & np.isfinite(x) & np.isfinite(y)
        return np.asarray(near | (x == y) | ((x != x) & (y != y)))


def same(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two arrays hold the same numbers, NaN being itself."""
    equal = x == y
    return bool(np.all(equal)) or bool(np.all(equal | ((x != x) & (y != y))))


def holds_everywhere(pair: ArrayPair, test: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> bool:
    """Whether a test of A's numbers and B's is passed at every place; both come in float64, a part at a time."""
    if not np.all(test(pair.left, pair.right)):
        return False
    return all(np.all(test(x.astype(np.float64), y.astype(np.float64))) for x, y in parts(pair.a, pair.b))


def parts(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both arrays, flat, a part at a time."""
    a, b = a.reshape(-1), b.reshape(-1)
    for start in range(0, a.size, _AT_ONCE):
        yield a[start : start + _AT_ONCE], b[start : start + _AT_ONCE]


def _is_whole(array: np.ndarray) -> bool:
    return array.dtype.kind in "iub"


def _as_floats(array: np.ndarray) -> np.ndarray:
    if array.dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        return array
    return array.astype(np.float64 if array.dtype.kind in "iu" and array.dtype.itemsize > 2 else np.float32)


def _differs(a: np.ndarray, b: np.ndarray, rounding: float) -> np.ndarray:
    found = np.empty(a.size, np.bool_)
    start = 0
    for x, y in parts(a, b):
        with np.errstate(all="ignore"):
            size = np.maximum(np.abs(x), np.abs(y))
            size *= size.dtype.type(rounding)
            here = ~(np.abs(x - y) <= size)
        if not np.isfinite(size).all():
            here = ~close(x, y, rounding)
        elif x.dtype == np.float32 and np.any(here & (size < 1e-38)):  # the share itself is rounded
            here = ~close(x.astype(np.float64), y.astype(np.float64), rounding)
        found[start : start + x.size] = here
        start += x.size
    return found.reshape(a.shape)


def _sampled(differs: np.ndarray, n_differing: int) -> np.ndarray:
    if differs.size <= _SAMPLED:
        return np.arange(differs.size)
    rng = np.random.default_rng(0)
    places = rng.integers(0, differs.size, _SAMPLED)
    if n_differing * 8 < differs.size:
        known = np.flatnonzero(differs)
        chosen = known if len(known) <= _SAMPLED // 4 else known[rng.integers(0, len(known), _SAMPLED // 4)]
        places = np.concatenate([places, chosen])
    return np.unique(places)
