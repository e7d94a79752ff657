"""Changes of A's region that are tried where B has no nodes to compare: what gives the values that a trace recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ....graphs.errors import InputError
from ....graphs.network import Network, Step
from ....graphs.stepping import FLOAT, Typed, is_stored, rounded
from ..arrays import told_apart
from .arrangement import plain
from .expression import Style, formula, step_formula

Weights = Mapping[str, Callable[[], np.ndarray]]
_OFFSETS = (1, -1, 2, -2)
_NEAR_ANCESTOR = 3  # steps between an activation's input and its output
_GROUP = 32
_MOST_WEIGHTS = 64
_STYLE = Style(depth=3)


@dataclass(frozen=True, slots=True)
class Trial:
    """One change.

    text: it in words. key: the same without what is of this place alone.
    step: the step at which it is made.
    make: the region's output with it; None where it cannot be run so.
    """

    text: str
    key: str
    step: Step | None
    make: Callable[[], np.ndarray | None]


class Trials:
    """The changes of one region, likelier ones first. What must be solved for is left to `solving`.

    Args:
        network: the region, on the values that the trace recorded.
        n_tokens: how many.
        block: the region's.
        weights: every tensor of the checkpoint.
    """

    def __init__(self, network: Network, n_tokens: int, name: Callable[[str], str], weights: Weights) -> None:
        self._network, self._n_tokens, self._name, self._weights = network, n_tokens, name, weights
        inside = set(network.cone(network.output))
        self._steps = [step for step in reversed(network.steps) if not inside.isdisjoint(step.outputs)]
        self._inside = [name for name in network.values if name in inside]

    def __iter__(self) -> Iterator[Trial]:
        for kind in (
            self._left_out,
            self._doubled,
            self._turned,
            self._exchanged,
            self._activations,
            self._axes,
            self._positions,
            self._shifted,
            self._other_weights,
            self._rounded,
        ):
            yield from kind()

    # -- helpers

    def _data_steps(self) -> Iterator[tuple[Step, str, np.ndarray]]:
        """Steps that make floating-point data, with their first output, the last step first."""
        for step in self._steps:
            made = self._network.typed(step.outputs[0])
            if made is not None and self._network.values[step.outputs[0]].is_data and made.type == FLOAT:
                if not step.is_move and not is_stored(made):
                    yield step, step.outputs[0], made.array

    def with_value(self, name: str, array: np.ndarray) -> np.ndarray | None:
        """The output with another value in one place."""
        made = self._network.typed(name)
        if made is None or made.array.size != array.size:
            return None
        given = {name: Typed(np.asarray(array, np.float64).reshape(made.array.shape), made.type)}
        if made.type != FLOAT:
            given = {name: Typed(array.astype(made.array.dtype).reshape(made.array.shape), made.type)}
        found = self._network.rerun(given, self._network.output)
        return None if found is None else found.array

    def _trial(self, name: str, text: str, key: str, step: Step | None, array: Callable[[], np.ndarray | None]) -> Trial:
        def make() -> np.ndarray | None:
            with np.errstate(all="ignore"):
                other = array()
            return None if other is None else self.with_value(name, other)

        return Trial(text, key, step, make)

    def said(self, name: str) -> str:
        """A value as a formula."""
        return formula(self._network, name, self._leaf, _STYLE, 2)

    def said_step(self, step: Step) -> str:
        """A step as a formula."""
        return step_formula(self._network, step, self._leaf, _STYLE, 3)

    def _leaf(self, name: str) -> str | None:
        value = self._network.values[name]
        return self._name(value.label) if value.kind in ("input", "weight") else None

    # -- kinds of change

    def _left_out(self) -> Iterator[Trial]:
        for step, output, array in self._data_steps():
            for operand in dict.fromkeys(step.operands):
                other = self._network.typed(operand)
                if other is None or other.array.shape != array.shape or other.type != FLOAT or is_stored(other):
                    continue
                if not self._network.values[operand].is_data:
                    continue
                what = step_formula(self._network, step, lambda n, o=operand: "x" if n == o else self._leaf(n), _STYLE, 3)
                text = f"{what} is left out, x = {self.said(operand)} is taken as it is"
                yield self._trial(output, text, f"{what} is left out", step, lambda o=other: o.array)

    def _doubled(self) -> Iterator[Trial]:
        for step, output, array in self._data_steps():
            for place, operand in enumerate(step.operands):
                other = self._network.typed(operand)
                if other is None or other.array.shape != array.shape or not self._network.values[operand].is_data:
                    continue
                what = step_formula(self._network, step, lambda n, o=operand: "x" if n == o else self._leaf(n), _STYLE, 3)
                yield self._trial(
                    output, f"{what} is taken twice", f"{what} is taken twice", step,
                    lambda s=step, p=place: self._again(s, p),
                )  # fmt: skip

    def _again(self, step: Step, place: int) -> np.ndarray | None:
        operands = [self._network.typed(name) for name in step.operands]
        operands[place] = self._network.typed(step.outputs[0])
        if any(operand is None for operand in operands):
            return None
        try:
            return self._network.apply(step, [operand for operand in operands if operand is not None])[0].array
        except InputError:
            return None

    def _turned(self) -> Iterator[Trial]:
        """A sign turned, operands in the other order, a square weight transposed."""
        for step, output, array in self._data_steps():
            said = self.said_step(step)
            yield self._trial(output, f"the sign of {said} is turned", f"the sign of {said} is turned", step, lambda a=array: -a)
            if step.operator in ("Sub", "Div", "MatMul") and len(step.operands) == 2:
                text = f"{said} with its operands in the other order"
                yield self._trial(output, text, text, step, lambda s=step: self._swapped(s))
            for operand in step.operands if step.operator == "MatMul" else ():
                made = self._network.typed(operand)
                if made is not None and made.array.ndim >= 2 and made.array.shape[-1] == made.array.shape[-2]:
                    text = f"{said} with {self.said(operand)} transposed"
                    yield Trial(text, text, step, lambda s=step, o=operand: self._with_operand(s, o))

    def _swapped(self, step: Step) -> np.ndarray | None:
        operands = [self._network.typed(name) for name in reversed(step.operands)]
        if any(operand is None for operand in operands):
            return None
        try:
            return self._network.apply(step, [operand for operand in operands if operand is not None])[0].array
        except InputError:
            return None

    def _with_operand(self, step: Step, transposed: str) -> np.ndarray | None:
        operands = []
        for name in step.operands:
            made = self._network.typed(name)
            if made is None:
                return None
            operands.append(Typed(np.swapaxes(made.array, -1, -2), made.type) if name == transposed else made)
        return self.with_value(step.outputs[0], self._network.apply(step, operands)[0].array)

    def _exchanged(self) -> Iterator[Trial]:
        """Another value of the same shape in the place of an operand."""
        names = [name for name in self._inside if self._network.values[name].is_data]
        shapes: dict[tuple[int, ...], list[str]] = {}
        for name in names:
            made = self._network.typed(name)
            if made is not None and made.type == FLOAT and made.array.size > 1 and not is_stored(made):
                shapes.setdefault(made.array.shape, []).append(name)
        for group in shapes.values():
            for name in group:
                for other in group:
                    if other == name or self._network.base(other) == self._network.base(name) or self._network.is_below(other, name):
                        continue
                    if self._network.is_below(name, other):
                        continue  # something left out
                    text = f"takes {self.said(other)} where A takes {self.said(name)}"
                    value = self._network.array(other)
                    yield self._trial(name, text, text, self._network.values[name].maker, lambda v=value: v)

    def _activations(self) -> Iterator[Trial]:
        for step, output, array in self._data_steps():
            if step.operator in ("MatMul", "Gather"):
                continue
            for x in self._near_ancestors(output, array.shape):
                value = self._network.array(x)
                if value is None:
                    continue
                said, of = self.said(output), self.said(x)
                for name, function in _ACTIVATIONS.items():
                    text = f"{name.replace('x', f'({of})' if ' ' in of else of)} where A has {said}"
                    yield self._trial(output, text, f"{name} where A has {said}", step, lambda v=value, f=function: f(v))

    def _near_ancestors(self, name: str, shape: tuple[int, ...]) -> Iterator[str]:
        level, seen = [name], {name}
        for _ in range(_NEAR_ANCESTOR):
            makers = [self._network.values[one].maker for one in level]
            level = [o for maker in makers if maker is not None for o in maker.operands if o not in seen]
            seen.update(level)
            for one in dict.fromkeys(level):
                array = self._network.array(one)
                if array is not None and array.shape == shape and self._network.values[one].is_data:
                    yield one

    def _axes(self) -> Iterator[Trial]:
        """Softmax, means and concatenations over another axis."""
        for step, output, array in self._data_steps():
            if step.operator not in ("Softmax", "LogSoftmax") or array.ndim < 2:
                continue
            operand = self._network.array(step.operands[0])
            for axis in range(-array.ndim, -1):
                text = f"{step.operator.lower()} over axis {axis} where A's is over the last"
                yield self._trial(output, text, text, step, lambda o=operand, a=axis: None if o is None else _softmax(o, a))

    def _positions(self) -> Iterator[Trial]:
        """Positions that are others, from some token on."""
        n = self._n_tokens
        for name in self._inside:
            value, array = self._network.values[name], self._network.array(name)
            if array is None or value.kind == "weight" or array.size != n or n < 2 or array.dtype.kind not in "fi":
                continue
            flat = array.ravel()
            if not np.array_equal(flat, np.arange(n) + flat[0]):
                continue
            for start in range(n):
                for offset in _OFFSETS:
                    moved = flat + np.where(np.arange(n) >= start, offset, 0)
                    whence = f" from token {start} on" if start else ""
                    text = f"positions {offset:+d}{whence}"
                    yield self._trial(name, text, text, value.maker, lambda m=moved: m)
                if start:
                    text = f"positions stop at {start - 1}"
                    held = np.minimum(flat, flat[start - 1])
                    yield self._trial(name, text, text, value.maker, lambda m=held: m)
                    text = f"positions start again at token {start}"
                    anew = np.where(np.arange(n) >= start, flat - start, flat)
                    yield self._trial(name, text, text, value.maker, lambda m=anew: m)

    def _shifted(self) -> Iterator[Trial]:
        """Values of the token before or after; heads in another order."""
        for step, output, array in self._data_steps():
            said = self.said_step(step)
            for axis in range(array.ndim):
                if array.shape[axis] < 2 or axis == array.ndim - 1:
                    continue
                for by in (1, -1):
                    text = f"{said} of index i{-by:+d} for i along axis {axis}"
                    yield self._trial(output, text, text, step, lambda a=array, b=by, x=axis: np.roll(a, b, x))
                text = f"{said} in reverse order along axis {axis}"
                yield self._trial(output, text, text, step, lambda a=array, x=axis: np.flip(a, x))

    def _other_weights(self) -> Iterator[Trial]:
        """Another tensor of the checkpoint, or this one wrongly stored."""
        for name in self._inside:
            value = self._network.values[name]
            made = self._network.typed(name)
            if value.kind != "weight" or made is None:
                continue
            own = self._name(value.label)
            part = value.label.rsplit(".", 1)[-1]
            for label in [one for one in self._weights if one != value.label and one.endswith(part)][:_MOST_WEIGHTS]:
                other = self._weights[label]()
                if other.shape == made.array.shape:
                    text = f"takes {self._name(label)} where A takes {own}"
                    key = f"takes another block's weight where A takes {own}"
                    yield self._of_weight(name, text, key, other)
            if made.array.ndim == 1:
                yield self._of_weight(name, f"{own} is 1 + A's", "the weight is 1 + A's", 1 + np.asarray(made.array, np.float64))
                yield self._of_weight(name, f"{own} is not applied: ones", "the weight is not applied", np.ones_like(made.array))
                yield self._of_weight(name, f"{own} is not applied: zeros", "the weight is zeros", np.zeros_like(made.array))
            elif made.array.ndim == 2 and made.array.shape[0] == made.array.shape[1]:
                yield self._of_weight(name, f"{own} is transposed", "the weight is transposed", made.array.T)

    def _of_weight(self, name: str, text: str, key: str, array: np.ndarray) -> Trial:
        def make() -> np.ndarray | None:
            made = self._network.rerun({name: Typed(np.asarray(array), FLOAT)}, self._network.output)
            return None if made is None else made.array

        readers = (step for step in self._steps if name in step.operands)
        return Trial(text, key, next(readers, None), make)

    def _rounded(self) -> Iterator[Trial]:
        for name in self._inside:
            made = self._network.typed(name)
            if made is None or made.type != FLOAT or made.array.size < 2 or not self._network.values[name].is_data:
                continue
            wide, said = np.asarray(made.array, np.float64), self.said(name)
            maker = self._network.values[name].maker
            for kind, function in _ROUNDINGS.items():
                text = f"{said} is rounded to {kind}"
                if is_stored(made):
                    yield self._of_weight(name, text, f"the weight is rounded to {kind}", function(wide))
                else:
                    yield self._trial(name, text, text, maker, lambda w=wide, f=function: f(w))


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + _erf(x / 2**0.5))


def _erf(x: np.ndarray) -> np.ndarray:
    """Abramowitz and Stegun's series would not reach double precision; this sum does for |x| < 6, and is 1 beyond."""
    from math import erf

    return np.vectorize(erf, otypes=[np.float64])(x)


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    shifted = np.exp(x - x.max(axis, keepdims=True))
    return shifted / shifted.sum(axis, keepdims=True)


def _by_absmax(x: np.ndarray, axis: int | None) -> np.ndarray:
    step = np.abs(x).max(axis=axis, keepdims=True) / 127
    return np.where(step == 0, 0, np.round(x / np.where(step == 0, 1, step)) * step)


def _by_group(x: np.ndarray) -> np.ndarray:
    if x.shape[-1] % _GROUP:
        return x
    return _by_absmax(x.reshape(-1, _GROUP), -1).reshape(x.shape)


_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu(x)": lambda x: np.maximum(x, 0),
    "relu(x)^2": lambda x: np.maximum(x, 0) ** 2,
    "silu(x)": lambda x: x * _sigmoid(x),
    "sigmoid(x)": _sigmoid,
    "tanh(x)": np.tanh,
    "gelu(x), by erf": _gelu,
    "gelu(x), by tanh": lambda x: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "gelu(x), by sigmoid(1.702 x)": lambda x: x * _sigmoid(1.702 * x),
    "softplus(x)": _softplus,
    "mish(x)": lambda x: x * np.tanh(_softplus(x)),
    "hardswish(x)": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "elu(x)": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "leaky_relu(x), 0.01": lambda x: np.where(x > 0, x, 0.01 * x),
    "exp(x)": np.exp,
    "abs(x)": np.abs,
    "x^2": np.square,
    "sqrt(abs(x))": lambda x: np.sqrt(np.abs(x)),
}
_ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float16": lambda x: rounded(x, "float16"),
    "bfloat16": lambda x: rounded(x, "bfloat16"),
    "float8_e4m3": lambda x: rounded(x, "float8_e4m3fn"),
    "float8_e5m2": lambda x: rounded(x, "float8_e5m2"),
    "8 bits, a scale per row": lambda x: _by_absmax(x, -1),
    "8 bits, a scale per group of 32": _by_group,
    "8 bits, one scale": lambda x: _by_absmax(x, None),
}

__all__ = ["Trial", "Trials", "plain", "told_apart"]
