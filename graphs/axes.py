"""Axes: every tap's array brought to one order of dimensions, and back to the order of a graph's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import ShapeError

_ORDER = {"batch": 0, "token": 2, "slot": 2, "head": 3, "key": 4, "channel": 5, "vocab": 5}
_UNKNOWN = 6


def canonical_axes(axes: Sequence[str]) -> tuple[str, ...]:
    """The one order: batch, token (of a cache: slot), head, channel; for scores head, token, key. Words of no meaning here stay behind."""
    scores = "key" in axes
    return tuple(sorted(axes, key=lambda word: 1 if scores and word == "head" else _ORDER.get(word, _UNKNOWN)))


def to_canonical(array: np.ndarray, axes: Sequence[str]) -> np.ndarray:
    """The array with its dimensions in canonical order; a batch of one loses its dimension.

    Raises:
        ShapeError: the axes do not fit the array.
    """
    if array.ndim != len(axes) or len(set(axes)) != len(axes):
        raise ShapeError(f"axes {' '.join(axes)!r} do not fit a value of shape {list(array.shape)}")
    order = canonical_axes(axes)
    moved = np.transpose(array, [axes.index(word) for word in order])
    return moved[0] if order[:1] == ("batch",) and moved.shape[0] == 1 else moved


def from_canonical(value: np.ndarray, axes: Sequence[str], shape: Sequence[int]) -> np.ndarray:
    """A canonical array in a graph's own layout: heads split or merged as `shape` has them, a batch repeated.

    Args:
        value: canonical, from whichever graph.
        axes, shape: the layout to give it: a tap's axes, and the shape that it has in its graph.
    Raises:
        ShapeError: the value has other elements than that layout holds.
    """
    order = canonical_axes(axes)
    wanted = [shape[axes.index(word)] for word in order]
    if value.size == int(np.prod(wanted)):
        moved = value.reshape(wanted)
    elif order[:1] == ("batch",) and value.size == int(np.prod(wanted[1:])):
        moved = np.broadcast_to(value.reshape(wanted[1:]), wanted)
    elif order[:1] == ("batch",) and wanted[0] == 1 and value.size == value.shape[0] * int(np.prod(wanted)):
        moved = value[0].reshape(wanted)  # every entry of the batch is the same input
    else:
        raise ShapeError(f"a value of shape {list(value.shape)} does not fit {' '.join(axes)!r} of {list(shape)}")
    return np.asarray(np.transpose(moved, [order.index(word) for word in axes]), order="C")


def same_shape(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two canonical arrays of one tap in one shape: heads merged where one side has them merged, a batch repeated.

    Raises:
        ShapeError: they hold other numbers of elements.
    """
    if left.shape == right.shape:
        return left, right
    if left.size == right.size and left.shape[0] == right.shape[0]:
        narrow = left if left.ndim <= right.ndim else right
        return left.reshape(narrow.shape), right.reshape(narrow.shape)
    for many, one, swapped in ((left, right, False), (right, left, True)):
        if many.ndim > 1 and one.ndim and many.shape[1] == one.shape[0] and many.size == one.size * many.shape[0]:
            repeated = np.broadcast_to(one.reshape(many.shape[1:]), many.shape)
            return (repeated, many) if swapped else (many, repeated)
    raise ShapeError(f"{list(left.shape)} against {list(right.shape)}")


def of_first_tokens(words: Sequence[str], shape: Sequence[int], n_tokens: int, n: int) -> tuple[slice, ...]:
    """Where in an array of this shape the first `n` of its `n_tokens` tokens stand; `words`: what each dimension is.

    Raises:
        ShapeError: a dimension that should have all tokens has others.
    """
    of_tokens = [word in ("token", "key") for word in words]
    if any(size != n_tokens for size, is_of in zip(shape, of_tokens, strict=True) if is_of):
        raise ShapeError(f"{' '.join(words)!r} of {list(shape)} has not {n_tokens} tokens")
    return tuple(slice(n) if is_of else slice(None) for is_of in of_tokens)


def unbatched(value: np.ndarray, axes: Sequence[str]) -> np.ndarray:
    """A canonical value without its batch: the first of it."""
    return value[0] if "batch" in axes and value.ndim == len(axes) else value
