"""Values as small pictures and curves along the positions, for a report that has no model at hand."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

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
    numbers, n_nonfinite = _numbers(value, seen)
    figures = (np.min, np.max, np.mean, np.std)
    least, largest, mean, std = (_short(float(of(numbers))) if numbers.size else None for of in figures)
    return Look(value.shape, least, largest, mean, std, n_nonfinite, _picture(value, seen, axes))


def unseen(value: np.ndarray) -> Look:
    """The look of a value that nobody looks at: its shape."""
    return Look(value.shape, None, None, None, None, 0, Picture(0, 0, 0.0, ""))


def _numbers(value: np.ndarray, seen: np.ndarray | None) -> tuple[np.ndarray, int]:
    """The entries that are numbers, and how many are not finite; the value itself where all are."""
    if seen is None and np.isfinite(np.sum(value)):
        return value, 0
    seen = np.ones(value.shape, bool) if seen is None else seen
    finite = np.isfinite(value)
    return value[finite & seen], int(np.sum(~finite & seen))


def picture_of_difference(a: np.ndarray, b: np.ndarray, axes: Sequence[str], is_scores: bool) -> Picture | None:
    """B minus A; masked where either is; None where their shapes disagree."""
    try:
        a, b = same_shape(a, b)
    except ShapeError:
        return None
    return _picture(_apart(a, b), _both(_seen(a, is_scores), _seen(b, is_scores)), _words(axes, a.ndim))


def along_positions(a: np.ndarray, b: np.ndarray, axes: Sequence[str], is_scores: bool) -> tuple[float | None, ...]:
    """|B - A| / |A| at each position, `MOST_POSITIONS` at most: of more, the largest of each few in a row."""
    try:
        a, b = same_shape(a, b)
    except ShapeError:
        return ()
    words = _words(axes, a.ndim)
    if not {"token", "slot"} & set(words):
        return ()
    seen = _both(_seen(a, is_scores), _seen(b, is_scores))
    far, size = (_norms(_by_row(one if seen is None else np.where(seen, one, 0.0), words)) for one in (_apart(a, b), a))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(far == 0, 0.0, far / size)
    each = -(-len(relative) // MOST_POSITIONS)
    largest = [float(np.max(relative[n : n + each])) for n in range(0, len(relative), each)]
    return tuple(_short(one) if np.isfinite(one) else None for one in largest)


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        apart = b - a
    if np.isfinite(np.sum(apart)):
        return apart
    return np.where(a == b, 0.0, apart)  # two infinities of one sign are equal


def _norms(rows: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))


def _seen(value: np.ndarray, is_scores: bool) -> np.ndarray | None:
    """Which entries are no mask; None where none is one."""
    if is_scores:
        return unmasked(np.where(np.isnan(value), -np.inf, value)) | np.isnan(value)
    low = hidden(value)
    return None if low is None else ~low


def _both(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return a if b is None else b if a is None else a & b


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


def _picture(value: np.ndarray, seen: np.ndarray | None, axes: Sequence[str]) -> Picture:
    if value.size == 0:
        return Picture(0, 0, 0.0, "")
    finite = None if np.isfinite(np.sum(value)) else np.isfinite(value)
    shown = _both(seen, finite)
    numbers = _by_row(value if shown is None else np.where(shown, value, 0.0), axes)
    high, low = _binned(np.max, numbers), _binned(np.min, numbers)
    farthest = np.where(high >= -low, high, low)
    largest = float(np.max(np.abs(farthest)))
    cells = np.round(farthest / largest * 127) if largest else np.zeros(farthest.shape)
    cells = np.maximum(cells, _MASKED + 1).astype(np.int8)
    if seen is not None:
        cells[~_binned(np.any, _by_row(seen, axes))] = _MASKED
    if finite is not None:
        cells[_binned(np.any, _by_row(~finite if seen is None else ~finite & seen, axes))] = _NOT_FINITE
    n_rows, n_columns = cells.shape
    return Picture(n_rows, n_columns, _short(largest), base64.b64encode(cells.tobytes()).decode())


def _binned(reduce: Callable[..., np.ndarray], rows: np.ndarray) -> np.ndarray:
    """A matrix in so few even parts that it is a small picture, each reduced to one entry."""
    return _parts(reduce, _parts(reduce, rows, _COLUMNS).T, _ROWS).T


def _parts(reduce: Callable[..., np.ndarray], rows: np.ndarray, most: int) -> np.ndarray:
    """Each row in at most so many parts, even but for the last."""
    n_rows, n = rows.shape
    each = -(-n // most)
    even = reduce(rows[:, : n - n % each].reshape(n_rows, -1, each), axis=2)
    return even if n % each == 0 else np.column_stack([even, reduce(rows[:, n - n % each :], axis=1)])


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
