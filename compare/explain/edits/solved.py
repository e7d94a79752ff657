"""Numbers of A's region that are solved for where B has no nodes: a constant, a factor, an attribute, a clamp."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from ....graphs.errors import InputError
from ....graphs.network import Step
from ....graphs.stepping import FLOAT
from ...conventions.fit import descend, is_plain, shortened
from ..arrays import shown, told_apart
from .trials import Region, Trial

_LARGEST = 1 << 16  # entries of a constant that may have another factor
_FEWEST_CLIPPED = 2
_CLIPPED_FROM = 0.7  # of the largest value: where the search for a clamp begins
_PLAIN, _ODD = 1, 20  # ranks: a number of few digits, as somebody types it, and any other


def solved(region: Region, wanted: np.ndarray, is_met: Callable[[np.ndarray | None], bool]) -> Iterator[Trial]:
    """Changes with a number that was solved for, in as few digits as meet what is wanted.

    Args:
        wanted: the output, in the region's own layout.
    """
    yield from _clamped(region, wanted)
    for text, key, step, start, make in _numbers(region):
        found = _solve(make, start, wanted)
        if found is None:
            continue
        for value in shortened(found).values:
            assert isinstance(value, float)
            if is_met(make(value)):
                after = told_apart(start, value)[1]
                yield Trial(
                    text.format(after),
                    key.format(after),
                    step,
                    partial(make, value),
                    _PLAIN if is_plain(value) else _ODD,
                )
                break


Number = tuple[str, str, Step | None, float, Callable[[float], np.ndarray | None]]


def _numbers(region: Region) -> Iterator[Number]:
    """What can be another number: in words with a hole for it, where it stands, what it is, and the output with another."""
    network = region.network
    for step in region.steps:
        for name in step.operands:
            value, array = network.values[name], network.array(name)
            if array is None or value.is_data or array.dtype.kind != "f" or array.size > _LARGEST:
                continue
            if not np.isfinite(array).all() or not array.any() or value.maker is not None:
                continue
            where = region.said_of(step)
            if array.size == 1:
                own = float(array.ravel()[0])
                text = f"{{}} where A has {shown(array)}, in {where}"
                yield text, text, step, own, _with_constant(region, name, array, is_factor=False)
            else:
                text = f"the constant is A's times {{}}, in {where}"
                yield (
                    text,
                    "the constant is A's times {}",
                    step,
                    1.0,
                    _with_constant(region, name, array, is_factor=True),
                )
        for attribute, number in step.attributes.items():
            if isinstance(number, float) and number:
                text = f"{step.operator} with {attribute}={{}} where A has {shown(np.asarray(number, np.float32))}"
                yield text, text, step, number, _with_attribute(region, step, attribute)
    for name, array in region.data_values():
        text, maker = f"{region.said(name)} times {{}}", network.values[name].maker
        yield text, text, maker, 1.0, _with_factor(region, name, array)
    for name, array in region.data_values():
        largest = float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
        if largest and name != network.output:
            text = f"clip(x, -{{0}}, {{0}}) is extra, x = {region.said(name)}"
            start = _CLIPPED_FROM * largest
            yield text, "clip at {0} is extra", network.values[name].maker, start, _clipped(region, name, array)


def _with_constant(
    region: Region, name: str, array: np.ndarray, is_factor: bool
) -> Callable[[float], np.ndarray | None]:
    def make(number: float) -> np.ndarray | None:
        return region.with_value(name, lambda: array * number if is_factor else np.full(array.shape, number))

    return make


def _clipped(region: Region, name: str, array: np.ndarray) -> Callable[[float], np.ndarray | None]:
    return lambda number: region.with_value(name, lambda: np.clip(array, -abs(number), abs(number)))


def _with_factor(region: Region, name: str, array: np.ndarray) -> Callable[[float], np.ndarray | None]:
    return lambda number: region.with_value(name, lambda: array * number)


def _with_attribute(region: Region, step: Step, attribute: str) -> Callable[[float], np.ndarray | None]:
    def make(number: float) -> np.ndarray | None:
        operands = [region.network.typed(name) for name in step.operands]
        return region.with_value(
            step.outputs[0], lambda: region.applied(step.with_attribute(attribute, number), operands)
        )

    return make


def _solve(make: Callable[[float], np.ndarray | None], start: float, wanted: np.ndarray) -> float | None:
    """The number that brings the output nearest to what is wanted; None where it hardly gets nearer."""
    known = np.isfinite(wanted)
    scale = float(np.linalg.norm(wanted[known])) or 1.0

    def difference(place: float) -> np.ndarray:
        got = make(float(np.exp(place)) if start > 0 else place)
        if got is None or got.size != wanted.size:
            raise InputError("no output")
        got = got.reshape(wanted.shape)
        return np.where(known & np.isfinite(got), got - np.where(known, wanted, 0.0), 0.0).ravel() / scale

    try:
        with np.errstate(all="ignore"):
            place = descend(difference, float(np.log(start)) if start > 0 else start)
    except InputError:
        return None
    return None if place is None else float(np.exp(place)) if start > 0 else place


def _clamped(region: Region, wanted: np.ndarray) -> Iterator[Trial]:
    """The output clamped at what it does not go beyond."""
    made = region.network.typed(region.network.output)
    if made is None or made.type != FLOAT or made.array.size != wanted.size:
        return
    array, other = made.array, wanted.reshape(made.array.shape)
    finite = np.isfinite(array) & np.isfinite(other)
    if not finite.all():
        return
    low, high = float(other.min()), float(other.max())
    n_above, n_below = int((array > high).sum()), int((array < low).sum())
    if n_above + n_below < _FEWEST_CLIPPED:
        return
    step = region.network.values[region.network.output].maker
    if abs(low + high) <= 1e-6 * high:
        text = f"clip(x, {-high:.7g}, {high:.7g}) is extra, x = {region.said(region.network.output)}"
        yield Trial(text, f"clip at {high:.7g} is extra", step, lambda: np.clip(array, -high, high))
    text = f"clip(x, {low:.7g}, {high:.7g}) is extra, x = {region.said(region.network.output)}"
    bounds = (low if n_below else -np.inf), (high if n_above else np.inf)
    yield Trial(text, "clip is extra", step, lambda: np.clip(array, *bounds))
