"""Numbers and constants in print: as few digits as say what they are and tell two apart."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_FEWEST, _FLOAT32, _FLOAT64 = 4, 9, 17
_FEW = 8
_PLACES = 4


def number(value: float, digits: int = _FEWEST) -> str:
    """One number with at most so many significant digits; whole numbers below 1e9 in full."""
    value = float(value) + 0.0  # -0.0 is 0
    if value.is_integer() and abs(value) < 1e9:
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


def told_apart(a: float, b: float) -> tuple[str, str]:
    """Both numbers with the fewest digits that tell them apart; never fewer than four, where they have as many.

    Nine digits tell any two float32 apart; more are printed only for two float64 that are the same float32 or nearly.
    """
    if isinstance(a, int | np.integer) and isinstance(b, int | np.integer):
        return str(int(a)), str(int(b))
    a, b = float(a), float(b)
    for digits in range(_FEWEST, _FLOAT64 + 1):
        left, right = number(a, digits), number(b, digits)
        if left != right and (digits > _FLOAT32 or _are_apart(a, b, left, right)):
            return left, right
    return left, right


def _are_apart(a: float, b: float, left: str, right: str) -> bool:
    """Whether the printed difference is the true one to a tenth, so that 0.12345 and 0.12335 are not 0.1235 and 0.1233."""
    with np.errstate(invalid="ignore", over="ignore"):
        true, printed = np.float64(b) - np.float64(a), np.float64(right) - np.float64(left)
        return not np.isfinite(true) or bool(abs(printed - true) <= 0.25 * abs(true))


def shown(array: np.ndarray) -> str:
    """A constant as a reader wants it: a scalar, up to eight entries, else the first of them and the shape."""
    array = np.asarray(array)
    if array.size == 1:
        return _entry(array.reshape(-1)[0])
    flat = array.reshape(-1)
    if array.size <= _FEW:
        listed = _listed(flat)
        return listed if array.ndim == 1 else f"{listed} of shape {_shape(array)}"
    return f"{_listed(flat[: _FEW - 2], '...')} of shape {_shape(array)}"


def differing_part(a: np.ndarray, b: np.ndarray) -> tuple[str, str]:
    """Two constants, each printed as far as they differ: all of small ones, else the first places that differ.

    The two texts are the same only if the arrays are equal in dtype, shape and every entry.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        left, right = shown(a), shown(b)
        left, right = (
            f"{text} of shape {_shape(x)}" if "shape" not in text else text for text, x in ((left, a), (right, b))
        )
        return left, right
    places = np.argwhere(_unequal(a, b))
    if not len(places):
        return (shown(a), shown(b)) if a.dtype == b.dtype else (f"{shown(a)} in {a.dtype}", f"{shown(b)} in {b.dtype}")
    if a.size == 1:
        return _told(a.reshape(-1)[0], b.reshape(-1)[0])
    if a.size <= _FEW and a.ndim == 1:
        texts = [_told(x, y) for x, y in zip(a, b, strict=True)]
        left, right = (f"[{', '.join(side)}]" for side in zip(*texts, strict=True))
        return left, right
    listed = [(_place(i), *_told(a[tuple(i)], b[tuple(i)])) for i in places[:_PLACES]]
    more = ", ..." if len(places) > _PLACES else ""
    left, right = (", ".join(f"{row[0]}: {row[side]}" for row in listed) + more for side in (1, 2))
    return left, right


def few_entries(a: np.ndarray, b: np.ndarray, places: np.ndarray) -> str:
    """Entries that differ, with their position and both values."""
    told = ((_place(i), *_told(a[tuple(i)], b[tuple(i)])) for i in places)
    return "; ".join(f"{place}: {right} where A has {left}" for place, left, right in told)


def spans(indices: Iterable[int], n: int) -> str:
    """Ascending indices of an axis of length n, by their pattern if they have one: `32 .. 47`, `every 2nd from 1`, or a list."""
    listed = np.fromiter(indices, np.int64)
    if len(listed) > 2:
        steps = np.unique(np.diff(listed))
        if len(steps) == 1 and steps[0] == 1:
            return f"{listed[0]} .. {listed[-1]}"
        if len(steps) == 1 and listed[0] < steps[0] and listed[-1] + steps[0] >= n:
            return f"every {_ordinal(int(steps[0]))} from {listed[0]}"
        periodic = _periodic(listed, n)
        if periodic:
            return periodic
    runs = np.split(listed, np.flatnonzero(np.diff(listed) > 1) + 1)
    if len(runs) <= _FEW and len(runs) * 2 < len(listed):
        return ", ".join(f"{run[0]} .. {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return shortened(listed)


def shortened(values: Iterable[int]) -> str:
    """The first eight of a list, and how many there are."""
    listed = [int(value) for value in values]
    first = ", ".join(map(str, listed[:_FEW]))
    return first + (f", ... ({len(listed)} in all)" if len(listed) > _FEW else "")


def _periodic(listed: np.ndarray, n: int) -> str | None:
    """`16 .. 31 of each 32`, if so."""
    for period in (size for size in range(2, n // 2 + 1) if n % size == 0):
        first = listed[listed < period]
        if not len(first) or len(first) * (n // period) != len(listed) or len(first) == period:
            continue
        if np.array_equal((first + period * np.arange(n // period)[:, None]).reshape(-1), listed):
            is_run = len(first) > 1 and first[-1] - first[0] == len(first) - 1
            return f"{f'{first[0]} .. {first[-1]}' if is_run else shortened(first)} of each {period}"
    return None


def _ordinal(n: int) -> str:
    return f"{n}{'th' if 10 < n % 100 < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def _unequal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray((a != b) & ~((a != a) & (b != b)))


def _entry(value: np.generic) -> str:
    if isinstance(value, np.bool_ | np.integer):
        return str(value.item())
    return number(float(str(np.float32(value))) if abs(float(value)) < 3e38 else float(value), 8)


def _told(a: np.generic, b: np.generic) -> tuple[str, str]:
    if isinstance(a, np.bool_) or isinstance(b, np.bool_):
        return str(a), str(b)
    if isinstance(a, np.integer) and isinstance(b, np.integer):
        return str(int(a)), str(int(b))
    return told_apart(float(a), float(b))


def _listed(flat: np.ndarray, *more: str) -> str:
    return f"[{', '.join([*(_entry(value) for value in flat), *more])}]"


def _shape(array: np.ndarray) -> str:
    return str(list(array.shape))


def _place(index: np.ndarray) -> str:
    return f"[{', '.join(str(int(i)) for i in index)}]"
