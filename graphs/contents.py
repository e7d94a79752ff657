"""What a program holds beside layout: two programs that hold the same are the same steps, and nothing need be run to say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import onnx

from .constants import constant_arrays, fingerprint, is_constant
from .regions import Program
from .slices import is_widening

# Attributes that say where values stand, or how much is kept beside them.
LAYOUT = frozenset(
    {"axis", "axes", "perm", "keepdims", "allowzero", "noop_with_empty_axes", "stash_type", "sorted", "saturate"}
)
_MOVES = frozenset(
    (
        *(
            "Reshape",
            "Transpose",
            "Squeeze",
            "Unsqueeze",
            "Flatten",
            "Expand",
            "Tile",
            "Identity",
            "Dropout",
            "Constant",
        ),
        *("Shape", "Size", "Gather", "GatherND", "Slice", "Split", "Concat"),
    )
)
_TO_THE_END = 2**31 - 1
_FEW = 1 << 10  # numbers that are told one by one


def contents(program: Program, smallest: int) -> Counter[tuple]:
    """A program's steps that are no moves, each with its attributes, and its numbers.

    smallest: whole numbers of less are axes and sizes.
    """
    nodes, arrays = program.model.graph.node, constant_arrays(program).values()
    found = Counter(step for node in nodes for step in _of_node(node))
    found.update(("constant", *_numbers(array)) for array in arrays if _is_number(array, smallest))
    return found


def _numbers(array: np.ndarray) -> Iterable[object]:
    """Which numbers a constant holds, in whatever order and however often: the same for two that hold the same."""
    if array.size > _FEW and is_constant(array):
        return (fingerprint(np.unique(np.asarray(array, np.float32))),)
    return sorted(set(array.ravel().tolist()))


def _of_node(node: onnx.NodeProto) -> Iterator[tuple]:
    if node.op_type in _MOVES or is_widening(node):
        return
    attributes = {a.name: a for a in node.attribute if a.name not in LAYOUT}
    if node.op_type == "Gemm" and not node.domain:
        factors = [a.f for a in node.attribute if a.name in ("alpha", "beta")]
        if all(factor == 1 for factor in factors):
            yield ("MatMul", "")
            if len(node.input) > 2:
                yield ("Add", "")
            return
    told = tuple(sorted(a.SerializeToString(deterministic=True) for a in attributes.values()))
    yield (node.op_type, node.domain, *told)


def _is_number(array: np.ndarray, smallest: int) -> bool:
    """Whether a constant is more than a shape, an axis, or "to the end"."""
    if array.dtype.kind != "i":
        return True
    return array.size == 1 and smallest <= abs(int(array.ravel()[0])) < _TO_THE_END
