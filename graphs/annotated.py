"""A copy of a graph to look at: its nodes carry what was found of them, and its dimensions are called by their axes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill

import onnx

from .artifact import Artifact

_WIDTH = 64  # characters: Netron breaks no lines
_PAST = "past"  # what a cache holds of the steps before


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one node: in a sentence, and as facts by their names, in the order in which they are shown."""

    text: str
    facts: Mapping[str, str]


def annotated(model: onnx.ModelProto, findings: Mapping[str, Finding]) -> onnx.ModelProto:
    """A copy whose nodes, by their names, carry their findings: as `opdiff.*` metadata, and as the node's description."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.name in findings:
            _annotate(node, findings[node.name])
    return copy


def _annotate(node: onnx.NodeProto, finding: Finding) -> None:
    """The findings come before what the exporter left, which is long."""
    left = [(prop.key, prop.value) for prop in node.metadata_props]
    del node.metadata_props[:]
    for key, value in (*((f"opdiff.{key}", value) for key, value in finding.facts.items()), *left):
        node.metadata_props.add(key=key, value=value)
    lines = fill(finding.text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    node.doc_string = "\n\n".join(filter(None, (lines, node.doc_string)))


def name_dimensions(graph: onnx.GraphProto, artifact: Artifact) -> None:
    """Call the dimensions that are open by their axes, in place: those of a tap by its own, others as taps call them."""
    taps, called = {tap.name: tap.axes for tap in artifact.taps}, _called(artifact)
    for info in (*graph.input, *graph.output, *graph.value_info):
        dims = info.type.tensor_type.shape.dim
        axes = taps.get(info.name, ())
        for n, dim in enumerate(dims):
            if dim.HasField("dim_value"):
                continue
            if len(axes) == len(dims):
                dim.dim_param = axes[n]
            elif dim.dim_param:
                dim.dim_param = _word(dim.dim_param, called)
    _name_flattened(graph)


def _name_flattened(graph: onnx.GraphProto) -> None:
    """A value of one dimension that is reshaped to one keeps it, which exporters leave open."""
    dims = {info.name: info.type.tensor_type.shape.dim for info in (*graph.input, *graph.output, *graph.value_info)}
    for node in graph.node:
        before, after = dims.get(node.input[0] if node.input else "", ()), dims.get(node.output[0], ())
        if node.op_type == "Reshape" and len(before) == len(after) == 1:
            after[0].CopyFrom(before[0])


def _called(artifact: Artifact) -> dict[str, str]:
    """For each symbol, as the exporter named it, the axis that the first tap with it calls it by."""
    called: dict[str, str] = {}
    for tap in artifact.taps:
        for dim, word in zip(_dims(artifact, tap.name), tap.axes, strict=False):
            if dim.dim_param:
                called.setdefault(dim.dim_param, word)
    for name in artifact.states:
        for dim in _dims(artifact, name):
            if dim.dim_param:
                called.setdefault(dim.dim_param, _PAST)
    return called


def _dims(artifact: Artifact, name: str) -> list[onnx.TensorShapeProto.Dimension]:
    return list(artifact.types[name].tensor_type.shape.dim) if name in artifact.types else []


def _word(symbol: str, called: Mapping[str, str]) -> str:
    """The symbol's word; of an expression, `s52 + s66`, that of each symbol in it."""
    return called.get(symbol) or re.sub(r"\w+", lambda found: called.get(found[0], found[0]), symbol)
