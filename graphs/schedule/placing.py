"""Values of steps put together by position, and values by position taken apart into steps again.

By position, a value has its tap's canonical axes. Along `token` stand all positions; along `key` too, where a step that
has not come so far has -Inf (scores) or 0, and behind them, where a side attends to any, the columns that are no position:
padding, and slots that are not written. A cache has, along `slot`, its rows for the end of each step, one after the other:
0 to the first end, 0 to the second, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..axes import canonical_axes
from ..errors import ShapeError
from ..stages import SCORES, split_tap_name
from .steps import Step

Own = tuple[tuple[str, ...], np.ndarray]  # a tap's axes and its value


def assembled(
    own: Sequence[np.ndarray],
    axes: Sequence[str],
    steps: Sequence[Step],
    ends: Sequence[int],
    missing: float,
    n_others: int = 0,
) -> np.ndarray:
    """The value of a tap by position, canonical, without a batch.

    Args:
        own: its value in each step, in its own layout.
        ends: at which positions a cache is looked at; of a step that goes further, the rows before.
        missing: what stands for keys that a step does not have.
        n_others: how many columns that are no position stand behind the keys.
    Raises:
        ShapeError: a value has fewer places than its step has columns.
    """
    words = [word for word in canonical_axes(axes) if word != "batch"]
    parts = [in_order(value, axes, step) for value, step in zip(own, steps, strict=True)]
    if "slot" in words:
        place = words.index("slot")
        rows = (_rows(_step_at(parts, steps, end), place, end) for end in ends)
        return np.concatenate(list(rows), axis=place)
    if "token" not in words:
        return parts[-1]
    place = words.index("token")
    parts = [_taken(part, place, step.own) for part, step in zip(parts, steps, strict=True)]
    if "key" in words:
        key, sizes = words.index("key"), (steps[-1].end, n_others)
        parts = [_with_keys(part, key, step, sizes, missing) for part, step in zip(parts, steps, strict=True)]
    return np.concatenate(parts, axis=place)


def missing_of(tap: str) -> float:
    """What stands for the keys that a step does not have, in a tap that has keys."""
    return -np.inf if split_tap_name(tap)[1] == SCORES else 0.0


def by_position(values: Sequence[Mapping[str, Own]], steps: Sequence[Step]) -> dict[str, Own]:
    """The taps of all steps put together, caches as they are at the end of each; with the axes that the values then have.

    Args:
        values: of each step, each tap's axes and its value in the runtime's own layout.
    """
    ends = [step.end for step in steps]
    made = {}
    for name, (axes, _) in values[0].items():
        words = tuple(word for word in canonical_axes(axes) if word != "batch")
        made[name] = words, assembled([own[name][1] for own in values], axes, steps, ends, missing_of(name))
    return made


def looked_at(value: np.ndarray, ends: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
    """A cache's rows for the ends of some steps, as rows for other ends: those of the next step that is known.

    Raises:
        ShapeError: nothing is known of the last of them.
    """
    if tuple(ends) == tuple(wanted):
        return value
    if wanted[-1] > ends[-1]:
        raise ShapeError(f"a cache of {ends[-1]} rows, where {wanted[-1]} are wanted")
    starts = {end: sum(ends[:n]) for n, end in enumerate(ends)}
    known = (next(end for end in ends if end >= look) for look in wanted)
    return np.concatenate([value[starts[end] : starts[end] + look] for end, look in zip(known, wanted, strict=True)])


def apart(value: np.ndarray, axes: Sequence[str], step: Step, ends: Sequence[int], like: np.ndarray) -> np.ndarray:
    """What one step has of a value by position, in its own layout; what is no position is as in `like`.

    Args:
        value: by position, from whichever side: heads split or merged.
        like: the value that the step has itself.
    Raises:
        ShapeError: the value has other places than the step.
    """
    order = [word for word in canonical_axes(axes) if word != "batch"]
    made = np.array(in_order(like, axes, step), value.dtype if value.dtype.kind == "f" else like.dtype)
    if "slot" in order:
        start = sum(end for end in ends if end < step.end)
        columns = step.keys[step.keys < made.shape[order.index("slot")]]
        _put(made, order.index("slot"), columns, value[start : start + len(columns)])
    elif "key" in order:
        key, token, n_positions = order.index("key"), order.index("token"), ends[-1]
        columns = step.keys[step.keys < made.shape[key]]
        part = np.take(np.take(value, range(step.start, step.end), token), range(len(columns)), key)
        rows = np.take(made, step.own, token)
        _put(rows, key, columns, part)
        others = _others(made.shape[key], step)[: value.shape[key] - n_positions]
        beyond = range(n_positions, n_positions + len(others))
        _put(rows, key, others, np.take(np.take(value, range(step.start, step.end), token), beyond, key))
        _put(made, token, step.own, rows)
    elif "token" in order:
        _put(made, order.index("token"), step.own, value[step.start : step.end])
    else:
        made = value.reshape(made.shape) if value.size == made.size else made
    return in_own_layout(made, axes, step, like)


def in_order(own: np.ndarray, axes: Sequence[str], step: Step) -> np.ndarray:
    """A step's value with its axes in canonical order, of the prompt's row alone: a view."""
    if own.ndim != len(axes):
        raise ShapeError(f"axes {' '.join(axes)!r} do not fit a value of shape {list(own.shape)}")
    if "batch" in axes:
        place = list(axes).index("batch")
        own = np.take(own, step.row if own.shape[place] > 1 else 0, place)
        axes = [word for word in axes if word != "batch"]
    return np.transpose(own, [list(axes).index(word) for word in canonical_axes(axes)])


def in_own_layout(made: np.ndarray, axes: Sequence[str], step: Step, like: np.ndarray) -> np.ndarray:
    """The way back, into a copy of the step's own value, whose other rows stay: heads split or merged as they are there.

    Raises:
        ShapeError: it has other places.
    """
    shape = in_order(like, axes, step).shape
    if made.size != int(np.prod(shape)):
        raise ShapeError(f"a value of shape {list(made.shape)} does not fit {list(shape)}")
    made = made.reshape(shape)
    words = [word for word in axes if word != "batch"]
    order = canonical_axes(words)
    own = np.transpose(made, [order.index(word) for word in words])
    if "batch" not in axes:
        return np.asarray(own, order="C")
    place = list(axes).index("batch")
    whole = np.array(like, made.dtype)
    whole[(slice(None),) * place + (step.row if like.shape[place] > 1 else 0,)] = own
    return whole


def _step_at(parts: Sequence[np.ndarray], steps: Sequence[Step], end: int) -> np.ndarray:
    """The cache in the step that has the last position before `end`, its columns those of the positions."""
    part, step = next((part, step) for part, step in zip(parts, steps, strict=True) if step.end >= end)
    n_have = int(np.sum(step.keys < len(part)))
    return part[step.keys[:n_have]]


def _rows(cache: np.ndarray, place: int, end: int) -> np.ndarray:
    """The first rows; zeros for what the cache does not have."""
    assert place == 0
    rows = cache[:end]
    lacking = end - len(rows)
    return np.concatenate([rows, np.zeros((lacking, *rows.shape[1:]), rows.dtype)]) if lacking else rows


def _taken(part: np.ndarray, place: int, columns: np.ndarray) -> np.ndarray:
    if part.shape[place] <= columns[-1]:
        raise ShapeError(f"{part.shape[place]} tokens, where the step has {columns[-1] + 1}")
    return np.take(part, columns, place)


def _with_keys(part: np.ndarray, place: int, step: Step, sizes: tuple[int, int], missing: float) -> np.ndarray:
    """A step's scores or probabilities for the keys by position, and behind them for the columns that are no position."""
    columns = step.keys[step.keys < part.shape[place]], _others(part.shape[place], step)[: sizes[1]]
    kept = []
    for of, size in zip(columns, sizes, strict=True):
        shape = list(part.shape)
        shape[place] = size - len(of)
        kept += [np.take(part, of, place), np.full(shape, missing, part.dtype)]
    return np.concatenate(kept, axis=place)


def _others(n_columns: int, step: Step) -> np.ndarray:
    """The columns of a step's keys that are no position."""
    return np.setdiff1d(np.arange(n_columns), step.keys)


def n_others_seen(own: Sequence[np.ndarray], axes: Sequence[str], steps: Sequence[Step]) -> int:
    """How many columns that are no position a runtime's probabilities have, where it attends to any of them; else 0."""
    words = [word for word in canonical_axes(axes) if word != "batch"]
    token, key = words.index("token"), words.index("key")
    counts = [0]
    is_seen = False
    for value, step in zip(own, steps, strict=True):
        part = np.take(in_order(value, axes, step), step.own, token)
        others = _others(part.shape[key], step)
        counts.append(len(others))
        is_seen |= bool(np.any(np.take(part, others, key)))
    return max(counts) if is_seen else 0


def _put(made: np.ndarray, place: int, columns: np.ndarray, part: np.ndarray) -> None:
    """Put the part at these columns of an axis, its heads split or merged as they are there."""
    at = (slice(None),) * place + (columns,)
    wanted = made[at].shape
    if int(np.prod(wanted)) != part.size:
        raise ShapeError(f"a value of shape {list(part.shape)} does not fit {list(wanted)}")
    made[at] = part.reshape(wanted)
