"""Names that a person can read: every node and value of a graph is named after the tap whose region it belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import onnx

from .slices import implicit_inputs, producers, rename_captured, sliced
from .sources import STACK_TRACE

MARK_DOMAIN, MARK_OPERATOR = "opdiff", "Mark"


def named_by_region(
    model: onnx.ModelProto,
    taps: Mapping[str, str],
    keep: Iterable[str] = (),
    traces: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Rename in place: values in `taps` (tap name -> value) to their tap, all other values and nodes after their region.

    Nodes that no tap depends on are dropped. Names in `keep` (graph inputs, canonical weights) stay.

    traces: the stack trace of where each tap was marked, for an Identity that makes one, where the exporter left it none.
    """
    graph = model.graph
    _dissolve_marks(model)
    _give_each_tap_a_value(graph, taps)
    renamed = {name: name for name in (*(i.name for i in graph.input), *keep)} | {tap: tap for tap in taps}
    maker = producers(graph)
    counts: Counter[str] = Counter()
    kept: list[onnx.NodeProto] = []
    done: set[int] = set()
    for tap in _in_graph_order(graph, taps):
        if maker[tap].op_type == "Identity" and not maker[tap].metadata_props and tap in traces:
            maker[tap].metadata_props.add(key=STACK_TRACE, value=traces[tap])
        others = renamed.keys() - {tap}
        for node in sliced(maker, [tap], stop=others.__contains__):
            if id(node) in done:
                continue
            done.add(id(node))
            kept.append(node)
            node.name = _fresh(counts, f"{tap}/{node.op_type}")
            for name in (*node.input, *implicit_inputs(node)):
                if name and name not in maker and name not in renamed:
                    renamed[name] = _fresh(counts, f"{tap}/const")
            for index, name in enumerate(node.output):
                if name and name not in renamed:
                    renamed[name] = node.name if index == 0 else f"{node.name}.{index}"
    _apply(graph, kept, renamed)


def _dissolve_marks(model: onnx.ModelProto) -> None:
    """Let each marked value be the mark's; where that is no node's output, or is marked already, an Identity stands."""
    made: dict[str, str] = {}
    nodes = []
    for node in model.graph.node:
        node.input[:] = [made.get(name, name) for name in node.input]
        if node.domain != MARK_DOMAIN:
            nodes.append(node)
            made.update({name: name for name in node.output})
            continue
        value, mark = node.input[0], node.output[0]
        if made.get(value) == value:
            made[value] = mark
            for earlier in nodes:
                _rename_node(earlier, {value: mark})
        else:
            nodes.append(onnx.helper.make_node("Identity", [value], [mark]))
            nodes[-1].metadata_props.extend(node.metadata_props)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    imports = [o for o in model.opset_import if o.domain != MARK_DOMAIN]
    opsets = [(o.domain, o.version) for o in imports]
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in opsets)


def _give_each_tap_a_value(graph: onnx.GraphProto, taps: Mapping[str, str]) -> None:
    """Let each tap's value carry the tap's name; a value that is no node's or has two taps gets an Identity."""
    maker = producers(graph)
    rename: dict[str, str] = {}
    extra = []
    for tap, value in taps.items():
        if value in maker and value not in rename:
            rename[value] = tap
        else:
            extra.append(onnx.helper.make_node("Identity", [value], [tap]))
    for node in graph.node:
        _rename_node(node, rename)
    for node in extra:
        _rename_node(node, rename)
    graph.node.extend(extra)


def _in_graph_order(graph: onnx.GraphProto, taps: Mapping[str, str]) -> list[str]:
    return [name for node in graph.node for name in node.output if name in taps]


def _fresh(counts: Counter[str], stem: str) -> str:
    counts[stem] += 1
    return stem if counts[stem] == 1 else f"{stem}_{counts[stem]}"


def _apply(graph: onnx.GraphProto, kept: list[onnx.NodeProto], renamed: Mapping[str, str]) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    for node in nodes:
        _rename_node(node, renamed)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in (*node.input, *implicit_inputs(node))}
    initializers = [i for i in graph.initializer if renamed.get(i.name) in used]
    for initializer in initializers:
        initializer.name = renamed[initializer.name]
    copies = [onnx.TensorProto.FromString(i.SerializeToString()) for i in initializers]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    infos = {renamed[info.name]: info for info in graph.value_info if info.name in renamed}
    copied = []
    for name, info in infos.items():
        copied.append(onnx.ValueInfoProto.FromString(info.SerializeToString()))
        copied[-1].name = name
    del graph.value_info[:]
    graph.value_info.extend(copied)


def _rename_node(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    node.input[:] = [renamed.get(name, name) for name in node.input]
    node.output[:] = [renamed.get(name, name) for name in node.output]
    rename_captured(node, renamed)
