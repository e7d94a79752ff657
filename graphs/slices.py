"""Which nodes a value depends on: the walk that cutting, naming and cloning share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import onnx

LOOKUPS = frozenset({"Gather", "GatherND", "GatherElements"})  # operators that read a few rows of a table


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """For each value that a node makes, that node."""
    return {name: node for node in graph.node for name in node.output if name}


def is_widening(node: onnx.NodeProto) -> bool:
    """Whether a node casts to float32: of a weight in half precision it makes the same numbers."""
    to = [onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == "to"]
    return node.op_type == "Cast" and to == [onnx.TensorProto.FLOAT]


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a node: an If's branches, the body of a Loop or Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def implicit_inputs(node: onnx.NodeProto) -> tuple[str, ...]:
    """Outer values that a node's subgraphs (If, Loop, Scan) read."""
    found: dict[str, None] = {}
    for graph in subgraphs(node):
        inside = {i.name for i in graph.input} | {i.name for i in graph.initializer}
        for inner in graph.node:
            found.update({n: None for n in (*inner.input, *implicit_inputs(inner)) if n and n not in inside})
            inside.update(inner.output)
        found.update({o.name: None for o in graph.output if o.name not in inside})
    return tuple(found)


def sliced(
    maker: Mapping[str, onnx.NodeProto], outputs: Iterable[str], stop: Callable[[str], bool]
) -> list[onnx.NodeProto]:
    """The nodes that `outputs` depend on, in an order in which they can run; a value that `stop` names is not entered."""
    order: list[onnx.NodeProto] = []
    entered: set[int] = set()
    stack: list[tuple[onnx.NodeProto, bool]] = [(maker[name], False) for name in outputs if name in maker]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
            continue
        if id(node) in entered:
            continue
        entered.add(id(node))
        stack.append((node, True))
        names = [n for n in (*node.input, *implicit_inputs(node)) if n in maker and not stop(n)]
        stack.extend((maker[name], False) for name in reversed(names) if id(maker[name]) not in entered)
    return order


def rename_captured(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Rename, in place, the outer values that a node's subgraphs read, however deep; what they make stays."""
    for graph in subgraphs(node):
        made = {i.name for i in (*graph.input, *graph.initializer)} | {o for n in graph.node for o in n.output}
        outer = {name: new for name, new in names.items() if name not in made}
        for inner in graph.node:
            inner.input[:] = [outer.get(name, name) for name in inner.input]
            rename_captured(inner, outer)
        for output in graph.output:
            output.name = outer.get(output.name, output.name)
