"""A program step by step, as plain records: what a node reads, makes and is set to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from .constants import constant_arrays
from .regions import Program
from .slices import implicit_inputs, is_widening

_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Step:
    """One node: `index` in the program; `attributes` and the values of its constant inputs in words."""

    index: int
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, str]
    constants: tuple[str, ...]


def steps(program: Program) -> tuple[Step, ...]:
    """The program's nodes in order; what reads a weight in half precision through its cast reads the weight."""
    constants, nodes = constant_arrays(program), program.model.graph.node
    weights = {info.name for info in program.model.graph.input[program.n_inputs :]}
    seen_as = {n.output[0]: n.input[0] for n in nodes if is_widening(n) and n.input[0] in weights}
    return tuple(_step(index, node, constants, seen_as) for index, node in enumerate(nodes))


def _step(index: int, node: onnx.NodeProto, constants: Mapping[str, np.ndarray], seen_as: Mapping[str, str]) -> Step:
    inputs = tuple(seen_as.get(name, name) for name in (*node.input, *implicit_inputs(node)) if name)
    attributes = {a.name: _in_words(onnx.helper.get_attribute_value(a)) for a in node.attribute}
    shown = tuple(_in_words(constants[name]) for name in inputs if name in constants)
    return Step(index, node.op_type, inputs, tuple(n for n in node.output if n), attributes, shown)


def _in_words(value: object) -> str:
    if isinstance(value, np.ndarray):
        flat = [_in_words(item) for item in value.ravel()[:_SHOWN]]
        more = ", ..." if value.size > _SHOWN else ""
        return flat[0] if value.size == 1 else f"[{', '.join(flat)}{more}]"
    if isinstance(value, (float, np.floating)):
        return str(np.float32(value))
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)
