"""Changes of A's region that are tried where B has no nodes to compare: what gives the values that a trace recorded?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ....graphs.errors import InputError
from ....graphs.network import Network, Step
from ....graphs.stepping import FLOAT, Typed, is_stored
from .expression import Style, formula, step_formula
from .functions import ACTIVATIONS, ROUNDINGS, Function, softmax
from .words import Weights

_OFFSETS = (1, -1, 2, -2)
_NEAR = 3  # steps between an activation's input and its output
_MOST_WEIGHTS = 64
_STYLE = Style(depth=3)
_PARTS = ("Split", "Slice")


@dataclass(frozen=True, slots=True)
class Trial:
    """One change of the region.

    text: it in words. key: the same for the same change elsewhere.
    step: the step at which it is made.
    make: the region's output with it; None where it cannot be run so.
    rank: how likely it is: the lower, the likelier.
    """

    text: str
    key: str
    step: Step | None
    make: Callable[[], np.ndarray | None]
    rank: int = 0


class Region:
    """A region's network, of which single values can be changed, and said in words.

    Args:
        name: what a tap or weight is called.
    """

    def __init__(self, network: Network, n_tokens: int, name: Callable[[str], str]) -> None:
        self.network, self.n_tokens, self.name = network, n_tokens, name
        inside = set(network.cone(network.output))
        self.inside = [one for one in network.values if one in inside]
        self.steps = [step for step in reversed(network.steps) if not inside.isdisjoint(step.outputs)]

    def data_values(self) -> Iterator[tuple[str, np.ndarray]]:
        """The floating-point data that the region's steps make, and that it reads."""
        yield from ((output, array) for _, output, array in self.data_steps())
        for name in self.inside:
            array = self.data(name)
            if array is not None and self.network.values[name].kind == "input":
                yield name, array

    def data_steps(self) -> Iterator[tuple[Step, str, np.ndarray]]:
        """Steps that make floating-point data, but for moves, with their first output: the last step first."""
        for step in self.steps:
            array = self.data(step.outputs[0])
            if array is not None and not step.is_move:
                yield step, step.outputs[0], array

    def data(self, name: str) -> np.ndarray | None:
        """A value, where it is floating-point data of the region's own, or a table that its steps make."""
        made, value = self.network.typed(name), self.network.values[name]
        if made is None or made.type != FLOAT or is_stored(made):
            return None
        if not value.is_data and (value.kind != "step" or made.array.size == 1):
            return None
        return made.array

    def with_value(self, name: str, make: Callable[[], np.ndarray | None]) -> np.ndarray | None:
        """The output with another value in one place."""
        made = self.network.typed(name)
        with np.errstate(all="ignore"):
            array = make()
        if made is None or array is None or made.array.size != array.size:
            return None
        wanted = array.astype(made.array.dtype if made.type != FLOAT else np.float64)
        found = self.network.rerun({name: Typed(wanted.reshape(made.array.shape), made.type)}, self.network.output)
        return None if found is None else found.array

    def trial(self, name: str, text: str, make: Callable[[], np.ndarray | None], key: str = "") -> Trial:
        """Another value in one place, as a trial."""
        return Trial(text, key or text, self._teller(name), partial(self.with_value, name, make))

    def _teller(self, name: str) -> Step | None:
        """The step at which another value is told: the one that makes it; of a part of a value, the one that reads it."""
        maker = self.network.values[name].maker
        if maker is None or maker.operator not in _PARTS or maker.domain:
            return maker
        return next((step for step in reversed(self.steps) if name in step.operands), maker)

    def applied(self, step: Step, operands: list[Typed | None]) -> np.ndarray | None:
        """What a step makes of other operands."""
        known = [operand for operand in operands if operand is not None]
        if len(known) < len(operands):
            return None
        try:
            return self.network.apply(step, known)[0].array
        except InputError:
            return None

    def said(self, name: str) -> str:
        """A value as a formula."""
        return formula(self.network, name, self._leaf, _STYLE, 3)

    def said_of(self, step: Step, hole: str = "") -> str:
        """A step as a formula, with x in the place of one operand."""

        def leaf(name: str) -> str | None:
            return "x" if name == hole else self._leaf(name)

        return step_formula(self.network, step, leaf, _STYLE, 3)

    def _leaf(self, name: str) -> str | None:
        value = self.network.values[name]
        return self.name(value.label) if value.kind in ("input", "weight") else None


def trials(region: Region, weights: Weights) -> Iterator[Trial]:
    """Every change that needs nothing to be solved for."""
    kinds: list[Iterator[Trial]] = [
        _left_out(region),
        _activations(region),
        _turned(region),
        _positions(region),
        _exchanged(region),
        _softmax_axes(region),
        _other_weights(region, weights),
        _orders(region),
        _rounded(region),
        _doubled(region),
        _moved(region),
    ]
    for rank, kind in enumerate(kinds):
        yield from (replace(trial, rank=rank) for trial in kind)


def _left_out(region: Region) -> Iterator[Trial]:
    for step, output, array in region.data_steps():
        for operand in dict.fromkeys(step.operands):
            other = region.data(operand)
            if other is not None and other.shape == array.shape:
                what = region.said_of(step, operand)
                text = f"{what} is left out, x = {region.said(operand)} is taken as it is"
                yield region.trial(output, text, partial(np.copy, other), f"{what} is left out")


def _doubled(region: Region) -> Iterator[Trial]:
    for step, output, array in region.data_steps():
        for place, operand in enumerate(step.operands):
            other = region.data(operand)
            if other is not None and other.shape == array.shape:
                operands = [region.network.typed(name) for name in step.operands]
                operands[place] = region.network.typed(output)
                text = f"{region.said_of(step, operand)} is taken twice"
                yield region.trial(output, text, partial(region.applied, step, operands))


def _moved(region: Region) -> Iterator[Trial]:
    """A step taken behind another one that A takes after it."""
    for step, output, array in region.data_steps():
        for operand in dict.fromkeys(step.operands):
            x = region.data(operand)
            if x is None or x.shape != array.shape:
                continue
            what = region.said_of(step, operand)
            for later, other, made in region.data_steps():
                if made.shape != array.shape or other == output or not region.network.is_below(other, output):
                    continue
                text = f"{what} is applied after {region.said_of(later, output)}, where A applies it before"
                make = partial(_applied_later, region, step, operand, other)
                yield Trial(text, f"{what} is applied later", step, make)


def _applied_later(region: Region, step: Step, operand: str, later: str) -> np.ndarray | None:
    """The output with a step left out where it stands, and taken of a later value."""
    network, output = region.network, step.outputs[0]
    without = network.typed(operand)
    other = None if without is None else network.rerun({output: without}, later)
    if without is None or other is None:
        return None
    operands = [other if name == operand else network.typed(name) for name in step.operands]
    made = region.applied(step, operands)
    if made is None or made.shape != other.array.shape:
        return None
    found = network.rerun({output: without, later: Typed(made, other.type)}, network.output)
    return None if found is None else found.array


def _turned(region: Region) -> Iterator[Trial]:
    """A sign turned, operands in the other order, a square operand of a product transposed."""
    for name, array in region.data_values():
        yield region.trial(name, f"the sign of {region.said(name)} is turned", partial(np.negative, array))
    for step, output, _ in region.data_steps():
        said = region.said_of(step)
        operands = [region.network.typed(name) for name in step.operands]
        if step.operator in ("Sub", "Div", "MatMul") and len(operands) == 2:
            text = f"{said} with its operands in the other order"
            yield region.trial(output, text, partial(region.applied, step, operands[::-1]))
        for operand in step.operands if len(operands) == 1 else ():
            x = region.data(operand)
            if x is not None:
                text = f"{region.said_of(step, operand)} of -x, x = {region.said(operand)}"
                yield region.trial(output, text, partial(region.applied, step, [Typed(-x, FLOAT)]))
        for place, factor in enumerate(operands if step.operator == "MatMul" else ()):
            if factor is None or factor.array.ndim < 2 or factor.array.shape[-1] != factor.array.shape[-2]:
                continue
            others = list(operands)
            others[place] = Typed(np.swapaxes(factor.array, -1, -2), factor.type)
            text = f"{said} with {region.said(step.operands[place])} transposed"
            yield region.trial(output, text, partial(region.applied, step, others))


def _exchanged(region: Region) -> Iterator[Trial]:
    """Another value of the same shape in the place of one."""
    network = region.network
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name in region.inside:
        array = region.data(name)
        if array is not None and array.size > 1:
            shapes.setdefault(array.shape, []).append(name)
    for group in shapes.values():
        for name in group:
            for other in group:
                if network.is_below(other, name) or network.is_below(name, other):
                    continue  # what stands above or below it: left out, or a circle
                text = f"takes {region.said(other)} where A takes {region.said(name)}"
                yield region.trial(name, text, partial(network.array, other))


def _activations(region: Region) -> Iterator[Trial]:
    for step, output, array in region.data_steps():
        if step.operator in ("MatMul", "Gather"):
            continue
        for near in _near(region, output, array.shape):
            x, of = region.data(near), region.said(near)
            said = region.said(output)
            for text, function in ACTIVATIONS.items() if x is not None else ():
                yield region.trial(
                    output,
                    f"{text} where A has {said}, x = {of}",
                    partial(_of, function, x),
                    f"{text} where A has {said}",
                )


def _of(function: Function, x: np.ndarray | None) -> np.ndarray | None:
    return None if x is None else function(x)


def _near(region: Region, name: str, shape: tuple[int, ...]) -> Iterator[str]:
    """Values of this shape, a few steps above one."""
    level, seen = [name], {name}
    for _ in range(_NEAR):
        makers = [region.network.values[one].maker for one in level]
        level = [o for maker in makers if maker is not None for o in maker.operands if o not in seen]
        seen.update(level)
        for one in dict.fromkeys(level):
            array = region.data(one)
            if array is not None and array.shape == shape:
                yield one


def _softmax_axes(region: Region) -> Iterator[Trial]:
    for step, output, array in region.data_steps():
        x = region.data(step.operands[0]) if step.operator == "Softmax" else None
        if x is None:
            continue
        for axis in range(-array.ndim, -1):
            text = f"softmax over axis {axis} where A's is over the last"
            yield region.trial(output, text, partial(softmax, x, axis))


def _positions(region: Region) -> Iterator[Trial]:
    """Other positions, from some token on."""
    n = region.n_tokens
    for name in region.inside:
        value, array = region.network.values[name], region.network.array(name)
        if array is None or value.kind == "weight" or array.size != n or n < 2 or array.dtype.kind not in "fi":
            continue
        flat = array.ravel()
        if not np.array_equal(flat, np.arange(n) + flat[0]):
            continue
        for start in range(n):
            late = np.arange(n) >= start
            for offset in _OFFSETS:
                text = f"positions {offset:+d}" + (f" from token {start} on" if start else "")
                yield region.trial(name, text, partial(np.add, flat, np.where(late, offset, 0)))
            if start:
                held, anew = np.minimum(flat, flat[start - 1]), np.where(late, flat - start, flat)
                yield region.trial(name, f"positions stop at {start - 1}", partial(np.copy, held))
                yield region.trial(name, f"positions start again at token {start}", partial(np.copy, anew))


def _orders(region: Region) -> Iterator[Trial]:
    """Values of the token, or head, before or after; or in reverse order."""
    for name, array in region.data_values():
        said = region.said(name)
        for axis in [axis for axis in range(array.ndim - 1) if array.shape[axis] > 1]:
            for by in (1, -1):
                text = f"{said} at index i{-by:+d} for i along axis {axis}"
                yield region.trial(name, text, partial(np.roll, array, by, axis))
            yield region.trial(name, f"{said} in reverse order along axis {axis}", partial(np.flip, array, axis))


def _other_weights(region: Region, weights: Weights) -> Iterator[Trial]:
    """Another tensor of the checkpoint, or this one read otherwise."""
    for name in region.inside:
        value, made = region.network.values[name], region.network.typed(name)
        if value.kind != "weight" or made is None:
            continue
        own, array = region.name(value.label), made.array
        part = value.label.rsplit(".", 1)[-1]
        others = [one for one in weights if one != value.label and one.endswith(f".{part}")][:_MOST_WEIGHTS]
        for label in others:
            other = region.name(label)
            yield _of_weight(
                region,
                name,
                f"takes {other} where A takes {own}",
                f"takes {_kind(other)} where A takes {own}",
                weights[label],
            )
        if array.ndim == 1:
            yield _of_weight(region, name, f"{own} is 1 + A's", "the weight is 1 + A's", partial(np.add, 1.0, array))
            yield _of_weight(
                region, name, f"{own} is left out: ones", "the weight is left out", partial(np.ones_like, array)
            )
            yield _of_weight(
                region, name, f"{own} is left out: zeros", "the weight is left out", partial(np.zeros_like, array)
            )
            for text, change in (("in reverse", np.flip), ("rolled by 1", partial(np.roll, shift=1))):
                yield _of_weight(region, name, f"{own} is {text}", f"the weight is {text}", partial(change, array))
        elif array.ndim == 2 and array.shape[0] == array.shape[1]:
            yield _of_weight(
                region, name, f"{own} is transposed", "the weight is transposed", partial(np.transpose, array)
            )


def _kind(label: str) -> str:
    return label if not label.startswith("blk.") else f"{label.split('.', 2)[2]} of another block"


def _of_weight(region: Region, name: str, text: str, key: str, make: Callable[[], np.ndarray]) -> Trial:
    def output() -> np.ndarray | None:
        array, made = np.asarray(make()), region.network.typed(name)
        if made is None or array.shape != made.array.shape:
            return None
        found = region.network.rerun({name: Typed(array, FLOAT)}, region.network.output)
        return None if found is None else found.array

    return Trial(text, key, next((step for step in region.steps if name in step.operands), None), output)


def _rounded(region: Region) -> Iterator[Trial]:
    for name in region.inside:
        made = region.network.typed(name)
        if made is None or made.type != FLOAT or made.array.size < 2 or not region.network.values[name].is_data:
            continue
        said, wide = region.said(name), partial(np.asarray, made.array, np.float64)
        for kind, function in ROUNDINGS.items():
            text = f"{said} is rounded to {kind}"
            if is_stored(made):
                yield _of_weight(
                    region, name, text, f"the weight is rounded to {kind}", partial(_made_of, function, wide)
                )
            else:
                yield region.trial(name, text, partial(_made_of, function, wide))


def _made_of(function: Function, array: Callable[[], np.ndarray]) -> np.ndarray:
    return function(array())
