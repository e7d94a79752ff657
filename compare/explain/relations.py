"""What B's value is to A's, where no convention has a name for it: a factor, a permutation, a shift, a few rows only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

Meets = Callable[[np.ndarray, np.ndarray], bool]
_FEW = 8


def relations(a: np.ndarray, b: np.ndarray, axes: Sequence[str], meets: Meets) -> tuple[str, ...]:
    """Every relation that holds, in words; the most telling first.

    Args:
        a, b: float64, canonical and of one shape.
        axes: a word for each dimension.
        meets: whether two arrays are equal but for rounding.
    """
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return tuple(_non_finite(a, b))
    whole = tuple(_of_the_whole(a, b, axes, meets))
    return whole or tuple(_of_a_part(a, b, axes, meets))


def _non_finite(a: np.ndarray, b: np.ndarray) -> Iterator[str]:
    if a.shape != b.shape:
        yield f"another shape: {list(b.shape)} for {list(a.shape)}"
    for name, test in (("NaN", np.isnan), ("Inf", np.isinf)):
        left, right = int(test(a).sum()), int(test(b).sum())
        if left != right:
            yield f"{right} {name} for {left}"


def _of_the_whole(a: np.ndarray, b: np.ndarray, axes: Sequence[str], meets: Meets) -> Iterator[str]:
    if not b.any() and a.any():
        yield "zero everywhere"
        return
    factor = _factor(a, b)
    if factor is not None and meets(a * factor, b):
        yield "the sign is turned" if factor == -1 else f"A's times a constant factor, {factor:.7g}"
    offset = float(np.mean(b - a))
    if meets(a + offset, b):
        yield f"A's plus a constant, {offset:.7g}"
    yield from _shifts(a, b, axes, meets)
    for axis, word in enumerate(axes):
        order = _permutation(a, b, axis)
        if order is not None and meets(np.take(a, order, axis), b):
            yield f"a permutation of A's along {word}: {_shortened(order)}"
    yield from _transposes(a, b, axes, meets)
    limit = float(np.abs(b).max())
    if meets(np.clip(a, -limit, limit), b):
        yield f"A's, clipped to ±{limit:.7g}"
    low, high = float(b.min()), float(b.max())
    if meets(np.clip(a, low, high), b) and -low != high:
        yield f"A's, clipped to {low:.7g} .. {high:.7g}"


def _factor(a: np.ndarray, b: np.ndarray) -> float | None:
    power = float(np.sum(a * a))
    factor = float(np.sum(a * b)) / power if power else None
    return -1.0 if factor is not None and abs(factor + 1) < 1e-12 else factor


def _shifts(a: np.ndarray, b: np.ndarray, axes: Sequence[str], meets: Meets) -> Iterator[str]:
    for axis, word in enumerate(axes):
        n = a.shape[axis]
        for step in (1, -1):
            if n < 3:
                continue
            source = np.take(a, range(n - 1) if step == 1 else range(1, n), axis)
            target = np.take(b, range(1, n) if step == 1 else range(n - 1), axis)
            if meets(source, target):
                yield f"a shift by one {'position' if word == 'token' else word} of A's: index i holds A's {'i-1' if step == 1 else 'i+1'}"


def _permutation(a: np.ndarray, b: np.ndarray, axis: int) -> list[int] | None:
    """The order in which A's slices along an axis stand in B, if B's are A's slices in another order."""
    n = a.shape[axis]
    if n < 2:
        return None
    left = np.moveaxis(a, axis, 0).reshape(n, -1)
    right = np.moveaxis(b, axis, 0).reshape(n, -1)
    probe = np.random.default_rng(0).standard_normal(left.shape[1])
    keys, wanted = left @ probe, right @ probe
    order = np.argsort(keys)[np.argsort(np.argsort(wanted))]
    return None if np.array_equal(order, np.arange(n)) else [int(i) for i in order]


def _transposes(a: np.ndarray, b: np.ndarray, axes: Sequence[str], meets: Meets) -> Iterator[str]:
    for first in range(a.ndim):
        for second in range(first + 1, a.ndim):
            if a.shape[first] == a.shape[second] and meets(np.swapaxes(a, first, second), b):
                yield f"A's, transposed over {axes[first]} and {axes[second]}"
    for first, second in pairwise(range(a.ndim)):
        other = np.swapaxes(a, first, second)
        if other.shape != a.shape and meets(other.reshape(a.shape), b):
            yield f"A's, read in the wrong order over {axes[first]} and {axes[second]} (a reshape without its transpose)"


def _of_a_part(a: np.ndarray, b: np.ndarray, axes: Sequence[str], meets: Meets) -> Iterator[str]:
    for axis, word in enumerate(axes):
        n = a.shape[axis]
        left, right = np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0)
        differ = [i for i in range(n) if not meets(left[i], right[i])]
        if not 0 < len(differ) <= n // 2:
            continue
        inner = [w for w in axes if w != word]
        within = set.intersection(*({*_of_the_whole(left[i], right[i], inner, meets)} for i in differ[:_FEW]))
        named = f", there: {sorted(within)[0]}" if within else ""
        yield f"equal but for {word} {_shortened(differ)} of {n}{named}"


def _shortened(numbers: Sequence[int]) -> str:
    first = ", ".join(map(str, numbers[:_FEW]))
    return first + (f", ... ({len(numbers)} in all)" if len(numbers) > _FEW else "")
