"""Whether B's array holds A's entries in another order: rolled, permuted, transposed, read in another shape."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from .digits import shortened, spans
from .pair import ArrayPair, Relation, same

_PROBED = 16
_FEWEST_IN_A_SLICE = 4
_HASHED_IN_FULL = 1 << 22
_EXCHANGED = 4
_FEWEST_SLID = 3
_SLID = 8  # of so many slices, one may be another
_FEW = 8
_ROWS_AT_ONCE = 1 << 18


def another_order(pair: ArrayPair) -> Relation | None:
    """A's entries in an order that has a law."""
    return _transposed(pair) or _permuted(pair)


def taken_slices(pair: ArrayPair) -> Relation | None:
    """A's slices along an axis, some of them taken where others belong (one head's rows for another's)."""
    for axis, n in enumerate(pair.a.shape):
        if n < 2 or pair.a.size // n < _FEWEST_IN_A_SLICE or axis in pair.cut:
            continue
        columns = _columns(pair.a, axis)
        order = _taken(_slice_hashes(pair.a, axis, columns), _slice_hashes(pair.b, axis, columns))
        if order is not None and _is_order(pair.a, pair.b, axis, order):
            moved = np.flatnonzero(order != np.arange(n))
            word = pair.words[axis]
            text = f"A's, but {word} {spans(moved, n)} of {n} hold A's {word} {_sources(order[moved])}"
            return Relation(text, f"A's, but some of {word} hold those of others", True)
    return None


def _sources(taken: np.ndarray) -> str:
    """Indices in the order in which they were taken."""
    if (taken == taken[0]).all():
        return str(taken[0])
    return f"{taken[0]} .. {taken[-1]}" if (np.diff(taken) == 1).all() else shortened(taken)


def _taken(left: np.ndarray, right: np.ndarray) -> np.ndarray | None:
    """Which of A's slices each of B's is: its own place if it can be, else the first of those that are equal."""
    values, first = np.unique(left, return_index=True)
    found = np.searchsorted(values, right).clip(max=len(values) - 1)
    if not np.array_equal(values[found], right):
        return None
    return np.where(left == right, np.arange(len(left)), first[found])


def any_order(pair: ArrayPair) -> Relation | None:
    """A's entries in an order without a law."""
    if pair.a.size < 3 or not _same_extremes(pair.a, pair.b) or _sum_of_hashes(pair.a) != _sum_of_hashes(pair.b):
        return None
    if not np.array_equal(np.sort(_bits(pair.a).reshape(-1)), np.sort(_bits(pair.b).reshape(-1))):
        return None
    is_telling = len(np.unique(pair.left)) * 2 > len(pair.left)
    text = f"A's entries in another order ({pair.n_differing} of {pair.a.size} moved)"
    return Relation(text, "A's entries in another order", is_telling)


def arranged(a: np.ndarray, b: np.ndarray) -> str | None:
    """For two shapes of one size: how B's entries are A's, if they are; in words that follow "A's, "."""
    for order in _axis_orders(a.ndim):
        view = a.transpose(order)
        if view.shape == b.shape and same(view, b):
            return _named_transposition(order)
    if same(a.reshape(b.shape), b):
        return f"reshaped from {list(a.shape)} to {list(b.shape)}"
    for order in _axis_orders(a.ndim):
        if same(np.ascontiguousarray(a.transpose(order)).reshape(b.shape), b):
            return f"{_named_transposition(order)} and reshaped to {list(b.shape)}"
    for order in _axis_orders(b.ndim):
        inner = tuple(b.shape[axis] for axis in np.argsort(order))
        if same(a.reshape(inner).transpose(order), b):
            return f"reshaped to {list(inner)}, and that {_named_transposition(order)}"
    return None


def _axis_orders(ndim: int) -> Iterator[tuple[int, ...]]:
    return (order for order in permutations(range(ndim)) if order != tuple(range(ndim)))


def _named_transposition(order: tuple[int, ...]) -> str:
    return "transposed" if len(order) == 2 else f"transposed by {list(order)}"


def _transposed(pair: ArrayPair) -> Relation | None:
    a, b = pair.a, pair.b
    if a.ndim < 2:
        return None
    where = np.unravel_index(pair.places, b.shape)
    for order in _axis_orders(a.ndim):
        view = a.transpose(order)
        if view.shape == b.shape:
            if same(view[where], pair.right) and same(view, b):
                return _told(f"A's, {_transposed_over(order, pair.words)}")
            continue
        seems = same(view[np.unravel_index(pair.places, view.shape)], pair.right)
        if seems and same(np.ascontiguousarray(view).reshape(b.shape), b):
            return _told(f"A's, {_named_transposition(order)} and then read in the old shape (out of order)")
    for order in _axis_orders(a.ndim):
        inner = tuple(b.shape[axis] for axis in np.argsort(order))
        view = a.reshape(inner).transpose(order)
        if inner != a.shape and same(view[where], pair.right) and same(view, b):
            return _told(f"A's, read as {_of_shape(inner, pair.words, order)} and then transposed (out of order)")
    return None


def _of_shape(inner: tuple[int, ...], words: tuple[str, ...], order: tuple[int, ...]) -> str:
    names = [words[order.index(axis)] for axis in range(len(inner))]
    return f"[{', '.join(names)}]"


def _transposed_over(order: tuple[int, ...], words: tuple[str, ...]) -> str:
    moved = [words[axis] for axis in range(len(order)) if order[axis] != axis]
    return f"transposed over {' and '.join(moved)}" if len(moved) == 2 else f"transposed by {list(order)}"


def slid(pair: ArrayPair) -> Relation | None:
    """A's slices a few places further along an axis, with others where these came from, as in a table that is read from another
    place on.
    """
    for axis, word in enumerate(pair.words):
        left, right = np.moveaxis(pair.a, axis, 0), np.moveaxis(pair.b, axis, 0)
        n, corner = len(left), (0,) * (left.ndim - 1)
        for step in range(1, max(n // _SLID, n > _FEWEST_SLID) + 1):
            for source, target, is_back in ((left, right, True), (right, left, False)):
                is_near = source[(step, *corner)] == target[(0, *corner)]
                if is_near and same(source[step:], target[:-step]):
                    moved, end = (f"-{step}", "last") if is_back else (f"{step}", "first")
                    return _told(f"A's, moved by {moved} along {word}; the {end} {step} of {n} are new")
    return None


def _told(text: str) -> Relation:
    return Relation(text, text, True)


def _permuted(pair: ArrayPair) -> Relation | None:
    for axis in sorted(range(pair.a.ndim), key=lambda axis: -pair.a.shape[axis]):
        order = _order(pair.a, pair.b, axis)
        if order is not None:
            among = " (counted among these)" if axis in pair.cut else ""
            return _described(order, pair.words[axis] + among)
    return None


def _order(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray | None:
    """Where along A's axis each of B's slices stands, if B's are A's slices in another order."""
    n = a.shape[axis]
    if n < 2 or a.size == 0:
        return None
    columns = _columns(a, axis)
    left, right = _slice_hashes(a, axis, columns), _slice_hashes(b, axis, columns)
    if not np.array_equal(np.sort(left), np.sort(right)):
        return None
    if len(np.unique(left)) < n and len(columns) < a.size // n <= _HASHED_IN_FULL // n:
        columns = np.arange(a.size // n)
        left, right = _slice_hashes(a, axis, columns), _slice_hashes(b, axis, columns)
    for order in (*_regular_orders(left, right), _matched(left, right)):
        if order is not None and np.array_equal(left[order], right) and _is_order(a, b, axis, order):
            return order
    return None


def _columns(a: np.ndarray, axis: int) -> np.ndarray:
    n_columns = a.size // a.shape[axis]
    if n_columns <= _PROBED:
        return np.arange(n_columns)
    return np.unique(np.random.default_rng(0).integers(0, n_columns, _PROBED))


def _slice_hashes(x: np.ndarray, axis: int, columns: np.ndarray) -> np.ndarray:
    """A number for each slice along an axis, which depends on its entries at these places only."""
    before, n, after = int(np.prod(x.shape[:axis])), x.shape[axis], int(np.prod(x.shape[axis + 1 :]))
    view = x.reshape(before, n, after)
    entries = _bits(view[columns // after, :, columns % after])  # [columns, n]
    odd = np.random.default_rng(1).integers(0, 1 << 62, len(columns), np.uint64) * np.uint64(2) + np.uint64(1)
    return np.asarray(_mixed(_mixed(entries) * odd[:, None]).sum(axis=0, dtype=np.uint64))


def _regular_orders(left: np.ndarray, right: np.ndarray) -> Iterator[np.ndarray]:
    """Orders with a simple law that could be it: asked first, as equal slices leave more than one order possible."""
    n = len(left)
    if len(np.unique(left)) == n:
        return
    here = np.arange(n)
    for step in (1, -1, 2, -2, 3, -3, 4, -4, n // 2):
        yield (here - step) % n
    yield here[::-1]
    for size in (size for size in range(2, n + 1) if n % size == 0):
        for _, inner in _patterns(size):
            yield (here // size) * size + inner[here % size]


def _matched(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Each of B's slices with one of A's of the same hash: its own place if it can, else the first one free."""
    order = np.where(left == right, np.arange(len(left)), -1)
    free, open_ = np.flatnonzero(order < 0), np.flatnonzero(order < 0)
    order[open_[np.argsort(right[open_], kind="stable")]] = free[np.argsort(left[free], kind="stable")]
    return order


def _is_order(a: np.ndarray, b: np.ndarray, axis: int, order: np.ndarray) -> bool:
    left, right = np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0)
    at_once = max(1, _ROWS_AT_ONCE * len(order) // a.size)
    return all(same(left[order[i : i + at_once]], right[i : i + at_once]) for i in range(0, len(order), at_once))


def _described(order: np.ndarray, word: str) -> Relation:
    n = len(order)
    here = np.arange(n)
    step = int((here - order)[0] % n)
    if n > 2 and np.array_equal((here - step) % n, order):
        step = step if step <= n // 2 else step - n
        return _told(f"A's, rolled by {step} along {word}")
    moved = np.flatnonzero(order != here)
    if len(moved) == 2 and n > 2:
        text = f"A's, but {moved[0]} and {moved[1]} of {word} are exchanged"
        return Relation(text, f"two of {word} exchanged", True)
    regular = _in_equal_parts(order, word) or _whole_blocks(order, word)
    if regular:
        return regular
    if len(moved) <= _EXCHANGED * 2 < n:
        first = ", ".join(f"{i} holds A's {order[i]}" for i in moved[:_EXCHANGED])
        more = ", ..." if len(moved) > _EXCHANGED else ""
        return Relation(f"A's, {len(moved)} of {n} {word} permuted: {first}{more}", f"permuted along {word}", True)
    return Relation(f"A's, permuted along {word}: {shortened(order)}", f"permuted along {word}", True)


def _in_equal_parts(order: np.ndarray, word: str) -> Relation | None:
    """One permutation repeated in each part of an axis."""
    n = len(order)
    for size in (size for size in range(2, n + 1) if n % size == 0):
        parts = order.reshape(-1, size)
        inner = parts[0]
        if inner.max() >= size or not np.array_equal(parts, inner + np.arange(0, n, size)[:, None]):
            continue
        within = f"within each {size}" if size < n else "all of it"
        for name, pattern in _patterns(size):
            if np.array_equal(pattern, inner):
                return _told(f"A's, permuted along {word}: {within}, {name} ({_first(inner)})")
        if size < n:
            return _told(f"A's, permuted along {word}: {within}, {_first(inner)}")
    return None


def _patterns(size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Permutations with a name: index i of the result is what is taken."""
    here = np.arange(size)
    if size == 2:
        yield "the two exchanged", here[::-1]
        return
    if size % 2 == 0:
        halves = here.reshape(2, -1)
        yield "the halves exchanged", halves[::-1].reshape(-1)
        yield "the halves interleaved", halves.T.reshape(-1)
        yield "the even ones first", here.reshape(-1, 2).T.reshape(-1)
    yield "in reverse", here[::-1]


def _whole_blocks(order: np.ndarray, word: str) -> Relation | None:
    """Blocks of neighbours (heads) that change places as wholes."""
    n = len(order)
    for size in (size for size in range(n // 2, 1, -1) if n % size == 0):
        blocks = order.reshape(-1, size)
        starts = blocks[:, 0]
        if not (starts % size).any() and np.array_equal(blocks, starts[:, None] + np.arange(size)):
            moved = np.flatnonzero(starts // size != np.arange(n // size))
            if len(moved) == 2 and n // size > 2:
                text = f"A's, but blocks {moved[0]} and {moved[1]} of {size} {word} each are exchanged"
                return Relation(text, text, True)
            return _told(f"A's, blocks of {size} permuted along {word}: {shortened(starts // size)}")
    return None


def _first(inner: np.ndarray) -> str:
    return ", ".join(map(str, inner[:_FEW])) + (", ..." if len(inner) > _FEW else "")


def _same_extremes(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the least and the greatest are the same, which most arrays that are no reordering fail."""
    with np.errstate(invalid="ignore"):
        return same(np.stack([a.min(), a.max()]), np.stack([b.min(), b.max()]))


def _bits(x: np.ndarray) -> np.ndarray:
    """Numbers as integers: equal for equal numbers (0 and -0, and all NaN)."""
    x = np.where(x == x, x + x.dtype.type(0), x.dtype.type(np.nan))
    return x.view(np.uint32 if x.dtype.itemsize == 4 else np.uint64)


def _mixed(bits: np.ndarray) -> np.ndarray:
    mixed = bits.astype(np.uint64)
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    return mixed


def _sum_of_hashes(x: np.ndarray) -> int:
    flat = x.reshape(-1)
    parts = (flat[i : i + _ROWS_AT_ONCE] for i in range(0, flat.size, _ROWS_AT_ONCE))
    return sum(int(_mixed(_bits(part)).sum(dtype=np.uint64)) for part in parts) % (1 << 64)
