"""A graph whose batch norms stand in the convolutions before them, as exporters and optimisers write it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import onnx
from onnx import NodeProto

from .opened import Foreign

_RANK_OF_KERNELS = 3  # at least: outputs, inputs, places


def with_norms_folded(foreign: Foreign, kernels: Collection[str]) -> Foreign | None:
    """The graph with the batch norms behind these convolutions folded into them; None where there is none to fold.

    The nodes that make the kernel and the bias stand in the graph, so what they are made of is still known.

    kernels: what the convolutions make, by name.
    """
    model = onnx.ModelProto.FromString(foreign.model.SerializeToString())
    graph = model.graph
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {output.name for output in graph.output}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    folded: dict[str, list[NodeProto]] = {}
    gone: set[str] = set()
    for node in graph.node:
        behind = readers.get(node.output[0], []) if node.output else []
        if node.op_type != "Conv" or node.output[0] not in kernels or len(behind) != 1 or node.output[0] in outputs:
            continue
        norm, rank = behind[0], len(shapes.get(node.input[1], ()))
        if norm.op_type == "BatchNormalization" and norm.input[0] == node.output[0] and rank >= _RANK_OF_KERNELS:
            folded[norm.output[0]] = _folded(graph, node, norm, rank)
            gone.add(node.output[0])
    if not folded:
        return None
    nodes = [one for node in graph.node if node.output[0] not in gone for one in folded.get(node.output[0], [node])]
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    return replace(foreign, model=model)


def _folded(graph: onnx.GraphProto, kernel: NodeProto, norm: NodeProto, rank: int) -> list[NodeProto]:
    """What stands for the two: the convolution, behind the nodes that make its kernel and its bias."""
    stem, nodes = norm.output[0], list[NodeProto]()

    def held(name: str, array: np.ndarray) -> str:
        graph.initializer.append(onnx.numpy_helper.from_array(array, f"{stem}/{name}"))
        return f"{stem}/{name}"

    def made(operator: str, *reads: str) -> str:
        name = f"{stem}/{operator}.{len(nodes)}"
        nodes.append(onnx.helper.make_node(operator, reads, [name], f"{norm.name}/{operator}.{len(nodes)}"))
        nodes[-1].metadata_props.extend(norm.metadata_props)
        return name

    epsilon = next((one.f for one in norm.attribute if one.name == "epsilon"), 1e-5)
    gain, shift, mean, variance = norm.input[1:5]
    factor = made("Div", gain, made("Sqrt", made("Add", variance, held("epsilon", np.array(epsilon, np.float32)))))
    by_output = made("Reshape", factor, held("shape", np.array([-1, *(1,) * (rank - 1)], np.int64)))
    weight = made("Mul", kernel.input[1], by_output)
    before = made("Sub", kernel.input[2], mean) if len(kernel.input) > 2 and kernel.input[2] else made("Neg", mean)
    bias = made("Add", made("Mul", before, factor), shift)
    one = NodeProto.FromString(kernel.SerializeToString())
    one.input[:], one.output[:] = [kernel.input[0], weight, bias], [stem]
    return [*nodes, one]
