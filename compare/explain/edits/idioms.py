"""Several steps that every framework has as one function, such as a roll or softplus where it is written out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....graphs.network import Network, Step


@dataclass(frozen=True, slots=True)
class Idiom:
    """A function of one value.

    settings: what is told behind the value, as `roll(x, -2)` has it.
    """

    name: str
    operand: str
    settings: tuple[str, ...] = ()


def idiom(network: Network, step: Step) -> Idiom | None:
    """The function that a step ends; None where it is no more than itself."""
    if step.domain:
        return None
    known = {"DequantizeLinear": _rounded_while_running, "Where": _softplus, "Concat": _roll}.get(step.operator)
    return None if known is None else known(network, step)


def _rounded_while_running(network: Network, step: Step) -> Idiom | None:
    """What becomes whole numbers of 8 bits and a scale, as floats again."""
    maker = network.values[step.operands[0]].maker
    if maker is None or maker.operator != "DynamicQuantizeLinear" or maker.domain:
        return None
    return Idiom("rounded_to_8_bits", maker.operands[0]) if tuple(maker.outputs) == tuple(step.operands) else None


def _softplus(network: Network, step: Step) -> Idiom | None:
    """Softplus that gives large numbers as they are, as torch's does."""
    asked, _, small = (network.values[network.base(name)].maker for name in step.operands)
    x = network.base(step.operands[1])
    if asked is None or small is None or asked.operator != "Greater" or network.base(asked.operands[0]) != x:
        return None
    read = _of_log_of_one_more(network, small) if small.operator == "Log" else small.operands[0]
    is_it = small.operator in ("Log", "Softplus") and read is not None and network.base(read) == x
    return Idiom("softplus", x) if is_it else None


def _of_log_of_one_more(network: Network, log: Step) -> str | None:
    """The x of log(exp(x) + 1)."""
    added = network.values[network.base(log.operands[0])].maker
    if added is None or added.operator != "Add":
        return None
    makers = [network.values[network.base(name)].maker for name in added.operands]
    ones = [array for name in added.operands if (array := network.array(name)) is not None and np.all(array == 1)]
    powers = [maker for maker in makers if maker is not None and maker.operator == "Exp"]
    return powers[0].operands[0] if len(powers) == 1 and len(ones) == 1 else None


def _roll(network: Network, step: Step) -> Idiom | None:
    """The last places of an axis, and behind them the first ones."""
    axis = step.attributes.get("axis", 0)
    makers = [maker for name in step.operands if (maker := network.values[name].maker) is not None]
    if len(step.operands) != 2 or len(makers) != 2 or not isinstance(axis, int):
        return None
    late, early = (_places(network, maker, name, axis) for maker, name in zip(makers, step.operands, strict=True))
    read, other = (maker.operands[0] for maker in makers)
    if late is None or early is None or read != other:
        return None
    size, n_axes = _array(network, read).shape[axis], _array(network, read).ndim
    if (early.start, early.stop, late.start, late.stop) != (0, late.start, early.stop, size):
        return None
    by = -late.start if 2 * late.start <= size else size - late.start
    is_last = axis % n_axes == n_axes - 1
    return Idiom("roll", read, (str(by), *([] if is_last else [f"axis {axis % n_axes - n_axes}"])))


def _places(network: Network, step: Step, name: str, axis: int) -> range | None:
    """Which places of an axis a Slice or Split takes in a row; None where it does something else."""
    if step.domain or any(network.array(one) is None for one in (step.operands[0], *step.outputs)):
        return None
    read, made = _array(network, step.operands[0]), _array(network, name)
    if step.operator == "Split" and _is_axis(step.attributes.get("axis", 0), axis, read):
        sizes = [_array(network, output).shape[axis] for output in step.outputs[: step.outputs.index(name)]]
        return range(sum(sizes), sum(sizes) + made.shape[axis])
    literals = [step.literals.get(n, np.zeros(0)) for n in (1, 2, 3)]
    if step.operator != "Slice" or any(literal.size != 1 for literal in literals):
        return None
    start, end, along = (int(literal.ravel()[0]) for literal in literals)
    found = range(read.shape[axis])[start : end : int(np.ravel(step.literals.get(4, 1))[0])]
    return found if _is_axis(along, axis, read) and found.step == 1 else None


def _is_axis(one: object, other: int, array: np.ndarray) -> bool:
    return isinstance(one, int) and one % array.ndim == other % array.ndim


def _array(network: Network, name: str) -> np.ndarray:
    array = network.array(name)
    assert array is not None
    return array
