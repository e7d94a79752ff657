"""What one array (B's weight or constant) is to another (A's), in words: a law that holds at every entry, or how they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import ml_dtypes
import numpy as np

from .digits import differing_part, few_entries, number, spans, told_apart
from .groups import by_group
from .nearly import nearly
from .orders import another_order, any_order, arranged, slid, taken_slices
from .pair import ROUNDING, ArrayPair, Relation, array_pair, close, holds_everywhere, parts, same

Make = Callable[[np.ndarray], np.ndarray]

_FEW_ENTRIES = 6
_FEWEST_CLIPPED = 3
_FEWEST_DECIDING = 3
_LARGEST_EXACT_WHOLE = 1e11
_TYPES = (
    ("bfloat16", ml_dtypes.bfloat16),
    ("float16", np.float16),
    ("float8_e4m3fn", ml_dtypes.float8_e4m3fn),
    ("float8_e5m2", ml_dtypes.float8_e5m2),
)
_FUNCTIONS: tuple[tuple[str, Make], ...] = (
    ("1/A's", lambda x: 1 / x),
    ("-1/A's", lambda x: -1 / x),
    ("1 - A's", lambda x: 1 - x),
    ("A's squared", lambda x: x * x),
    ("the square root of A's", np.sqrt),
    ("1 over the square root of A's", lambda x: 1 / np.sqrt(x)),
    ("the absolute value of A's", np.abs),
    ("minus the absolute value of A's", lambda x: -np.abs(x)),
    ("exp(A's)", np.exp),
    ("-exp(A's)", lambda x: -np.exp(x)),
    ("exp(-A's)", lambda x: np.exp(-x)),
    ("log(A's)", np.log),
    ("log(-A's)", lambda x: np.log(-x)),
)

Others = Mapping[str, Callable[[], np.ndarray]]


def compare_arrays(
    a: np.ndarray, b: np.ndarray, axes: Sequence[str] | None = None, others: Others | None = None
) -> Relation:
    """What B's array is to A's; the most telling law that holds at every entry, or else how many differ and by how much.

    Args:
        a, b: any float (ml_dtypes' too), integer or boolean type, any shapes; NaN and Inf are compared as values.
        axes: a word for each of A's dimensions ("out", "in"); "axis 0" and so on if there are none.
        others: other tensors of the checkpoint by name; loaded only if nothing simpler holds.

    Two numbers are equal if they differ by no more than 1e-6 of the larger; whole numbers must be the same.
    """
    a, b = np.asarray(a), np.asarray(b)
    words = tuple(axes) if axes is not None and len(axes) == a.ndim else tuple(f"axis {i}" for i in range(a.ndim))
    if a.shape != b.shape:
        return _of_other_shape(a, b, words, others)
    if a.size == 0:
        return Relation("empty, as A's is", "equal", True)
    if not (_is_exact(a) and _is_exact(b)):
        return _of_exact_numbers(a, b)
    pair = array_pair(a, b, words)
    if not pair.n_differing:
        return _equal(a, b, pair)
    return _by_its_type(a, b) or _of_pair(pair, others)


def _is_exact(array: np.ndarray) -> bool:
    """Whether float64 holds its numbers well enough to calculate with."""
    if array.dtype.kind in "iu" and array.size:
        return max(abs(int(array.min())), abs(int(array.max()))) < _LARGEST_EXACT_WHOLE
    return array.dtype.kind != "c"


def _equal(a: np.ndarray, b: np.ndarray, pair: ArrayPair) -> Relation:
    types = "" if a.dtype == b.dtype else f", stored as {b.dtype} where A has {a.dtype}"
    if same(pair.a, pair.b):
        return Relation(f"equal to A's{types}", f"equal to A's{types}", True)
    n = int(np.count_nonzero(pair.a != pair.b))
    if a.size == 1:
        return Relation(f"A's but for rounding in the last digits{types}", f"A's but for rounding{types}", True)
    text = f"A's but for rounding in the last digits: {n} of {a.size} differ by up to {_largest_share(pair):.1g} of their size"
    return Relation(text + types, f"A's but for rounding in the last digits{types}", True)


def _largest_share(pair: ArrayPair) -> float:
    largest = 0.0
    for x, y in parts(pair.a.astype(np.float64), pair.b.astype(np.float64)):
        with np.errstate(all="ignore"):
            share = np.abs(x - y) / np.maximum(np.abs(x), np.abs(y))
        largest = max(largest, float(np.max(share, where=np.isfinite(share), initial=0.0)))
    return largest


def _of_exact_numbers(a: np.ndarray, b: np.ndarray) -> Relation:
    """Numbers too large (or complex) to calculate with: only equal or not."""
    differs = (a != b) & ~((a != a) & (b != b))
    n = int(np.count_nonzero(differs))
    if not n:
        return Relation("equal to A's", "equal to A's", True)
    if n <= _FEW_ENTRIES and a.dtype.kind in "iu" and b.dtype.kind in "iu":
        return Relation(few_entries(a, b, np.argwhere(differs)), "a few entries", False)
    return Relation(f"other numbers: {n} of {a.size} differ", "other numbers", False)


def _by_its_type(a: np.ndarray, b: np.ndarray) -> Relation | None:
    """What only bits and bytes can be."""
    if a.dtype == np.bool_ and b.dtype == np.bool_:
        return Relation("A's, negated", "A's, negated", True) if np.array_equal(~a, b) else None
    if a.dtype == b.dtype and a.dtype.itemsize == 1 and a.dtype.kind in "iu":
        x, y = a.view(np.uint8), b.view(np.uint8)
        if np.array_equal((x << 4) | (x >> 4), y):
            text = "A's, with the lower and the upper four bits of each byte exchanged"
            return Relation(text, text, True)
        if np.array_equal(x ^ 0x80, y):
            text = "A's, with the highest bit of each byte turned (signed read as unsigned, 128 apart)"
            return Relation(text, text, True)
        if np.array_equal(x ^ 0x88, y):
            text = "A's, with the highest bit of each four turned (signed read as unsigned, 8 apart)"
            return Relation(text, text, True)
    return None


def _of_pair(pair: ArrayPair, others: Others | None) -> Relation:
    """The most telling first. What is cheap and rules most arrays out comes before what is neither."""
    law = _law(pair)
    if law is not None:
        return law
    if pair.n_differing <= _FEW_ENTRIES:
        return _few(pair)
    moved = slid(pair)
    if moved is not None:
        return moved
    part = _part(pair)
    law = _law(part) if part is not None else None
    if part is not None and law is not None and law.telling:
        return _told_of_a_part(pair, part, law)
    found = by_group(pair) or _another_tensor(pair.b, others)
    if found is None and part is not None:
        return _told_of_a_part(pair, part, law or by_group(part) or _without_law(part))
    return found or _without_law(pair)


def _without_law(pair: ArrayPair) -> Relation:
    return _at_the_differing(pair) or any_order(pair) or nearly(pair) or _other_numbers(pair)


def _law(pair: ArrayPair) -> Relation | None:
    """A law with no more than two numbers for the whole array."""
    if pair.a.size <= 3:
        return _small(pair)
    uniform = _uniform(pair)
    if uniform is not None:
        return uniform
    for candidate in (_scaled, _shifted, _rounded, _function, _clipped, _affine):
        found = candidate(pair)
        if found is not None:
            return found
    return another_order(pair) or taken_slices(pair)


def _small(pair: ArrayPair) -> Relation:
    if pair.a.ndim == 0 or pair.a.size == 1:
        left, right = told_apart(float(pair.a.reshape(-1)[0]), float(pair.b.reshape(-1)[0]))
        text = f"{right} where A has {left}"
        return Relation(text, text, True)
    left, right = differing_part(pair.a, pair.b)
    return Relation(f"{right} where A has {left}", "other numbers", False)


def _few(pair: ArrayPair) -> Relation:
    text = few_entries(pair.a, pair.b, np.argwhere(pair.differs))
    n = pair.n_differing
    start = f"A's but for {n} of {pair.a.size} entries: "
    return Relation(start + text, "A's but for a few entries", False)


def _uniform(pair: ArrayPair) -> Relation | None:
    value = pair.b.reshape(-1)[0]
    if pair.n_differing <= min(_FEW_ENTRIES, pair.a.size // 2):
        return None
    if not same(pair.right, np.full_like(pair.right, value)) or not same(pair.b, np.broadcast_to(value, pair.b.shape)):
        return None
    first = pair.a.reshape(-1)[0]
    if same(pair.a, np.broadcast_to(first, pair.a.shape)):
        left, right = number(first, 8), number(value, 8)
        if left == right:
            left, right = told_apart(float(first), float(value))
        text = f"{right} everywhere, where A has {left} everywhere"
    else:
        text = "zero everywhere" if value == 0 else f"{number(value, 8)} everywhere"
    return Relation(text, text, True)


def _decides(pair: ArrayPair, made: np.ndarray, scale: np.ndarray | None = None) -> bool:
    """Whether a law changes some of the sample's numbers to what B has, at enough places that are finite."""
    moved = np.isfinite(made) & np.isfinite(pair.left) & ~close(made, pair.left, pair.rounding)
    if np.count_nonzero(moved) < min(_FEWEST_DECIDING, pair.n_differing):
        return False
    return bool(np.all(close(made, pair.right, pair.rounding, scale)))


def _holds(pair: ArrayPair, make: Make) -> bool:
    with np.errstate(all="ignore"):
        if not _decides(pair, make(pair.left)):
            return False
        return holds_everywhere(pair, lambda x, y: close(make(x), y, pair.rounding))


def _holds_as_a_sum(pair: ArrayPair, make: Make, constant: float) -> bool:
    """As `_holds`, where a sum may cancel: what is lost then is in the size of what was added."""

    def scale(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.maximum(np.maximum(np.abs(make(x) - constant), np.abs(y)), abs(constant))

    with np.errstate(all="ignore"):
        sizes = scale(pair.left, pair.right)
        finite = np.isfinite(sizes)
        if not finite.any() or np.ptp(pair.right[finite]) <= 100 * pair.rounding * sizes[finite].max():
            return False
        if not _decides(pair, make(pair.left), sizes):
            return False
        return holds_everywhere(pair, lambda x, y: close(make(x), y, pair.rounding, scale(x, y)))


def _simplest(value: float) -> tuple[float, str]:
    """A number with the fewest digits that are it to a few parts in ten million, and its text."""
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        if abs(float(text) - value) <= 4e-7 * abs(value):
            break
    return float(text), number(float(text), 9)


def _finite_sample(pair: ArrayPair) -> tuple[np.ndarray, np.ndarray]:
    finite = np.isfinite(pair.left) & np.isfinite(pair.right)
    return pair.left[finite], pair.right[finite]


def _scaled(pair: ArrayPair) -> Relation | None:
    x, y = _finite_sample(pair)
    if not x.any():
        return None
    largest = np.abs(x) >= np.quantile(np.abs(x), 0.7)
    with np.errstate(all="ignore"):
        factor = float(np.median((y / x)[largest & (x != 0)]))
    if not np.isfinite(factor) or factor == 0:
        return None
    factor, text = _simplest(factor)
    if factor == 1 or not _holds(pair, lambda x: x * factor):
        return None
    said = "A's with the sign turned" if factor == -1 else f"A's times {text}"
    return Relation(said, said, True)


def _shifted(pair: ArrayPair) -> Relation | None:
    x, y = _finite_sample(pair)
    if not len(x):
        return None
    size = np.maximum(np.abs(x), np.abs(y))
    smallest = size <= np.quantile(size, 0.3)
    offset, text = _simplest(float(np.median((y - x)[smallest])))
    if offset == 0 or not np.isfinite(offset) or not _holds_as_a_sum(pair, lambda x: x + offset, offset):
        return None
    said = "1 + A's" if offset == 1 else f"A's plus {text}" if offset > 0 else f"A's minus {text.removeprefix('-')}"
    return Relation(said, said, True)


def _affine(pair: ArrayPair) -> Relation | None:
    x, y = _finite_sample(pair)
    if len(np.unique(x)) < 4:
        return None
    low, high, middle = np.argmin(x), np.argmax(x), np.argmin(np.abs(x))
    factor = float((y[high] - y[low]) / (x[high] - x[low]))
    if factor == 0 or not np.isfinite(factor):
        return None
    factor, of = _simplest(factor)
    offset, by = _simplest(float(y[middle] - factor * x[middle]))
    if offset == 0 or not _holds_as_a_sum(pair, lambda x: x * factor + offset, offset):
        return None
    said = f"A's times {of}, {'plus' if offset > 0 else 'minus'} {by.removeprefix('-')}"
    return Relation(said, said, True)


def _function(pair: ArrayPair) -> Relation | None:
    for name, function in _FUNCTIONS:
        if _holds(pair, function):
            return Relation(name, name, True)
    return None


def _clipped(pair: ArrayPair) -> Relation | None:
    x, y = _finite_sample(pair)
    between = (y > y.min(initial=np.inf)) & (y < y.max(initial=-np.inf))
    if not np.all(close(x[between], y[between], pair.rounding)):
        return None
    with np.errstate(invalid="ignore"):
        low, high = float(np.nanmin(pair.b)), float(np.nanmax(pair.b))
    n_low, n_high = int(np.count_nonzero(pair.a < low)), int(np.count_nonzero(pair.a > high))
    if n_low + n_high < _FEWEST_CLIPPED or np.isnan([low, high]).any():
        return None
    if not holds_everywhere(pair, lambda x, y: close(np.clip(x, low, high), y, pair.rounding)):
        return None
    below, above = number(low, 8), number(high, 8)
    if n_low and n_high:
        text = f"A's, clipped to ±{above}" if low == -high else f"A's, clipped to {below} .. {above}"
    elif n_low:
        text = "A's, with what is negative set to 0" if low == 0 else f"A's, with what is below {below} set to it"
    else:
        text = "A's, with what is positive set to 0" if high == 0 else f"A's, with what is above {above} set to it"
    return Relation(text, text, True)


def _as_type(x: np.ndarray, dtype: type) -> np.ndarray:
    with np.errstate(all="ignore"):
        return x.astype(np.float32).astype(dtype).astype(np.float64)


def _cut_to_bfloat16(x: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        bits = x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


def _saturated(x: np.ndarray) -> np.ndarray:
    return _as_type(np.clip(x, -448, 448), ml_dtypes.float8_e4m3fn)


def _one_more_as_type(x: np.ndarray, dtype: type) -> np.ndarray:
    return _as_type(1 + x, dtype)


def _roundings() -> Iterator[tuple[str, Make]]:
    for name, dtype in _TYPES:
        yield f"A's, rounded to {name}", partial(_as_type, dtype=dtype)
    yield "A's, rounded to float8_e4m3fn, the largest kept at 448", _saturated
    yield "A's, cut to bfloat16 (the lower bits dropped, not rounded)", _cut_to_bfloat16
    for name, dtype in _TYPES[:2]:
        yield f"1 + A's, rounded to {name}", partial(_one_more_as_type, dtype=dtype)


def _rounded(pair: ArrayPair) -> Relation | None:
    for text, make in _roundings():
        if _is_made(pair, pair.left, pair.right, make) and _is_made_everywhere(pair, make):
            return Relation(text, text, True)
    for name, dtype in _TYPES:
        make = partial(_as_type, dtype=dtype)
        if _is_made(pair, pair.right, pair.left, make) and _is_made_everywhere(pair, make, of_b=True):
            text = f"what A's is rounded from: rounded to {name}, it is A's"
            return Relation(text, text, True)
    return None


def _is_made_everywhere(pair: ArrayPair, make: Make, of_b: bool = False) -> bool:
    return holds_everywhere(pair, lambda x, y: _identical(make(y), x) if of_b else _identical(make(x), y))


def _is_made(pair: ArrayPair, x: np.ndarray, y: np.ndarray, make: Make) -> bool:
    made = make(x)
    moved = np.isfinite(made) & np.isfinite(x) & (made != x)
    return bool(np.count_nonzero(moved) >= min(_FEWEST_DECIDING, pair.n_differing) and np.all(_identical(made, y)))


def _identical(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray((x == y) | ((x != x) & (y != y)))


def _part(pair: ArrayPair) -> ArrayPair | None:
    """The rows, columns or the block outside of which nothing differs, if that is not the whole."""
    touched = [_touched(pair.differs, axis) for axis in range(pair.a.ndim)]
    cut = frozenset(axis for axis, indices in enumerate(touched) if len(indices) < pair.a.shape[axis])
    if not cut:
        return None
    box = np.ix_(*touched)
    return array_pair(pair.a[box], pair.b[box], pair.words, cut, pair.rounding)


def _told_of_a_part(pair: ArrayPair, part: ArrayPair, law: Relation) -> Relation:
    places, along = [], " and ".join(pair.words[axis] for axis in sorted(part.cut))
    for axis in sorted(part.cut):
        n = pair.a.shape[axis]
        places.append(f"{pair.words[axis]} {spans(_touched(pair.differs, axis), n)} of {n}")
    return Relation(
        f"equal to A's but for {' and '.join(places)}; there it is {law.text}",
        f"equal to A's but for some of {along}; there it is {law.key}",
        law.telling,
    )


def _touched(differs: np.ndarray, axis: int) -> np.ndarray:
    return np.flatnonzero(differs.any(axis=tuple(other for other in range(differs.ndim) if other != axis)))


def _at_the_differing(pair: ArrayPair) -> Relation | None:
    """Entries without a pattern of place, which are all zero, all one value, or all of the other sign."""
    where = pair.differs.reshape(-1)[pair.places]
    x, y = pair.left[where], pair.right[where]
    n, size = pair.n_differing, pair.a.size
    some = f"{n} of {size} entries"
    if len(y) and n < size and same(y, np.full_like(y, y[0])):
        values = pair.b[pair.differs]
        if same(values, np.full_like(values, values[0])):
            value = "zero" if values[0] == 0 else number(values[0], 8)
            return Relation(f"A's, but {some} are {value}", f"A's, but some entries are {value}", True)
    if len(y) and n < size and np.all(close(-x, y, pair.rounding)) and _is_turned(pair):
        text = "A's with the sign turned in some entries"
        return Relation(f"A's with the sign turned in {some}", text, True)
    return _other_specials(pair)


def _is_turned(pair: ArrayPair) -> bool:
    return bool(np.all(close(-pair.a[pair.differs], pair.b[pair.differs], pair.rounding)))


def _other_specials(pair: ArrayPair) -> Relation | None:
    """NaN and Inf where A has numbers, or the other way round."""
    finite_a, finite_b = np.isfinite(pair.a), np.isfinite(pair.b)
    if finite_a.all() and finite_b.all():
        return None
    special = pair.differs & ~(finite_a & finite_b)
    if not special.any():
        return None
    told = []
    for name, test in (("NaN", np.isnan), ("inf", np.isposinf), ("-inf", np.isneginf)):
        n_b, n_a = int(np.count_nonzero(special & test(pair.b))), int(np.count_nonzero(special & test(pair.a)))
        told += [f"{n_b} {_is_or_are(n_b)} {name}"] * bool(n_b)
        told += [f"{n_a} {_is_or_are(n_a)} not that {_is_or_are(n_a)} {name} in A"] * bool(n_a)
    n_rest = pair.n_differing - int(np.count_nonzero(special))
    rest = f"{n_rest} others differ too" if n_rest else "the others are equal"
    text = f"A's, but of {pair.a.size} entries {', '.join(told)}; {rest}"
    return Relation(text, "A's, but NaN or Inf at other places", not n_rest)


def _is_or_are(n: int) -> str:
    return "is" if n == 1 else "are"


def _another_tensor(b: np.ndarray, others: Others | None) -> Relation | None:
    """Whether these are the numbers of another tensor of the checkpoint."""
    if not others:
        return None
    probe = np.unique(np.random.default_rng(0).integers(0, b.size, 64))
    for name, load in others.items():
        other = np.asarray(load())
        if other.size != b.size or other.dtype.kind == "c":
            continue
        for how, view in _readings(other, b.shape):
            if np.all(close(_at(view, probe), b.reshape(-1)[probe].astype(np.float64), ROUNDING)):
                whole = np.ascontiguousarray(view).reshape(-1)
                if all(np.all(close(x.astype(np.float64), y.astype(np.float64), ROUNDING)) for x, y in parts(whole, b)):
                    text = f"the numbers of {name}{how}"
                    return Relation(text, text, True)
    return None


def _readings(other: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    if other.shape == shape:
        yield "", other
    elif other.ndim != 2 or other.T.shape != shape:
        yield ", in another shape", other
    if other.ndim == 2 and other.T.shape == shape:
        yield ", transposed", other.T


def _at(view: np.ndarray, flat: np.ndarray) -> np.ndarray:
    return np.asarray(view[np.unravel_index(flat, view.shape)]).astype(np.float64)


def _other_numbers(pair: ArrayPair) -> Relation:
    """No law: how many differ and by how much."""
    largest = power = error = 0.0
    for x, y in parts(pair.a, pair.b):
        with np.errstate(all="ignore"):
            difference = np.subtract(y, x, dtype=np.float64)
            finite = np.isfinite(difference)
            largest = max(largest, float(np.max(np.abs(difference), where=finite, initial=0.0)))
            power += float(np.sum(np.square(x, dtype=np.float64), where=finite))
            error += float(np.sum(np.square(difference), where=finite))
    n, size = pair.n_differing, pair.a.size
    count = f"all {size} differ" if n == size else f"{n} of {size} differ"
    norms = f"A's norm {number(power**0.5)}, the difference's {number(error**0.5)}"
    return Relation(f"other numbers: {count}, by up to {number(largest)} ({norms})", "other numbers", False)


def _of_other_shape(a: np.ndarray, b: np.ndarray, words: tuple[str, ...], others: Others | None) -> Relation:
    shapes = f"{list(b.shape)} where A has {list(a.shape)}"
    if a.size == b.size and a.size and not (a.dtype.kind == "c" or b.dtype.kind == "c"):
        how = arranged(a, b)
        if how is not None:
            return Relation(f"A's, {how}", f"A's, {how}", True)
        other = _another_tensor(b, others)
        if other is not None:
            return other
        if _squeezed(a) == _squeezed(b):
            return compare_arrays(a.reshape(b.shape), b)
        if a.ndim == 2 and a.T.shape == b.shape:
            found = compare_arrays(a.T, b, words[::-1])
            return Relation(
                f"transposed ({shapes}), and so it is {found.text}",
                f"transposed, and so it is {found.key}",
                found.telling,
            )
        return Relation(f"of another shape: {shapes}", f"of another shape: {shapes}", False)
    piece = _longer_or_shorter(a, b, words)
    if piece is not None:
        return Relation(piece, piece, True)
    return _another_tensor(b, others) or Relation(f"of another shape: {shapes}", f"of another shape: {shapes}", False)


def _squeezed(array: np.ndarray) -> tuple[int, ...]:
    return tuple(n for n in array.shape if n != 1)


def _longer_or_shorter(a: np.ndarray, b: np.ndarray, words: tuple[str, ...]) -> str | None:
    """A's cut, continued or repeated along one axis."""
    axes = [axis for axis in range(a.ndim) if a.ndim == b.ndim and a.shape[axis] != b.shape[axis]]
    if len(axes) != 1 or 0 in a.shape or 0 in b.shape:
        return None
    axis, word = axes[0], words[axes[0]]
    a, b = np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0)
    n_a, n_b = len(a), len(b)
    if n_b < n_a:
        for start in dict.fromkeys((0, n_a - n_b)):
            if same(a[start : start + n_b], b):
                return f"{word} {start} .. {start + n_b - 1} of A's {n_a} only"
        if n_a % n_b == 0:
            for start in range(n_a // n_b):
                if same(a[start :: n_a // n_b], b):
                    return f"every {n_a // n_b} of A's {n_a} {word} only, from {start}"
        return None
    if n_b % n_a == 0 and n_a > 1:
        times = n_b // n_a
        if all(same(b[i * n_a : (i + 1) * n_a], a) for i in range(times)):
            return f"A's, all of it {times} times along {word}"
        if all(same(b[i::times], a) for i in range(times)):
            return f"A's, each of {word} {times} times"
    for start in dict.fromkeys((0, n_b - n_a)):
        if same(b[start : start + n_a], a):
            rest = np.concatenate([b[:start], b[start + n_a :]])
            zero = "zero" if not np.any(rest) else "other numbers"
            return f"A's, with {n_b - n_a} more of {word} {'before' if start else 'after'} it ({zero})"
    return None
