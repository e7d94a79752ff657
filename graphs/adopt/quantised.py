"""What dynamic quantisation writes in whole numbers, as the floats that they stand for.

onnxruntime's quantiser rounds an activation while running (`DynamicQuantizeLinear`), multiplies whole numbers, and scales the
result. The same is a product, or a convolution, of the rounded activation with the dequantised weight, which can be held
against the other side's weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnx import GraphProto, NodeProto, TensorProto, helper

from ..slices import producers, sliced

_FLOAT_OF = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}
BY_CHANNEL = 13  # the opset from which DequantizeLinear takes a scale for each channel


def in_floats(graph: GraphProto, opset: int) -> GraphProto:
    """A graph that computes the same, with these written so; the graph itself where it has none."""
    if not any(node.op_type in _FLOAT_OF for node in graph.node):
        return graph
    maker, held = producers(graph), {tensor.name: tensor for tensor in graph.initializer}
    nodes = [step for node in graph.node for step in _float_product(node, maker, held, opset) or [node]]
    made = GraphProto()
    made.CopyFrom(graph)
    del made.node[:]
    maker = {name: node for node in nodes for name in node.output if name}
    needed = {id(node) for node in sliced(maker, (output.name for output in graph.output), stop=lambda name: False)}
    made.node.extend(node for node in nodes if id(node) in needed)
    return made


def _float_product(
    node: NodeProto, maker: Mapping[str, NodeProto], held: Mapping[str, TensorProto], opset: int
) -> list[NodeProto] | None:
    """The steps instead of a node that scales a product of whole numbers; None where it is another one."""
    if node.op_type != "Mul" or node.domain:
        return None
    for product, scales in (tuple(node.input), tuple(node.input)[::-1]):
        cast, both = maker.get(product), maker.get(scales)
        if cast is None or both is None or cast.op_type != "Cast" or both.op_type != "Mul":
            continue
        whole = maker.get(cast.input[0])
        rounded = None if whole is None or whole.op_type not in _FLOAT_OF else maker.get(whole.input[0])
        if whole is None or rounded is None or rounded.op_type != "DynamicQuantizeLinear":
            continue
        by = [name for name in both.input if name != rounded.output[1]]
        zero = whole.input[2] if len(whole.input) > 2 else ""
        if len(by) != 1 or by[0] not in held or whole.input[1] not in held or zero != rounded.output[2]:
            continue
        if _has_known_scales(held[by[0]], held[whole.input[1]], opset, whole.op_type):
            return list(_written(node, whole, rounded, by[0], opset))
    return None


def _has_known_scales(scale: TensorProto, weight: TensorProto, opset: int, operator: str) -> bool:
    """Whether a weight has one scale, or, as [in, out], one for each output that DequantizeLinear takes."""
    return [*scale.dims] in ([], [1]) or (
        operator == "MatMulInteger"
        and opset >= BY_CHANNEL
        and len(weight.dims) == 2
        and [*scale.dims] == [weight.dims[1]]
    )


def _written(node: NodeProto, whole: NodeProto, rounded: NodeProto, scale: str, opset: int) -> Iterator[NodeProto]:
    stem = node.output[0]
    activation, weight = f"{stem}/activation", f"{stem}/weight"
    yield helper.make_node("DequantizeLinear", rounded.output, [activation], f"{node.name}/activation")
    of_weight = [whole.input[1], scale, *whole.input[3:]]
    dequantised = helper.make_node("DequantizeLinear", of_weight, [weight], f"{node.name}/weight")
    if opset >= BY_CHANNEL and whole.op_type == "MatMulInteger":
        dequantised.attribute.append(helper.make_attribute("axis", 1))
    yield dequantised
    product = helper.make_node(_FLOAT_OF[whole.op_type], [activation, weight], node.output, node.name)
    product.attribute.extend(whole.attribute)
    product.metadata_props.extend(whole.metadata_props)
    yield product
