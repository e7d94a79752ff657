"""The steps that ONNX defines one of its operators by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import NodeProto, inliner


def is_defined(operator: str, version: int) -> bool:
    """Whether ONNX defines an operator of its own by others."""
    try:
        schema = onnx.defs.get_schema(operator, version)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]


def body_of(
    node: NodeProto, types: Mapping[str, tuple[int, Sequence[int]]], opsets: Sequence[tuple[str, int]]
) -> list[NodeProto] | None:
    """The steps that a node stands for, with its name before theirs; None where ONNX has none for these inputs.

    types: of each input, the ONNX element type and the shape.
    """
    graph = onnx.GraphProto(name="one", node=[_with_defaults(node, dict(opsets).get("", 1))])
    graph.input.extend(onnx.helper.make_tensor_value_info(name, *kind) for name, kind in types.items())
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
    model = onnx.ModelProto(ir_version=10, graph=graph)
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in opsets)
    try:
        made = inliner.inline_selected_functions(model, [("", node.op_type)], False, True).graph.node
    except Exception:  # onnx's own, which says no more than that it cannot
        return None
    if len(made) == 1 and made[0].op_type == node.op_type:
        return None
    outer = {*types, *node.output}
    for step in made:
        step.input[:] = [name if not name or name in outer else f"{node.output[0]}/{name}" for name in step.input]
        step.output[:] = [name if not name or name in outer else f"{node.output[0]}/{name}" for name in step.output]
        step.name = f"{node.name}/{step.op_type}"
        del step.metadata_props[:]
        step.metadata_props.extend(node.metadata_props)
    return list(made)


def _with_defaults(node: NodeProto, version: int) -> NodeProto:
    """A copy of a node that has all its attributes: the inliner leaves out what a body takes from one that is not there."""
    copy = NodeProto.FromString(node.SerializeToString())
    try:
        known = onnx.defs.get_schema(node.op_type, version).attributes
    except onnx.defs.SchemaError:
        return copy
    given = {one.name for one in node.attribute}
    copy.attribute.extend(
        one.default_value for name, one in known.items() if name not in given and one.default_value.name
    )
    return copy
