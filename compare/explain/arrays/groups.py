"""Laws with a number of its own for each row, column or group: a factor, a constant, a grid to which it was rounded.

A group is the entries of one index of an axis, 16 to 128 neighbours along an axis (as quantised weights have them), or a
square block. A law is told only if it holds in every group, and enough entries could have broken it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from .digits import number
from .pair import ArrayPair, Relation, close

_SIZES = (128, 64, 32, 16)
_GROUPS_SAMPLED = 24
_ENTRIES_SAMPLED = 128
_FEWEST_DECIDING = 8
_MOST = 0.9
_ENTRIES_AT_ONCE = 1 << 18
_MOST_LEVELS = 256
_LEVELS_FOR_A_REACH = 8
_ROOM = 1e-3
_MOST_STEPS = 256
_FLOAT8 = (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)
_DUST = 1e-9  # beside a factor: a constant that is rounding


@dataclass(frozen=True, slots=True)
class Gathering:
    """How an array falls into groups: viewed in a shape, all entries along `within` are one group.

    label: in words, after "per".
    """

    label: str
    shape: tuple[int, ...]
    within: tuple[int, ...]

    @property
    def n_groups(self) -> int:
        return int(np.prod([n for axis, n in enumerate(self.shape) if axis not in self.within]))

    def rows(self, *arrays: np.ndarray) -> Iterator[list[np.ndarray]]:
        """The arrays as float64 [groups, entries], some groups at a time."""
        views = [self._moved(array) for array in arrays]
        lead = views[0].shape[0]
        at_once = max(1, _ENTRIES_AT_ONCE * lead // max(1, arrays[0].size))
        n_entries = arrays[0].size // self.n_groups
        for i in range(0, lead, at_once):
            yield [view[i : i + at_once].reshape(-1, n_entries).astype(np.float64) for view in views]

    def sample(self, pair: ArrayPair) -> tuple[np.ndarray, np.ndarray]:
        """A's and B's numbers in some groups, those that differ among them: [groups, entries]."""
        rng = np.random.default_rng(0)
        differing = pair.places[pair.differs.reshape(-1)[pair.places]]
        chosen = differing[rng.integers(0, len(differing), _GROUPS_SAMPLED)]
        others = rng.integers(0, pair.a.size, _GROUPS_SAMPLED // 4)
        places = np.stack(np.unravel_index(np.concatenate([chosen, others]), self.shape))
        kept = [axis for axis in range(len(self.shape)) if axis not in self.within]
        groups = np.unique(places[kept], axis=1)
        n_entries = pair.a.size // self.n_groups
        inner = np.arange(n_entries) if n_entries <= _ENTRIES_SAMPLED else rng.integers(0, n_entries, _ENTRIES_SAMPLED)
        inside = np.unravel_index(inner, [self.shape[axis] for axis in self.within])
        index: list[np.ndarray] = [np.empty(0)] * len(self.shape)
        for row, axis in enumerate(kept):
            index[axis] = groups[row][:, None]
        for row, axis in enumerate(self.within):
            index[axis] = inside[row][None, :]
        where = tuple(index)
        x, y = pair.a.reshape(self.shape)[where], pair.b.reshape(self.shape)[where]
        return x.astype(np.float64), y.astype(np.float64)

    def _moved(self, array: np.ndarray) -> np.ndarray:
        last = range(-len(self.within), 0)
        moved = np.moveaxis(array.reshape(self.shape), self.within, tuple(last))
        return moved if moved.ndim > len(self.within) else moved[None]


@dataclass(frozen=True, slots=True)
class Fit:
    """A law tried on groups.

    holds: [groups], whether it does. `deciding`: [groups], how many entries more than the law has numbers could have
    broken it. `numbers`: [groups], the law's number; 0 changes nothing for a constant, 1 for a factor.
    more: [groups, any], what else the law tells.
    """

    holds: np.ndarray
    deciding: np.ndarray
    numbers: np.ndarray
    more: np.ndarray

    def joined(self, other: Fit) -> Fit:
        return Fit(
            np.concatenate([self.holds, other.holds]),
            np.concatenate([self.deciding, other.deciding]),
            np.concatenate([self.numbers, other.numbers]),
            np.concatenate([self.more, other.more]),
        )


Law = Callable[[np.ndarray, np.ndarray, float], Fit]
Tell = Callable[[ArrayPair, Gathering, Fit], Relation | None]
Sample = tuple[np.ndarray, np.ndarray]


def gatherings(pair: ArrayPair) -> list[Gathering]:
    """Every way to fall into groups, the fewest groups first."""
    shape, words = pair.a.shape, pair.words
    found = [*_by_index(shape, words), *_along(shape, words, pair.cut), *_blocks(shape, pair.cut)]
    return sorted(found, key=lambda gathering: gathering.n_groups)


def whole(pair: ArrayPair) -> Gathering:
    """All entries as one group."""
    return Gathering("", pair.a.shape, tuple(range(pair.a.ndim)))


def _by_index(shape: Sequence[int], words: Sequence[str]) -> Iterator[Gathering]:
    for axis, n in enumerate(shape):
        others = tuple(other for other in range(len(shape)) if other != axis)
        if others and n > 1 and np.prod([shape[other] for other in others]) >= 4:
            yield Gathering(index_of(words[axis]), tuple(shape), others)
        if len(shape) > 2 and n >= 4:
            yield Gathering(f"row along {words[axis]}", tuple(shape), (axis,))


def index_of(word: str) -> str:
    """One index of an axis of that name, in words that follow "per"."""
    return f"index of {word}" if " " in word else word


def _along(shape: Sequence[int], words: Sequence[str], cut: frozenset[int]) -> Iterator[Gathering]:
    for axis, n in enumerate(shape):
        for size in _SIZES:
            if axis not in cut and n % size == 0 and n > size:
                view = (*shape[:axis], n // size, size, *shape[axis + 1 :])
                yield Gathering(f"group of {size} along {words[axis]}", view, (axis + 1,))


def _blocks(shape: Sequence[int], cut: frozenset[int]) -> Iterator[Gathering]:
    if len(shape) != 2 or cut:
        return
    for size in _SIZES[:-1]:
        if all(n % size == 0 for n in shape) and max(shape) > size:
            view = (shape[0] // size, size, shape[1] // size, size)
            yield Gathering(f"block of {size} x {size}", view, (1, 3))


def by_group(pair: ArrayPair) -> Relation | None:
    """The first law with a number for each group that holds everywhere."""
    if pair.a.size < 2 * _FEWEST_DECIDING or pair.a.ndim == 0:
        return None
    ways = [(gathering, gathering.sample(pair)) for gathering in gatherings(pair)]
    one = (whole(pair), whole(pair).sample(pair))
    laws: tuple[tuple[Law, Tell, list[tuple[Gathering, Sample]]], ...] = (
        (_factors, _tell_factors, ways),
        (_offsets, _tell_offsets, ways),
        (_steps, _tell_steps, [one, *ways]),
        (_grids, _tell_grids, [one, *ways]),
        (_float8s, _tell_float8, [one, *ways]),
        (_affine, _tell_affine, ways),
    )
    for law, tell, tried in laws:
        for gathering, sample in tried:
            fit = _fitted(pair, gathering, sample, law)
            found = None if fit is None else tell(pair, gathering, fit)
            if found is not None:
                return found
    return None


def _fitted(pair: ArrayPair, gathering: Gathering, sample: tuple[np.ndarray, np.ndarray], law: Law) -> Fit | None:
    """A law's fit to all groups, if it holds in all; the sample is asked first."""
    if not _is_told(law(*sample, pair.rounding)):
        return None
    fits: Fit | None = None
    for x, y in gathering.rows(pair.a, pair.b):
        fit = law(x, y, pair.rounding)
        if not fit.holds.all():
            return None
        fits = fit if fits is None else fits.joined(fit)
    return fits if fits is not None and _is_told(fits) else None


def _is_told(fit: Fit) -> bool:
    """Whether a law holds in all groups, and nine in ten of those that it changes could have broken it."""
    return bool(
        fit.holds.all()
        and np.count_nonzero(fit.deciding > 0) >= _MOST * np.count_nonzero(fit.deciding >= 0)
        and fit.deciding[fit.deciding > 0].sum() >= _FEWEST_DECIDING
    )


def _spread(x: np.ndarray) -> np.ndarray:
    finite = np.isfinite(x)
    high = np.where(finite, x, -np.inf).max(axis=1)
    low = np.where(finite, x, np.inf).min(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(finite.any(axis=1), high - low, 0.0)


def _at(x: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.take_along_axis(x, where[:, None], axis=1)


def _factors(x: np.ndarray, y: np.ndarray, rounding: float) -> Fit:
    """B = factor * A in each group. Groups that are equal have the factor 1 and decide nothing (-1)."""
    with np.errstate(all="ignore"):
        size = np.where(np.isfinite(x) & np.isfinite(y), np.abs(x), -1.0)
        largest = np.argmax(size, axis=1)
        factors = _at(y, largest) / _at(x, largest)
        is_equal = np.all(close(x, y, rounding), axis=1)
        holds = close(x * factors, y, rounding).all(axis=1) & np.isfinite(factors[:, 0])
        varied = _spread(x) > 100 * rounding * size.max(axis=1)
    deciding = np.where(varied, (size > 0).sum(axis=1) - 1, 0)
    return _fit(is_equal, holds, deciding, np.where(is_equal, 1.0, factors[:, 0]))


def _offsets(x: np.ndarray, y: np.ndarray, rounding: float) -> Fit:
    """B = A + constant in each group. Groups that are equal have the constant 0."""
    with np.errstate(all="ignore"):
        finite = np.isfinite(x) & np.isfinite(y)
        size = np.where(finite, np.maximum(np.abs(x), np.abs(y)), np.inf)
        smallest = np.argmin(size, axis=1)
        offsets = _at(y, smallest) - _at(x, smallest)
        scale = np.where(finite, np.maximum(size, np.abs(offsets)), 0.0)
        is_equal = np.all(close(x, y, rounding), axis=1)
        holds = close(x + offsets, y, rounding, scale).all(axis=1) & np.isfinite(offsets[:, 0])
        varied = _spread(x) > 100 * rounding * scale.max(axis=1)
    deciding = np.where(varied, finite.sum(axis=1) - 1, 0)
    return _fit(is_equal, holds, deciding, np.where(is_equal, 0.0, offsets[:, 0]))


def _affine(x: np.ndarray, y: np.ndarray, rounding: float) -> Fit:
    """B = factor * A + constant in each group."""
    with np.errstate(all="ignore"):
        finite = np.isfinite(x) & np.isfinite(y)
        low, high = np.argmin(np.where(finite, x, np.inf), axis=1), np.argmax(np.where(finite, x, -np.inf), axis=1)
        factors = (_at(y, high) - _at(y, low)) / (_at(x, high) - _at(x, low))
        middle = np.argmin(np.where(finite, np.abs(x), np.inf), axis=1)
        offsets = _at(y, middle) - factors * _at(x, middle)
        scale = np.where(finite, np.maximum(np.maximum(np.abs(x * factors), np.abs(y)), np.abs(offsets)), 0.0)
        is_equal = np.all(close(x, y, rounding), axis=1)
        holds = close(x * factors + offsets, y, rounding, scale).all(axis=1) & np.isfinite(factors[:, 0])
        varied = np.minimum(_spread(x) * np.abs(factors[:, 0]), _spread(y)) > 100 * rounding * scale.max(axis=1)
    deciding = np.where(varied, finite.sum(axis=1) - 2, 0)
    return _fit(
        is_equal, holds, deciding, np.where(is_equal, 1.0, factors[:, 0]), np.where(is_equal[:, None], 0.0, offsets)
    )


def _fit(
    is_equal: np.ndarray, holds: np.ndarray, deciding: np.ndarray, numbers: np.ndarray, more: np.ndarray | None = None
) -> Fit:
    """A fit; groups that are equal hold, and have -1 deciding entries."""
    more = np.empty((len(numbers), 0)) if more is None else more
    return Fit(holds | is_equal, np.where(is_equal, -1, np.maximum(deciding, 0)), numbers, more)


def _steps(x: np.ndarray, y: np.ndarray, rounding: float) -> Fit:
    """What differs is off by whole multiples of one step in each group: the least difference, or a half or third of it."""
    with np.errstate(all="ignore"):
        differs = ~close(x, y, rounding)
        finite = np.isfinite(x) & np.isfinite(y)
        apart = np.where(differs & finite, y - x, 0.0)
        size = np.maximum(np.abs(x), np.abs(y))
        nearest = np.argmin(np.where(differs & finite, np.abs(y - x), np.inf), axis=1)
        least, least_size = np.abs(_at(apart, nearest)), _at(size, nearest)
        step, holds = least, np.zeros(len(x), bool)
        for divisor in (1, 2, 3):
            this = least / divisor
            whole = np.round(apart / this)
            lost = rounding * (size + least_size * np.abs(whole))
            fits = (np.abs(apart - whole * this) <= lost) & (lost < 0.05 * this) & (np.abs(whole) <= _MOST_STEPS)
            found = ((fits & finite) | ~differs).all(axis=1) & ~holds
            step, holds = np.where(found[:, None], this, step), holds | found
    is_equal = ~np.any(differs, axis=1)
    return _fit(is_equal, holds, differs.sum(axis=1) - 1, np.where(is_equal, 0.0, step[:, 0]))


@dataclass(frozen=True, slots=True)
class _Grid:
    """An even grid in each group: the lowest number, the step, how many steps to the highest. [groups, 1] each."""

    is_even: np.ndarray
    low: np.ndarray
    step: np.ndarray
    n_steps: np.ndarray


def _grid(y: np.ndarray, rounding: float) -> _Grid:
    """The coarsest even grid on which a group's numbers lie, of at most 256 levels."""
    few = np.sort(
        y if y.shape[1] <= _MOST_LEVELS else y[:, np.linspace(0, y.shape[1] - 1, _MOST_LEVELS).astype(int)], axis=1
    )
    low, high = y.min(axis=1, keepdims=True), y.max(axis=1, keepdims=True)
    size = np.maximum(np.abs(low), np.abs(high))
    gaps = np.diff(few, axis=1)
    least = np.where(gaps > 10 * rounding * size, gaps, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    is_even = np.zeros(len(y), bool)
    step, n_steps = np.ones_like(low), np.zeros_like(low)
    for parts in (1, 2, 3, 4, 5):
        with np.errstate(all="ignore"):
            count = np.round((high - low) / (least / parts))
            this = (high - low) / count
            index = np.round((y - low) / this)
            on_grid = (np.abs(y - low - index * this) <= 4 * rounding * size) & (4 * rounding * size < 0.05 * this)
            found = on_grid.all(axis=1) & (count[:, 0] < _MOST_LEVELS) & (count[:, 0] > 0) & ~is_even
        step, n_steps = np.where(found[:, None], this, step), np.where(found[:, None], count, n_steps)
        is_even = is_even | found
        if is_even.all():
            break
    return _Grid(is_even, low, step, n_steps)


def _grids(x: np.ndarray, y: np.ndarray, rounding: float) -> Fit:
    """B on an even grid in each group, A's numbers near it; more: levels, and how many steps B is below A."""
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return _none(len(x))
    grid = _grid(y, rounding)
    is_equal = np.all(close(x, y, rounding), axis=1)
    with np.errstate(all="ignore"):
        below = (x - y) / grid.step
        index = np.round((y - grid.low) / grid.step)
        outside = ((index == 0) & (below < 0)) | ((index == grid.n_steps) & (below > 0))
        inner = np.where(outside, np.nan, below)
        least, greatest = _nan_extremes(inner)
    levels = grid.n_steps[:, 0] + 1
    reach = np.where(levels < _LEVELS_FOR_A_REACH, 0.5 + _ROOM, 2.0)  # on three levels, nothing is two steps away
    near = ((least >= -reach) & (greatest <= reach)) | ~np.isfinite(least)
    deciding = np.full(len(y), y.shape[1] - 2)
    more = np.stack([levels, least, greatest, outside.sum(axis=1)], axis=1)
    return _fit(is_equal, grid.is_even & near, deciding, np.where(is_equal, 0.0, grid.step[:, 0]), more)


def _nan_extremes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = x == x
    low, high = np.where(known, x, np.inf).min(axis=1), np.where(known, x, -np.inf).max(axis=1)
    return np.where(known.any(axis=1), low, np.nan), np.where(known.any(axis=1), high, np.nan)


def _none(n: int) -> Fit:
    return Fit(np.zeros(n, bool), np.zeros(n, int), np.zeros(n), np.empty((n, 0)))


def _float8s(x: np.ndarray, y: np.ndarray, rounding: float) -> Fit:
    """B = A, rounded to a float8 under one scale in each group, the largest being the type's largest; more: which type."""
    is_equal = np.all(close(x, y, rounding), axis=1)
    best = _none(len(x))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return best
    for which, dtype in enumerate(_FLOAT8):
        with np.errstate(all="ignore"):
            top = float(ml_dtypes.finfo(dtype).max)
            scale = np.abs(y).max(axis=1, keepdims=True) / top
            code, nearest = (np.clip(z / scale, -top, top).astype(dtype).astype(np.float64) for z in (y, x))
            on_grid = close(code * scale, y, rounding)
            error, least = np.abs(x / scale - code), np.abs(x / scale - nearest)
            is_nearest = error <= least + 4 * rounding * np.abs(x / scale)
        holds = (on_grid & is_nearest).all(axis=1)
        deciding = np.full(len(x), x.shape[1] - 1)
        fit = _fit(is_equal, holds, deciding, scale[:, 0], np.full((len(x), 1), float(which)))
        if holds.sum() > best.holds.sum():
            best = fit
    return best


def _changed(fit: Fit) -> np.ndarray:
    return fit.deciding >= 0


def _in_some(fit: Fit) -> str:
    """`; in 7 of 4096, ...`, where not all are changed; empty where all are."""
    n, n_changed = len(fit.holds), int(_changed(fit).sum())
    return "" if n_changed == n else f"; in {n_changed} of {n}, the others are equal"


def _range(values: np.ndarray) -> str:
    low, high = number(values.min()), number(values.max())
    return f"({low})" if low == high else f"({low} .. {high})"


def _tell_factors(pair: ArrayPair, gathering: Gathering, fit: Fit) -> Relation:
    factors = fit.numbers[_changed(fit)]
    some = _in_some(fit)
    if (factors == 0).all():
        key = f"zero in some, per {gathering.label}"
        return Relation(f"zero per {gathering.label}{some}", key, True)
    if np.abs(factors + 1).max() <= pair.rounding:
        key = f"A's with the sign turned in some, per {gathering.label}"
        return Relation(f"A's with the sign turned per {gathering.label}{some}", key, True)
    key = f"factor per {gathering.label}"
    return Relation(f"A's, times one factor per {gathering.label} {_range(factors)}{some}", key, True)


def _tell_offsets(pair: ArrayPair, gathering: Gathering, fit: Fit) -> Relation:
    offsets = fit.numbers[_changed(fit)]
    is_lower = bool((offsets < 0).all())
    word = "minus" if is_lower else "plus"
    steps = _in_steps_of_a(pair, gathering, fit)
    size = _range(-offsets if is_lower else offsets)
    text = f"A's, {word} one constant per {gathering.label} {size}{steps}{_in_some(fit)}"
    return Relation(text, f"offset per {gathering.label}, {word}{steps}", True)


def _in_steps_of_a(pair: ArrayPair, gathering: Gathering, fit: Fit) -> str:
    """`: one step of A's own grid`, where A is quantised and each group's constant is so many of its steps."""
    sizes = []
    at = 0
    for (x,) in gathering.rows(pair.a):
        offsets = fit.numbers[at : at + len(x)]
        is_changed = fit.deciding[at : at + len(x)] >= 0
        at += len(x)
        if not is_changed.any() or not np.isfinite(x).all():
            continue
        grid = _grid(x[is_changed], pair.rounding)
        sizes.append(np.where(grid.is_even, np.abs(offsets[is_changed]) / grid.step[:, 0], np.nan))
    if not sizes:
        return ""
    steps = np.concatenate(sizes)
    rounded = np.round(steps)
    is_whole = np.abs(steps - rounded) <= 1e-3
    if not is_whole.any():
        return ""
    values, counts = np.unique(rounded[is_whole], return_counts=True)
    most = int(values[np.argmax(counts)])
    if counts.max() < 0.9 * len(steps) or most < 1:
        return ""
    named = "one step" if most == 1 else f"{most} steps"
    return f", which is {named} of A's own grid" + ("" if counts.max() == len(steps) else " in most")


def _tell_affine(pair: ArrayPair, gathering: Gathering, fit: Fit) -> Relation:
    changed = _changed(fit)
    if np.abs(fit.more[changed, 0]).max(initial=0.0) <= _DUST * np.abs(fit.numbers[changed]).max(initial=0.0):
        text = f"A's, times one factor per {gathering.label} {_range(fit.numbers[changed])}{_in_some(fit)}"
        return Relation(text, f"factor per {gathering.label}", True)
    text = f"A's, times one factor and plus one constant per {gathering.label} (factors {_range(fit.numbers[changed])[1:-1]}"
    return Relation(
        f"{text}, constants {_range(fit.more[changed, 0])[1:-1]}){_in_some(fit)}",
        f"factor and offset per {gathering.label}",
        True,
    )


def _tell_grids(pair: ArrayPair, gathering: Gathering, fit: Fit) -> Relation:
    levels, least, greatest = (fit.more[_changed(fit), column] for column in range(3))
    at_most = 1 << int(np.ceil(np.log2(levels.max())))
    place = f"per {gathering.label}" if gathering.label else "with one step for all"
    low, high = float(np.nanmin(least)), float(np.nanmax(greatest))
    direction, after = _rounded_how(low, high)
    text = f"A's, rounded{direction} to at most {at_most} levels {place}{after}"
    by = "" if direction or after or -low <= 0.5 + _ROOM >= high else f" (by up to {number(max(-low, high), 3)} steps)"
    return Relation(text + by, text, True)


def _rounded_how(low: float, high: float) -> tuple[str, str]:
    """In which direction, and what came after it; from how many steps B is below A, at least and at most."""
    for shift, after in ((0, ""), (1, ", and then one step lower"), (-1, ", and then one step higher")):
        if low >= shift - 0.5 - _ROOM and high <= shift + 0.5 + _ROOM:
            return "", after
    if low >= -_ROOM and high <= 1 + _ROOM:
        return " down", ""
    if low >= -1 - _ROOM and high <= _ROOM:
        return " up", ""
    return "", ""


def _tell_float8(pair: ArrayPair, gathering: Gathering, fit: Fit) -> Relation:
    name = np.dtype(_FLOAT8[int(fit.more[_changed(fit), 0].max())]).name
    place = f"one scale per {gathering.label}" if gathering.label else "one scale for all"
    text = f"A's, rounded to {name} with {place}"
    return Relation(text, text, True)


def _tell_steps(pair: ArrayPair, gathering: Gathering, fit: Fit) -> Relation | None:
    changed = _changed(fit)
    steps = fit.numbers[changed]
    multiples = _multiples(pair, gathering, fit)
    is_one_sided = len(multiples) <= 3 and (multiples[0] > 0 or multiples[-1] < 0)
    if (_is_the_types_own(steps) and not is_one_sided) or not _are_of_a_kind(steps, fit.deciding[changed] > 0):
        return None
    place = f"the same step in each {_index_of_a(gathering.label)}" if gathering.label else "the same step for all"
    if len(multiples) == 1:
        by = f"{'higher' if multiples[0] > 0 else 'lower'} by one step"
    elif len(multiples) <= 3:
        by = f"off by whole steps ({', '.join(number(m) for m in multiples)})"
    else:
        by = f"off by whole steps ({number(multiples[0])} .. {number(multiples[-1])})"
    count = (
        f"all {pair.a.size} entries"
        if pair.n_differing == pair.a.size
        else f"{pair.n_differing} of {pair.a.size} entries"
    )
    text = f"A's, but {count} are {by}, {place} {_range(steps)}"
    return Relation(text, f"some entries {by}, {place}", True)


def _index_of_a(label: str) -> str:
    return label if " " in label else f"index of {label}"


def _are_of_a_kind(steps: np.ndarray, decided: np.ndarray) -> bool:
    """Whether the steps of groups in which one entry differs, of which any number is the step, are like the others'."""
    low, high = steps[decided].min(), steps[decided].max()
    return bool(np.all((steps >= low * (1 - 1e-5)) & (steps <= high * (1 + 1e-5))))


def _is_the_types_own(steps: np.ndarray) -> bool:
    """Whether all are powers of two: whole numbers and short floats differ by whole multiples of one in any case."""
    return bool(np.all(np.frexp(steps)[0] == 0.5))


def _multiples(pair: ArrayPair, gathering: Gathering, fit: Fit) -> np.ndarray:
    """By how many steps entries are off: every number that occurs."""
    found = []
    at = 0
    for x, y in gathering.rows(pair.a, pair.b):
        differs = ~close(x, y, pair.rounding)
        with np.errstate(all="ignore"):
            found.append(np.unique(np.round((y - x) / fit.numbers[at : at + len(x), None])[differs]))
        at += len(x)
    return np.unique(np.concatenate(found))
