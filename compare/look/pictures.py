"""Values as small pictures and curves along the positions, for a report that has no model at hand."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np

from ...graphs.axes import canonical_axes, same_shape
from ...graphs.errors import ShapeError
from ..measure import hidden, unmasked
from ..result import Look, Picture

MOST_POSITIONS = 128
_ROWS, _COLUMNS = 16, 32
_MASKED, _NOT_FINITE = -127, -128
_DIGITS = 4


def look(value: np.ndarray, axes: Sequence[str], is_scores: bool) -> Look:
    """A canonical value's figures and picture."""
    seen = _seen(value, is_scores)
    finite = np.isfinite(value)
    numbers = value[finite & seen]
    figures = (np.min, np.max, np.mean, np.std)
    least, largest, mean, std = (_short(float(of(numbers))) if numbers.size else None for of in figures)
    picture = _picture(_by_row(value, axes), _by_row(seen, axes))
    return Look(value.shape, least, largest, mean, std, int(np.sum(~finite & seen)), picture)


def picture_of_difference(a: np.ndarray, b: np.ndarray, axes: Sequence[str], is_scores: bool) -> Picture | None:
    """B minus A; masked where either is; None where their shapes disagree."""
    try:
        a, b = same_shape(a, b)
    except ShapeError:
        return None
    seen = _seen(a, is_scores) & _seen(b, is_scores)
    words = _words(axes, a.ndim)
    return _picture(_by_row(_apart(a, b), words), _by_row(seen, words))


def along_positions(a: np.ndarray, b: np.ndarray, axes: Sequence[str], is_scores: bool) -> tuple[float | None, ...]:
    """|B - A| / |A| at each position, `MOST_POSITIONS` at most: of more, the largest of each few in a row."""
    try:
        a, b = same_shape(np.asarray(a, np.float64), np.asarray(b, np.float64))
    except ShapeError:
        return ()
    words = _words(axes, a.ndim)
    if not {"token", "slot"} & set(words):
        return ()
    seen = _seen(a, is_scores) & _seen(b, is_scores)
    far, size = (_norms(_by_row(np.where(seen, one, 0.0), words)) for one in (_apart(a, b), a))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(far == 0, 0.0, far / size)
    each = -(-len(relative) // MOST_POSITIONS)
    largest = [float(np.max(relative[n : n + each])) for n in range(0, len(relative), each)]
    return tuple(_short(one) if np.isfinite(one) else None for one in largest)


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(a == b, 0.0, b - a)  # two infinities of one sign are equal


def _norms(rows: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum(np.square(rows, dtype=np.float64), axis=1))


def _seen(value: np.ndarray, is_scores: bool) -> np.ndarray:
    if is_scores:
        return unmasked(np.where(np.isnan(value), -np.inf, value)) | np.isnan(value)
    low = hidden(value)
    return np.ones(value.shape, bool) if low is None else ~low


def _words(axes: Sequence[str], n: int) -> tuple[str, ...]:
    """The words of a canonical value of n dimensions: a batch of one has lost its own, heads may be merged."""
    words = canonical_axes(axes)
    without = tuple(word for word in words if word != "batch")
    return words if len(words) == n else without if len(without) == n else without[:n]


def _by_row(value: np.ndarray, axes: Sequence[str]) -> np.ndarray:
    """The value as a matrix: a row for each position where it has them, else for its first axis."""
    if value.ndim == 0 or value.size == 0:
        return value.reshape(value.size, 1)
    words = _words(axes, value.ndim)
    place = next((n for n, word in enumerate(words) if word in ("token", "slot")), 0)
    return np.moveaxis(value, place, 0).reshape(value.shape[place], -1)


def _picture(rows: np.ndarray, seen: np.ndarray) -> Picture:
    if rows.size == 0:
        return Picture(0, 0, 0.0, "")
    starts = tuple(_starts(n, most) for n, most in zip(rows.shape, (_ROWS, _COLUMNS), strict=True))
    finite = np.isfinite(rows)
    numbers = np.where(finite & seen, rows, 0.0)
    high, low = _binned(np.maximum, numbers, starts), _binned(np.minimum, numbers, starts)
    farthest = np.where(high >= -low, high, low)
    largest = float(np.max(np.abs(farthest)))
    cells = np.round(farthest / largest * 127) if largest else np.zeros(farthest.shape)
    cells = np.maximum(cells, _MASKED + 1).astype(np.int8)
    cells[~_binned(np.logical_or, seen, starts)] = _MASKED
    cells[_binned(np.logical_or, ~finite & seen, starts)] = _NOT_FINITE
    n_rows, n_columns = cells.shape
    return Picture(n_rows, n_columns, _short(largest), base64.b64encode(cells.tobytes()).decode())


def _starts(n: int, most: int) -> np.ndarray:
    """Where each of at most so many even parts of n begins."""
    parts = min(n, most)
    return np.arange(parts) * n // parts


def _binned(reduce: np.ufunc, values: np.ndarray, starts: tuple[np.ndarray, ...]) -> np.ndarray:
    return reduce.reduceat(reduce.reduceat(values, starts[0], axis=0), starts[1], axis=1)


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
