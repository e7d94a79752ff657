"""A graph run whole, in one session of onnxruntime, as whoever runs the file gets it.

Region by region gives the same to float32's rounding, but where onnxruntime, seeing the whole, changes what is computed:
it drops casts to half precision, and makes integer products of quantised ones. What rounds to few bits also makes large
differences of small ones. Only graphs with such steps need to be run whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from .artifact import Artifact
from .constants import BFLOAT16
from .errors import InputError
from .half_steps import computes_in_half
from .halves import HALVES
from .run import Settings, run_in_onnxruntime

_INSIDE_BELOW = 1 << 28  # bytes of weights; more are given as inputs, which onnxruntime does not copy
_FOUR_BITS = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.INT2, onnx.TensorProto.UINT2}


def is_changed_when_whole(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime may compute another thing of the whole graph than of its parts, rounding apart."""
    graph = model.graph
    outputs = {output.name for output in graph.output}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    return (
        computes_in_half(model)
        or any(_rounds_to_few_bits(node) for function in model.functions for node in function.node)
        or any(node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") for node in graph.node)
        or any(
            node.op_type == "DequantizeLinear"
            and types.get(node.input[0]) in _FOUR_BITS
            and outputs.isdisjoint(node.output)
            for node in graph.node
        )
    )


def _rounds_to_few_bits(node: onnx.NodeProto) -> bool:
    to = [attribute.i for attribute in node.attribute if attribute.name == "to"]
    return node.op_type in ("Round", "QuantizeLinear", "DynamicQuantizeLinear") or any(kind in HALVES for kind in to)


def run_whole(
    artifact: Artifact, inputs: Mapping[str, np.ndarray], taps: Sequence[str], settings: Settings
) -> dict[str, np.ndarray]:
    """Each tap's value, in the graph's own layout, in one run of the graph as it stands in its file.

    Raises:
        InputError: onnxruntime has no kernel for one of its nodes, or cannot run it on this input.
    """
    model = onnx.ModelProto()
    model.CopyFrom(artifact.model)
    _name_apart(model.graph)
    feeds = dict(inputs)
    is_small = sum(weight.array.nbytes for weight in artifact.weights.values()) < _INSIDE_BELOW
    del model.graph.initializer[:]
    for tensor in artifact.model.graph.initializer:
        weight = artifact.weights.get(tensor.name)
        if weight is None:
            model.graph.initializer.append(tensor)
        elif is_small or weight.array.ndim < 2:
            model.graph.initializer.append(_inside(tensor, weight.array))
        else:
            _as_input(model.graph, tensor)
            feeds[tensor.name] = weight.array
    values = run_in_onnxruntime(model, taps, feeds, settings)
    return {tap: np.asarray(v, np.float32) if v.dtype in (np.float16, BFLOAT16) else v for tap, v in values.items()}


def _name_apart(graph: onnx.GraphProto) -> None:
    """Let no two nodes have one name, as steps of one fused operator have: onnxruntime refuses them in some graphs."""
    taken = set[str]()
    for n, node in enumerate(graph.node):
        if node.name in taken:
            node.name = f"{node.name}.{n}"
        taken.add(node.name)


def why_not_whole(error: InputError) -> str:
    """Why onnxruntime cannot run a graph whole, without its codes."""
    return str(error).rsplit(" : ", 1)[-1]


def _inside(tensor: onnx.TensorProto, array: np.ndarray) -> onnx.TensorProto:
    """An initializer with its data in the graph."""
    return onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=array.tobytes())


def _as_input(graph: onnx.GraphProto, tensor: onnx.TensorProto) -> None:
    known = {info.name for info in graph.input}
    if tensor.name not in known:
        graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
