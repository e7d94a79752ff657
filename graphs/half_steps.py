"""Half precision inside a program: each step that float16 or bfloat16 rounds (and lets overflow) rounds, whatever runs it.

onnxruntime has few kernels in half precision on a CPU. It runs such a node in float32 between casts, and drops a cast to
half precision that one back follows (RemoveDuplicateCastTransformer, which no setting and no optimisation level disables):
what the graph rounds, and what overflows in it, is then neither. Here a program is written so that its values in half
precision stand in float32, each rounded once where it is made, with a node between the two casts that keeps them apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from .halves import HALVES
from .inference import inferred
from .kernels import kinds_in, kinds_of
from .slices import implicit_inputs

_FLOAT = TensorProto.FLOAT
EXACT = ".exact"  # behind a value's name: what it was before it was rounded
_MOVES = {
    *("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad"),
    *("Reshape", "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose"),
    *("Unsqueeze", "Where"),
}


def computes_in_half(model: onnx.ModelProto) -> bool:
    """Whether a node makes a value in half precision by more than looking at a weight that is stored so."""
    if not _names_halves(model.graph):
        return False
    types = kinds_of(model)
    return any(
        node.op_type == "Cast" or not _is_move(node)
        for node in model.graph.node
        if any(types.get(name) in HALVES for name in node.output) and node.op_type != "Constant"
    )


def with_half_steps(program: onnx.ModelProto, n_inputs: int) -> onnx.ModelProto | None:
    """The program with its half-precision values in float32, rounded where they are made; None where it has none, or
    hands them to functions or subgraphs, whose insides are not known.

    Its inputs and its output are then float32 where they were in half precision; weights are read as they are stored.

    Args:
        n_inputs: how many of its inputs are taps; those behind them are weights.
    """
    if not _names_halves(program.graph):
        return None
    model = inferred(program)
    types = kinds_in(model.graph)
    weights = {info.name for info in model.graph.input[n_inputs:] if types.get(info.name) in HALVES}
    halves = {name for name, kind in types.items() if kind in HALVES} - weights
    made = halves.intersection((*(i.name for i in model.graph.input), *_made_by_more_than_moving(model.graph, weights)))
    if not made or any(_is_closed(node) and halves.union(weights) & _touched(node) for node in model.graph.node):
        return None
    graph = model.graph
    for info in (*graph.input[:n_inputs], *graph.output):
        if info.type.tensor_type.elem_type in HALVES:
            info.type.tensor_type.elem_type = _FLOAT
    for tensor in graph.initializer:
        _widen(tensor)
    nodes = [made for node in graph.node for made in _rounding(node, types, weights)]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(copies)
    return model


def half_type(program: onnx.ModelProto, name: str) -> str | None:
    """`float16` or `bfloat16`, where a value of the program is in that."""
    kind = kinds_of(program).get(name)
    return TensorProto.DataType.Name(kind).lower() if kind in HALVES else None


def _names_halves(graph: onnx.GraphProto) -> bool:
    """Whether half precision is written anywhere in the graph, without which no value can be in it."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    return (
        any(info.type.tensor_type.elem_type in HALVES for info in (*graph.input, *graph.output))
        or any(tensor.data_type in HALVES for tensor in graph.initializer)
        or any(a.t.data_type in HALVES or (a.name in ("to", "dtype") and a.i in HALVES) for a in attributes)
    )


def _is_move(node: onnx.NodeProto) -> bool:
    return node.op_type in _MOVES and not node.domain


def _is_closed(node: onnx.NodeProto) -> bool:
    """Whether a node has insides of its own."""
    return bool(node.domain) or any(a.HasField("g") or a.graphs for a in node.attribute)


def _touched(node: onnx.NodeProto) -> set[str]:
    return {*node.input, *node.output, *implicit_inputs(node)}


def _made_by_more_than_moving(graph: onnx.GraphProto, weights: Iterable[str]) -> Iterator[str]:
    """The values that are not just entries of weights and constants."""
    still = {*weights, *(tensor.name for tensor in graph.initializer)}
    for node in graph.node:
        if node.op_type == "Constant" or (_is_move(node) and still.issuperset(_data_inputs(node))):
            still.update(node.output)
        else:
            yield from node.output


def _data_inputs(node: onnx.NodeProto) -> list[str]:
    """What a node that moves values takes them from."""
    if node.op_type == "Concat":
        return list(node.input)
    if node.op_type == "Where":
        return list(node.input[1:])
    return [node.input[0]] if not node.op_type.startswith("Scatter") else [node.input[0], node.input[2]]


def _rounding(node: onnx.NodeProto, types: Mapping[str, int], weights: set[str]) -> Iterator[onnx.NodeProto]:
    """The node on float32 in the place of half precision, with what rounds its outputs behind it."""
    outputs = [name for name in node.output if types.get(name) in HALVES]
    if node.op_type == "Constant" and outputs:
        _widen(node.attribute[0].t)
        yield node
        return
    read = [name for name in node.input if name in weights]
    if read and _is_move(node) and set(_data_inputs(node)) <= weights:
        stored = f"{node.output[0]}.stored"
        cast = onnx.helper.make_node("Cast", [stored], [node.output[0]], to=_FLOAT)
        node.output[0] = stored
        yield from (node, cast)
        return
    if read and not (node.op_type == "Cast" and not outputs):
        for index, name in enumerate(node.input):
            if name in weights:
                node.input[index] = f"{node.output[0]}.wide{index}"
                yield onnx.helper.make_node("Cast", [name], [node.input[index]], to=_FLOAT)
    if not outputs or _is_move(node):
        yield node
        return
    for index, name in enumerate(node.output):
        if name in outputs:
            node.output[index] = name + EXACT
    yield _in_float32(node)
    for name in outputs:
        yield from _rounded(name, types[name])


def _in_float32(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node, with the types that it is set to make in float32."""
    if node.op_type == "CastLike":
        return onnx.helper.make_node("Cast", [node.input[0]], list(node.output), node.name, to=_FLOAT)
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i in HALVES:
            attribute.i = _FLOAT
        elif attribute.type == onnx.AttributeProto.TENSOR:
            _widen(attribute.t)
    return node


def _rounded(name: str, kind: int) -> Iterator[onnx.NodeProto]:
    yield onnx.helper.make_node("Cast", [name + EXACT], [f"{name}.cast"], to=kind)
    yield onnx.helper.make_node("Identity", [f"{name}.cast"], [f"{name}.half"])
    yield onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=_FLOAT)


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in HALVES:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
