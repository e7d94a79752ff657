"""Steps that hand on what they read: on this input, and whether they do so on every one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ....graphs.network import Network, Step
from ....graphs.stepping import SMALL_FLOATS
from .leaves import Leaves

# What limits or chooses by the numbers that it reads.
_OF_NUMBERS = frozenset({"Clip", "Relu", "LeakyRelu", "PRelu", "ThresholdedRelu", "Max", "Min", "Abs", "Where"})
# What does nothing with one number, whatever it reads: that number, and which operand it may be.
_IDENTITIES = {
    "Add": (0.0, (0, 1)),
    "Sub": (0.0, (1,)),
    "Mul": (1.0, (0, 1)),
    "Div": (1.0, (1,)),
    "Pow": (1.0, (1,)),
    "And": (1.0, (0, 1)),
    "Or": (0.0, (0, 1)),
}
# What puts values elsewhere, or takes a part of them, which is all of them on this input.
_OF_PLACES = frozenset({"Slice", "Gather", "Concat", "Pad", "Tile", "Split", "Cast", "CastLike"})
_GUARDS = frozenset({"IsNaN", "IsInf"})  # which finite numbers never meet
_PASSING = _OF_NUMBERS | _IDENTITIES.keys() | _OF_PLACES


def handed_on(network: Network, step: Step) -> Iterator[int]:
    """Which of its operands a step gives again, number for number, on these values."""
    if step.domain or step.operator not in _PASSING or len(step.outputs) != 1:
        return
    for place, name in enumerate(step.operands):
        if hands_on(network, step, place):
            yield place
            if network.values[name].is_data:
                return


def hands_on(network: Network, step: Step, operand: int) -> bool:
    """Whether a step gives this operand again, number for number."""
    made, read = network.array(step.outputs[0]), network.array(step.operands[operand])
    if made is None or read is None or made.size != read.size:
        return False
    return made.dtype.kind == read.dtype.kind and bool(
        np.array_equal(made.ravel(), read.ravel(), equal_nan=made.dtype.kind == "f")
    )


def can_show(network: Network, leaves: Leaves, step: Step, operand: int) -> bool:
    """Whether a step that hands on an operand is more than another way of writing nothing."""
    if step.operator in ("Cast", "CastLike"):
        return step.attributes.get("to") in SMALL_FLOATS
    if step.operator in _OF_PLACES:
        return False
    others = [name for place, name in enumerate(step.operands) if place != operand]
    if step.operator == "Where":
        chosen_by = network.values[step.operands[0]].maker
        is_guard = chosen_by is not None and chosen_by.operator in _GUARDS
        return operand != 0 and not is_guard and not leaves.is_fixed(step.operands[0])
    if step.operator in _IDENTITIES:
        return not (leaves.is_fixed(others[0]) and is_identity(network, step, others[0], is_scalar=True))
    return True


def is_identity(network: Network, step: Step, other: str, is_scalar: bool = False) -> bool:
    """Whether the other operand is nothing but the number that does nothing.

    is_scalar: only as one number, which no other checkpoint has otherwise.
    """
    array, number = network.array(other), _IDENTITIES[step.operator][0]
    if array is None or (is_scalar and array.size != 1):
        return False
    return step.operands.index(other) in _IDENTITIES[step.operator][1] and bool(np.all(array == number))


def identity_of(step: Step) -> float | None:
    """The number with which a step does nothing."""
    return _IDENTITIES[step.operator][0] if step.operator in _IDENTITIES else None
