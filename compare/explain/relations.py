"""What B's value is to A's, where no convention has a name for it: a factor, a permutation, a shift, a few rows only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from ...graphs.axes import canonical_axes, same_shape, unbatched
from ...graphs.errors import ShapeError
from ..judge.locate import Local, is_scores
from ..measure import both_unmasked, comparable, distance, hidden
from ..sides.side import Side
from .masks import mask_difference

Meets = Callable[[np.ndarray, np.ndarray], bool]
_FEW = 8
_FEWEST_PER_INDEX = 4
_EQUAL_BUT_FOR, _THERE = "equal but for ", ", there: "


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
    if whole:
        return whole
    parts = tuple(_of_a_part(a, b, axes, meets))
    return tuple(filter(is_law, parts)) or tuple(_per_index(a, b, axes, meets)) or parts


def is_law(relation: str) -> bool:
    """Whether a relation says what B's value is, not only where it differs."""
    return not relation.startswith(_EQUAL_BUT_FOR) or _THERE in relation


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


def _per_index(a: np.ndarray, b: np.ndarray, axes: Sequence[str], meets: Meets) -> Iterator[str]:
    """A factor, or an offset, for each index of one axis, where each holds for several entries."""
    for axis, word in enumerate(axes):
        others = tuple(other for other in range(a.ndim) if other != axis)
        if a.size < _FEWEST_PER_INDEX * a.shape[axis] or a.shape[axis] < 2:
            continue
        power = np.sum(a * a, others, keepdims=True)
        factors = np.sum(a * b, others, keepdims=True) / np.where(power == 0, 1.0, power)
        if meets(a * factors, b):
            yield f"A's times one factor per {word}, {factors.min():.5g} .. {factors.max():.5g}"
        offsets = np.mean(b - a, others, keepdims=True)
        if meets(a + offsets, b):
            yield f"A's plus one constant per {word}, {offsets.min():.5g} .. {offsets.max():.5g}"


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
        words = [word, *(w for w in axes if w != word)]
        within = next(_of_the_whole(left[differ], right[differ], words, meets), "")
        named = f"{_THERE}{within}" if within else ""
        yield f"{_EQUAL_BUT_FOR}{word} {_shortened(differ)} of {n}{named}"


def _shortened(numbers: Sequence[int]) -> str:
    first = ", ".join(map(str, numbers[:_FEW]))
    return first + (f", ... ({len(numbers)} in all)" if len(numbers) > _FEW else "")


def _aligned(local: Local, a: Side) -> tuple[np.ndarray, np.ndarray] | None:
    """Both outputs without a batch of one, in one shape; None where they have none in common."""
    if local.a64 is None or local.b64 is None:
        return None
    axes = a.taps[local.tap].axes
    try:
        return same_shape(unbatched(local.a64, axes), unbatched(local.b64, axes))
    except ShapeError:
        return None


def masks_of(local: Local, a: Side) -> tuple[str, ...]:
    """What each side masks, where that is not the same."""
    found = _aligned(local, a)
    if found is None:
        return ()
    left, right = found
    left_masked, right_masked = _masked(left, right, is_scores(local.tap))
    if left.ndim < 2 or not (left_masked.any() or right_masked.any()):
        return ()
    n = a.n_others if is_scores(local.tap) else 0
    others = left_masked[..., left.shape[-1] - n :], right_masked[..., left.shape[-1] - n :]
    left_masked, right_masked = (masked[..., : masked.shape[-1] - n] for masked in (left_masked, right_masked))
    left, right = (values[..., : values.shape[-1] - n] for values in (left, right))
    said = [*_of_others(*others), mask_difference(left, right, left_masked, right_masked)]
    told = "; ".join(text for text in said if text is not None)
    return (told,) if told else ()


def _of_others(left_masked: np.ndarray, right_masked: np.ndarray) -> Iterator[str]:
    """What is said of columns that are no position, where one side alone attends to them."""
    sees_a, sees_b = not left_masked.all(), not right_masked.all()
    if sees_a != sees_b:
        one, other = "BA" if sees_b else "AB"
        yield f"{one} attends to what is no position, padding or slots that are not written, where {other} does not"


def _masked(left: np.ndarray, right: np.ndarray, are_scores: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which entries of A and of B are masked."""
    if are_scores:
        seen_left, seen_right = both_unmasked(left, right)
        return ~seen_left, ~seen_right
    low_left, low_right = (np.isneginf(one) if (low := hidden(one)) is None else low for one in (left, right))
    return low_left, low_right


def relations_of(local: Local, a: Side) -> tuple[str, ...]:
    """What B's value is to A's; where only masked entries differ, what each side masks, and nothing else."""
    found = _aligned(local, a)
    if found is None:
        return ()
    left, right = found
    words = [word for word in canonical_axes(a.taps[local.tap].axes) if word != "batch"]
    if left.ndim != len(words):
        words = [*words[: left.ndim - 1], "channel"]
    moved = _moved(left, right, a.ends[-1], local) if "slot" in words and a.ends else None
    if moved is not None:
        return (moved,)
    if not is_scores(local.tap):
        return _plain_relations(left, right, words, local)
    masks = masks_of(local, a)
    left, right, _ = comparable(left, right, True)
    is_only_masks = distance(left, right, False) <= local.reach
    return masks if is_only_masks else (*masks, *_plain_relations(left, right, words, local))


def _moved(left: np.ndarray, right: np.ndarray, end: int, local: Local) -> str | None:
    """That a cache's rows, as they are in the end, stand some slots further than A's: behind rows that are of no position."""
    left, right = left[-end:], right[-end:]
    for n in range(1, end - 1):
        if distance(left[:-n], right[n:], False) <= local.reach:
            slots, rows = ("slot", "stands a row") if n == 1 else ("slots", "stand rows")
            return f"A's, moved on by {n} {slots}; before it {rows} of no position, not written or of an earlier prompt"
    return None


def _plain_relations(left: np.ndarray, right: np.ndarray, words: Sequence[str], local: Local) -> tuple[str, ...]:
    def meets(one: np.ndarray, other: np.ndarray) -> bool:
        return distance(one, other, False) <= local.reach

    return relations(left, right, words, meets)
