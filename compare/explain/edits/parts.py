"""A value that is put together of parts: which of them is not as the other side has it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ....graphs.errors import InputError
from ....graphs.network import Network, Step
from ...align.arrangement import is_close, plain


def part_apart(network: Network, expected: np.ndarray, nearness: float) -> str:
    """The value at which the output differs from what was expected: the output itself, or of parts that are put side by
    side, the only one that differs.

    expected: in the layout of the network's output.
    """
    name = network.output
    while (step := network.values[name].maker) is not None and _array(network, name).shape == expected.shape:
        parts = _parts(network, step, expected)
        apart = [one for one, part in parts.items() if not is_close(plain(part), plain(_array(network, one)), nearness)]
        if len(apart) != 1:
            break
        name, expected = apart[0], parts[apart[0]]
    return name


def _parts(network: Network, step: Step, expected: np.ndarray) -> Mapping[str, np.ndarray]:
    """What a step that only moves numbers would have to read, to give what is expected; nothing of other steps."""
    if step.operator == "Concat" and not step.domain:
        axis = step.attributes.get("axis", 0)
        assert isinstance(axis, int)
        sizes = [_array(network, name).shape[axis] for name in step.operands]
        return dict(zip(step.operands, np.split(expected, np.cumsum(sizes)[:-1], axis), strict=True))
    if not step.is_move or step.operator == "Expand":
        return {}
    (read,) = step.operands
    if step.operator == "Transpose":
        order = step.attributes.get("perm", tuple(reversed(range(expected.ndim))))
        assert isinstance(order, tuple)
        return {read: expected.transpose(np.argsort(order))}
    return {read: expected.reshape(_array(network, read).shape)}


def _array(network: Network, name: str) -> np.ndarray:
    array = network.array(name)
    if array is None:
        raise InputError("a value of the region is not known")
    return array
