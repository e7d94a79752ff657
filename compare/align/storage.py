"""One weight in two storages: numbers that are another graph's, as fewer bits hold them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np

from ...graphs.adopt.flat import Flat
from ...graphs.adopt.opened import Foreign
from ...graphs.artifact import Weight
from .anchors import Anchor, anchors_of, digest, paired, root
from .values import moves

OF_A_STEP = 1.02  # of its storage: how far a number that is rounded, up or down, lies from what it was
_PROBED, _AT_ONCE = 64, 1 << 20  # elements
_MOST_MERGED = 3  # products in one: of q, k and v, or of gate and up
_SINGLE = 2.0**-23  # float32's step, relative
_BEYOND_HALF = 65504.0  # where a step is infinite, the storage holds its largest number for all beyond it


Numbers = dict[str, np.ndarray]  # by the constant's name


def with_weights_of(foreign: Foreign, other: Foreign) -> Foreign:
    """The same graph; a weight that the other has too, to the bit and in the same layout, is the other's, and so is read
    once.
    """
    in_one_place = {_as_read(weight): weight for weight in other.weights.values()}
    shared = {name: in_one_place.get(_as_read(weight)) for name, weight in foreign.weights.items()}
    known: dict[tuple, list[Weight]] = {}
    for weight in other.weights.values() if None in shared.values() else ():
        known.setdefault(_sign(weight.array), []).append(weight)

    def held_by_other(weight: Weight) -> Weight:
        return next((one for one in known.get(_sign(weight.array), ()) if one.equals(weight)), weight)

    return replace(foreign, weights={name: one or held_by_other(foreign.weights[name]) for name, one in shared.items()})


def _as_read(weight: Weight) -> tuple:
    """Where a weight stands, and as what it is read."""
    return weight.identity, weight.array.dtype, weight.array.shape


def _sign(array: np.ndarray) -> tuple:
    return array.dtype, array.shape, digest(array)


def in_one_storage(a: Flat, b: Flat) -> tuple[Numbers, Numbers]:
    """For constants that are the other side's in fewer bits, those numbers: of A, and of B."""
    found: tuple[Numbers, Numbers] = ({}, {})
    for side, (flat, other) in enumerate(((a, b), (b, a))):
        if flat.foreign.half:
            found[side].update(_of_halves(flat, other))
    both = anchors_of(a), anchors_of(b)
    pairs = paired(*both)
    taken = {id(pair.a) for pair in pairs}, {id(pair.b) for pair in pairs}
    for pair in pairs:
        if pair.is_equal or pair.a.weight.shape != pair.b.weight.shape:
            continue
        if pair.a.weight_name in found[0] or pair.b.weight_name in found[1]:
            continue
        ours, theirs = (np.asarray(anchor.weight, np.float32) for anchor in (pair.a, pair.b))
        steps = [_step(flat, anchor) for flat, anchor in ((a, pair.a), (b, pair.b))]
        known = [step for step in steps if step is not None]
        if not known or not any(map(np.any, known)):
            continue
        bound = known[0] if len(known) == 1 else known[0] + known[1]
        if not is_stored_as(theirs, ours, np.broadcast_to(bound, ours.shape)):
            continue
        is_b_finer = steps[1] is None or (steps[0] is not None and steps[1].mean() < steps[0].mean())
        side, anchor, array = (0, pair.a, theirs) if is_b_finer else (1, pair.b, ours)
        found[side].setdefault(anchor.weight_name, anchor.as_read(array))
    left = [[one for one in anchors if id(one) not in known] for anchors, known in zip(both, taken, strict=True)]
    for side, (flat, other) in enumerate(((a, b), (b, a))):
        for which, anchor, array in _merged(flat, left[side], other, left[1 - side]):
            found[side ^ which].setdefault(anchor.weight_name, anchor.as_read(array))
        found[side].update(_of_blocks(flat, other, found[side]))
    return found


def _merged(
    flat: Flat, anchors: Sequence[Anchor], other: Flat, parts: Sequence[Anchor]
) -> Iterator[tuple[int, Anchor, np.ndarray]]:
    """Products that are several of the other side's at once, on one value, where one of the two has fewer bits: the
    anchors of the coarser, 0 for this side and 1 for the other, each with the numbers of the finer.
    """
    groups: dict[str, list[Anchor]] = {}
    for part in parts:
        if part.role == "product":
            groups.setdefault(root(other, part.x)[0], []).append(part)
    for anchor in anchors:
        if anchor.role != "product":
            continue
        for group in groups.values():
            if not 1 < len(group) <= _MOST_MERGED or sum(len(part.weight) for part in group) != len(anchor.weight):
                continue
            if any(part.weight.shape[1] != anchor.weight.shape[1] for part in group):
                continue
            found = _in_one_order(flat, anchor, other, group)
            if found is not None:
                yield from found
                break


def _in_one_order(
    flat: Flat, anchor: Anchor, other: Flat, group: Sequence[Anchor]
) -> list[tuple[int, Anchor, np.ndarray]] | None:
    """The same for one product and those that it may be; None where it is not."""
    own = _step(flat, anchor)
    steps = [_step(other, part) for part in group]
    stored = [
        np.zeros(part.weight.shape, np.float32) if step is None else step
        for part, step in zip(group, steps, strict=True)
    ]
    if (own is None or not own.any()) and not any(step.any() for step in stored):
        return None
    for order in permutations(zip(group, stored, strict=True)):
        rows, theirs = (np.concatenate(parts) for parts in ([part.weight for part, _ in order], [s for _, s in order]))
        if not is_stored_as(anchor.weight, rows, theirs if own is None else theirs + own):
            continue
        if own is not None and own.mean() >= theirs.mean():
            return [(0, anchor, np.asarray(rows, np.float32))]
        ends = np.cumsum([len(part.weight) for part, _ in order])[:-1]
        arrays = np.split(np.asarray(anchor.weight, np.float32), ends)
        return [(1, part, array) for (part, _), array in zip(order, arrays, strict=True)]
    return None


def computed_alike(flat: Flat, other: Flat) -> Numbers:
    """For constants that a graph computes, the other graph's that are those but for float32's rounding: it may have them
    ready, computed in float32.
    """
    by_size: dict[int, list[str]] = {}
    for name in _read(other):
        by_size.setdefault(other.array(name).size, []).append(name)
    found: Numbers = {}
    for name in _read(flat):
        if not _is_computed(flat, name):
            continue
        array = flat.array(name)
        near = [other.array(one) for one in by_size.get(array.size, ()) if one in other.initial]
        largest = np.abs(array).max(initial=0.0) if near else np.inf
        if not np.isfinite(largest):
            continue
        begins = _begins(array)
        bound = _computed_otherwise(begins, largest)
        near = [one for one in near if _is_near(one.flat[:_PROBED], begins, bound)]
        if not near:
            continue
        array = np.asarray(array, np.float64)
        bound = _computed_otherwise(array, largest)
        for candidate in (one.reshape(array.shape) for one in near):
            if is_stored_as(candidate, array, bound) and not np.array_equal(array, candidate):
                found[name] = np.asarray(candidate, np.float32)
                break
    return found


def _computed_otherwise(array: np.ndarray, largest: float) -> np.ndarray:
    """How far numbers may lie from what they are when computed in float32."""
    return 4 * _SINGLE * np.abs(array) + _SINGLE / 2 * largest


def rounded_alike(flat: Flat, other: Flat) -> Numbers:
    """For constants that a graph holds, the other graph's that are those in all but float32's last digits: each was computed
    beforehand, by another hand.
    """
    known: dict[tuple[int, ...], list[np.ndarray]] = {}
    same = set[tuple]()
    for name in _read(other):
        same.add(digest(other.array(name)))
        if not _is_computed(other, name):
            known.setdefault(other.array(name).shape, []).append(other.array(name))
    probed = {shape: np.stack([_begins(one) for one in arrays]) for shape, arrays in known.items()}
    found: Numbers = {}
    for name in _read(flat):
        array = flat.array(name)
        if array.shape not in known or name in flat.storage or _is_computed(flat, name) or digest(array) in same:
            continue
        begins = _begins(array)
        if not np.isfinite(begins).all():
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            is_near = (np.abs(probed[array.shape] - begins) <= 4 * OF_A_STEP * _SINGLE * np.abs(begins)).all(-1)
        near = [known[array.shape][place] for place in np.flatnonzero(is_near)]
        if not near or not np.isfinite(array).all():
            continue
        bound = 4 * _SINGLE * np.abs(array)
        if (first := next((one for one in near if is_stored_as(one, array, bound)), None)) is not None:
            found[name] = np.asarray(first, np.float32)
    return found


def _begins(array: np.ndarray) -> np.ndarray:
    """The first numbers of an array, of whatever type, in float64."""
    return np.asarray(array.flat[:_PROBED], np.float64)


def _is_computed(flat: Flat, name: str) -> bool:
    """Whether a constant is no initializer, nor one that is only moved elsewhere."""
    while (node := flat.constant_nodes.get(name)) is not None and moves(node.op_type, node.domain):
        name = node.input[0]
    return name not in flat.initial


def _read(flat: Flat) -> set[str]:
    """The constants of numbers that nodes read."""
    read = {name for node in flat.nodes for name in node.reads if name in flat.constants}
    return {name for name in read if flat.array(name).dtype.kind not in "biu"}


def _step(flat: Flat, anchor: Anchor) -> np.ndarray | None:
    step = flat.storage.get(anchor.weight_name)
    return None if step is None else np.abs(np.asarray(step.T if anchor.is_turned else step, np.float32))


def _of_halves(flat: Flat, other: Flat) -> Numbers:
    """For the constants of a graph in half precision, the other graph's numbers, where they are those, rounded."""
    by_shape: dict[tuple[int, ...], list[np.ndarray]] = {}
    for name in other.constants:
        array = other.array(name)
        if array.dtype.kind not in "biu" and name not in other.storage:
            by_shape.setdefault(array.shape, []).append(array)
    found: Numbers = {}
    for name, step in flat.storage.items():
        if name not in flat.constants or name in flat.constant_nodes:
            continue
        array = flat.array(name)
        candidates = by_shape.get(array.shape, [])
        if array.size == 1:  # many a number is near one number
            candidates = [one for one in candidates if flat.foreign.rounds_to(one, array)]
        nearest = _nearest(array, candidates, step)
        if nearest is not None:
            found[name] = nearest
    return {**found, **_of_rows_of_halves(flat, other, found)}


def _of_blocks(flat: Flat, other: Flat, known: Collection[str]) -> Numbers:
    """For large constants that are stored in whole numbers and that no product or look-up reads, as rows of a table for
    positions or a norm's gain, the other graph's numbers, where they are those, rounded; without those that are known.
    """
    by_shape: dict[tuple[int, ...], list[np.ndarray]] = {}
    for name in _read(other):
        if name not in other.storage:
            by_shape.setdefault(_without_ones(other.array(name)), []).append(other.array(name))
    found: Numbers = {}
    for name in _read(flat):
        step, array = flat.storage.get(name), flat.array(name)
        if name in known or step is None or flat.foreign.half or array.size < _PROBED:
            continue
        candidates = (one.reshape(array.shape) for one in by_shape.get(_without_ones(array), ()))
        nearest = _nearest(array, candidates, np.abs(step))
        if nearest is not None:
            found[name] = nearest
    return found


def _without_ones(array: np.ndarray) -> tuple[int, ...]:
    """A shape without its axes of one, which say only what a constant is spread over."""
    return tuple(size for size in array.shape if size != 1)


def _nearest(array: np.ndarray, candidates: Iterable[np.ndarray], step: np.ndarray) -> np.ndarray | None:
    """Of those that an array may be, stored so, the nearest one."""
    near = [one for one in candidates if is_stored_as(array, one, step)]
    if len(near) > 1:
        near.sort(key=lambda one: _far(array, one))
    return np.asarray(near[0], np.float32) if near else None


def _of_rows_of_halves(flat: Flat, other: Flat, known: Collection[str]) -> Numbers:
    """The same for the constants that are rows, or a part, of one in half precision, as what is read of tables of sines, or
    that are another's twice; without those that are known.
    """
    wanted = {name: flat.array(name) for name in _read(flat) if name not in known and flat.array(name).size > 1}
    sizes = {array.size for array in wanted.values()}
    by_size: dict[int, list[np.ndarray]] = {}
    for name in _read(other):
        array = other.array(name)
        is_twice = array.ndim > 1 and 2 * array.size in sizes
        for one in (array, _once(array), np.concatenate([array, array], -1) if is_twice else None):
            if one is not None and np.isfinite(one).all():
                by_size.setdefault(one.size, []).append(one)
    found: Numbers = {}
    for name, array in wanted.items():
        step = flat.storage[name] if name in flat.storage else flat.foreign.step_of_halves(array)
        if step is None:
            continue
        near = (one.reshape(array.shape) for one in by_size.get(array.size, ()))
        near = (one for one in near if is_stored_as(array, one, step) and not np.array_equal(array, one))
        if (first := next(near, None)) is not None:
            found[name] = np.asarray(first, np.float32)
    return found


def _once(array: np.ndarray) -> np.ndarray | None:
    """The first half of a last axis whose second half is the same, as tables of sines are written for both halves of a head."""
    if array.ndim == 0 or array.shape[-1] % 2:
        return None
    first, second = np.split(array, 2, -1)
    return first if np.array_equal(first, second) else None


def is_stored_as(stored: np.ndarray, exact: np.ndarray, step: np.ndarray) -> bool:
    """Whether every number lies within a step of its storage from what it is to be; all have one shape."""
    shape = stored.shape
    if stored.size > _PROBED and not _is_near(*(x.flat[:_PROBED] for x in (stored, exact, step))):
        return False
    if stored.ndim < 2:
        return _is_near(stored, exact, step)
    rows = max(1, _AT_ONCE * shape[0] // stored.size)
    parts = (slice(start, start + rows) for start in range(0, shape[0], rows))
    return all(_is_near(stored[part], exact[part], step[part]) for part in parts)


def _is_near(stored: np.ndarray, exact: np.ndarray, step: np.ndarray) -> bool:
    ours, theirs = (np.asarray(x, np.result_type(x, np.float32)) for x in (stored, exact))
    with np.errstate(invalid="ignore", over="ignore"):
        bound = OF_A_STEP * np.abs(step)
        is_within = np.abs(ours - theirs) <= bound
        if is_within.all() and bound.max(initial=0) < np.inf:
            return True
        is_within |= ours == theirs
        is_open = np.isinf(bound)
        is_beyond = (np.sign(ours) == np.sign(theirs)) & (np.abs(theirs) >= np.minimum(np.abs(ours), _BEYOND_HALF))
    return bool(np.where(is_open, is_beyond, is_within).all())


def _far(a: np.ndarray, b: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):
        difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return float(np.abs(difference[np.isfinite(difference)]).sum())
