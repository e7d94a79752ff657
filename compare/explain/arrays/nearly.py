"""Laws that hold but for a small part of the difference: what quantisation does beside a mistake hides none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .groups import index_of
from .pair import ArrayPair, Relation

_LEFT = 0.01  # of the difference: what a law may leave of it, to be told
_LARGEST = 1 << 22  # entries of an array for which one is looked for
_PER_NUMBER = 8  # entries, at least, for each number of a law


def nearly(pair: ArrayPair) -> Relation | None:
    """A factor or a summand, of the whole array or one for each index of an axis, that leaves little of the difference."""
    a, b = (np.asarray(x, np.float64) for x in (pair.a, pair.b))
    if not _PER_NUMBER < a.size <= _LARGEST or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    whole = float(np.linalg.norm(b - a))
    for law, made, n_numbers in _made(a, b, pair.words):
        left = float(np.linalg.norm(b - made))
        if n_numbers * _PER_NUMBER <= a.size and left <= _LEFT * whole:
            return Relation(
                f"nearly A's, {law}: {left / whole:.1g} of the difference is left", f"nearly A's, {law}", True
            )
    return None


def _made(a: np.ndarray, b: np.ndarray, words: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray, int]]:
    """Each law in words, what it makes of A's, and how many numbers it has; the simplest first."""
    for axis in (None, *range(a.ndim)):
        rest = tuple(n for n in range(a.ndim) if n != axis) if axis is not None else None
        n_numbers = 1 if axis is None else a.shape[axis]
        if n_numbers == 1 and axis is not None:
            continue
        one, each = ("a ", "") if axis is None else ("one ", f" per {index_of(words[axis])}")
        yield f"plus {one}constant{each}", a + np.mean(b - a, axis=rest, keepdims=True), n_numbers
        squares = np.sum(a * a, axis=rest, keepdims=True)
        with np.errstate(all="ignore"):
            factor = np.where(squares > 0, np.sum(a * b, axis=rest, keepdims=True) / squares, 1.0)
        yield f"times {one}factor{each}", a * factor, n_numbers
