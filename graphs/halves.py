"""Weights that a graph takes in float32, and that stand in half precision in their file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto

from .slices import LOOKUPS, implicit_inputs, rename_captured

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def stored_in_half(model: onnx.ModelProto, elem_types: Mapping[str, int]) -> None:
    """Give, in place, the float32 initializers of which the file has half precision that type, and a Cast behind them.

    Rows are looked up before the cast, so that only those are cast that are read.

    Args:
        elem_types: by initializer, the type that its file has.
    """
    graph = model.graph
    wide: dict[str, str] = {}
    for initializer in graph.initializer:
        stored = elem_types.get(initializer.name)
        if initializer.data_type == TensorProto.FLOAT and stored in HALVES:
            initializer.data_type = stored
            wide[initializer.name] = f"{initializer.name}/Cast"
    if not wide:
        return
    nodes = [made for node in graph.node for made in _reading(node, wide)]
    read = {name for node in nodes for name in (*node.input, *implicit_inputs(node))}
    casts = [_cast(name, output) for name, output in wide.items() if output in read]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in (*casts, *nodes)]
    del graph.node[:]
    graph.node.extend(copies)


def _reading(node: onnx.NodeProto, wide: Mapping[str, str]) -> Iterator[onnx.NodeProto]:
    """The node, reading what was cast; where it looks up rows of a weight, with the cast behind it."""
    if node.op_type in LOOKUPS and node.input[0] in wide:
        output, node.output[0] = node.output[0], f"{node.output[0]}/rows"
        cast = _cast(node.output[0], output)
        cast.metadata_props.extend(node.metadata_props)
        yield from (node, cast)
        return
    node.input[:] = [wide.get(name, name) for name in node.input]
    rename_captured(node, wide)
    yield node


def _cast(value: str, output: str) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [value], [output], f"{value}/Cast", to=TensorProto.FLOAT)
