"""A graph that gives the logits of its last position alone: the other is cut to that position too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from .flat import Flat
from .opened import Foreign

_SLICE = {"starts": -1, "ends": np.iinfo(np.int64).max, "axes": -2}


def cut_to_last_position(flat: Flat, other: Flat) -> Foreign | None:
    """The graph with the logits of its last position alone, where the other gives no more; None where that is not so, or
    where more than one product with a weight, and steps with constants, stands before them.
    """
    found = next(((name, value) for name, value in flat.outputs.items() if flat.array(value).ndim > 1), None)
    theirs = next((value for value in other.outputs.values() if other.array(value).ndim > 1), None)
    if found is None or theirs is None:
        return None
    name, ours = found[0], flat.array(found[1]).shape
    if ours[-1] != other.array(theirs).shape[-1] or ours[-2] < 2 or int(np.prod(other.array(theirs).shape[:-1])) != 1:
        return None
    model = onnx.ModelProto.FromString(flat.foreign.model.SerializeToString())
    product = _product_of(model.graph, name)
    if product is None:
        return None
    constants = [
        onnx.helper.make_tensor(f"{name}.{word}", onnx.TensorProto.INT64, [1], [n]) for word, n in _SLICE.items()
    ]
    model.graph.initializer.extend(constants)
    row = f"{product.input[0]}.last"
    cut = onnx.helper.make_node("Slice", [product.input[0], *(tensor.name for tensor in constants)], [row], row)
    product.input[0] = row
    model.graph.node.insert(list(model.graph.node).index(product), cut)
    for output in model.graph.output:
        if output.name == name:
            output.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return replace(flat.foreign, model=model)


def _product_of(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    """The product that makes a value, but for steps with constants; its first input is what is multiplied."""
    makers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name for tensor in graph.initializer} | {
        node.output[0] for node in graph.node if node.op_type == "Constant"
    }
    while (node := makers.get(name)) is not None and not node.domain:
        data = [place for place, read in enumerate(node.input) if read and read not in constants]
        if node.op_type in ("MatMul", "Gemm"):
            is_turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
            return node if 0 in data and not is_turned else None
        if len(data) != 1 or node.op_type not in ("Cast", "Mul", "Div", "Add", "Tanh", "Identity"):
            return None
        name = node.input[data[0]]
    return None
