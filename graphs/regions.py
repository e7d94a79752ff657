"""Regions: a graph cut at its taps, each piece a small program that reads taps and weights.

A program names nothing of its place: the same computation in thirty blocks is one program with thirty sets of weights,
so a runner makes one session for all of them, and equal programs on equal inputs need no run to be called the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import onnx

from .artifact import Artifact, Weight
from .kernels import in_single
from .slices import implicit_inputs, producers, rename_captured, sliced
from .sources import source_of
from .stages import split_tap_name
from .taps import Source


@dataclass(frozen=True)
class Program:
    """A region's computation: inputs `i0, i1, ...` (taps), `w0, ...` (weights), constants inside, one output `out`."""

    model: onnx.ModelProto = field(repr=False)
    signature: str
    n_inputs: int

    @property
    def operators(self) -> tuple[str, ...]:
        return tuple(node.op_type for node in self.model.graph.node)


@dataclass(frozen=True)
class Region:
    """What one graph computes between a tap and the nearest taps above it.

    `inputs` are tap names (or graph inputs), in the order of the program's inputs; `weights` likewise; `nodes` are the
    graph's own, in the order of the program's.
    """

    tap: str
    inputs: tuple[str, ...]
    weights: tuple[Weight, ...] = field(repr=False)
    weight_names: tuple[str, ...]
    program: Program
    nodes: tuple[onnx.NodeProto, ...] = field(repr=False)

    def source(self, index: int) -> Source:
        """Where the program's node of that index comes from."""
        return source_of(self.nodes[index])

    def is_own(self, index: int) -> bool:
        """Whether the program's node of that index is of this stage, of this block or one before, not of another stage."""
        named = self.nodes[index].name.rsplit("/", 1)[0]
        return split_tap_name(named)[1] == split_tap_name(self.tap)[1]

    def up_to(self, names: Iterable[str]) -> Region:
        """The part that makes these values of its program, and no more."""
        graph = self.program.model.graph
        sources = sliced(producers(graph), names, stop=lambda name: False)
        needed = {name for node in sources for name in node.output if name}
        kept = [n for n, node in enumerate(graph.node) if needed.intersection(node.output)]
        model = onnx.ModelProto()
        model.CopyFrom(self.program.model)
        del model.graph.node[:]
        model.graph.node.extend(graph.node[n] for n in kept)
        program = replace(self.program, model=model, signature=f"{self.program.signature}, nodes {kept}")
        return replace(self, program=program, nodes=tuple(self.nodes[n] for n in kept))

    def is_identical_to(self, other: Region) -> bool:
        """Whether the two are the same computation on the same weights and taps, node for node, by identity."""
        return (
            self.program.signature == other.program.signature
            and self.inputs == other.inputs
            and all(a.equals(b) for a, b in zip(self.weights, other.weights, strict=True))
        )


def cut(artifact: Artifact, at: Iterable[str], only: Iterable[str] | None = None) -> dict[str, Region]:
    """Cut the graph at these taps, so that every tap's readers read a new input: a region for each, in graph order.

    `only` names the regions that are wanted, where not all are.
    """
    stops = frozenset(at)
    wanted = stops if only is None else stops.intersection(only)
    order = sorted((tap for tap in wanted if tap in artifact.order), key=artifact.order.__getitem__)
    inside = _held_inside(artifact)
    return {tap: _region(artifact, tap, stops, inside) for tap in order}


def _held_inside(artifact: Artifact) -> dict[str, onnx.TensorProto]:
    """The weights that operators of onnxruntime's own read: it prepares them, and chooses its kernel by that, as constants."""
    nodes = artifact.model.graph.node
    names = {name for index in in_single(artifact.model) if nodes[index].domain for name in nodes[index].input}
    return {n: onnx.numpy_helper.from_array(w.array, n) for n, w in artifact.weights.items() if n in names}


def _region(artifact: Artifact, tap: str, stops: frozenset[str], inside: Mapping[str, onnx.TensorProto]) -> Region:
    constants, types = {**artifact.constants, **inside}, artifact.types
    nodes = sliced(artifact.producers, [tap], stop=lambda name: name in stops and name != tap)
    made = {name for node in nodes for name in node.output}
    names: dict[str, str] = {tap: "out"}
    reads: dict[str, list[str]] = {"i": [], "w": [], "c": []}
    for node in nodes:
        for name in (*node.input, *implicit_inputs(node)):
            if not name or name in names or (name in made and (name not in stops or name == tap)):
                continue
            kind = "c" if name in constants else "w" if name in artifact.weights else "i"
            names[name] = f"{kind}{len(reads[kind])}"
            reads[kind].append(name)
        for name in node.output:
            if name and name not in names and (name not in stops or name == tap):
                names[name] = f"v{len(names)}"
    weights = tuple(artifact.weights[name] for name in reads["w"])
    graph = onnx.GraphProto(name="region")
    graph.node.extend(_renamed(node, names, stops, tap) for node in nodes)
    graph.input.extend(onnx.ValueInfoProto(name=names[name], type=types[name]) for name in reads["i"])
    for name, weight in zip(reads["w"], weights, strict=True):
        elem_type = int(onnx.helper.np_dtype_to_tensor_dtype(weight.array.dtype))
        graph.input.append(onnx.helper.make_tensor_value_info(names[name], elem_type, weight.array.shape))
    for name in reads["c"]:
        graph.initializer.append(onnx.TensorProto.FromString(constants[name].SerializeToString()))
        graph.initializer[-1].name = names[name]
        graph.initializer[-1].ClearField("doc_string")
    graph.output.append(onnx.ValueInfoProto(name="out", type=types[tap]))
    model = onnx.ModelProto(ir_version=artifact.model.ir_version, graph=graph)
    model.opset_import.extend(artifact.model.opset_import)
    model.functions.extend(artifact.model.functions)
    signature = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    program = Program(model, signature, len(reads["i"]))
    return Region(tap, tuple(reads["i"]), weights, tuple(reads["w"]), program, tuple(nodes))


def _renamed(node: onnx.NodeProto, names: Mapping[str, str], stops: frozenset[str], tap: str) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("name")
    copy.ClearField("doc_string")
    del copy.metadata_props[:]
    copy.input[:] = [names[name] if name else "" for name in node.input]
    # an output that is another tap (a Split's sibling) is read through the cut, never from in here
    first = next((names[name] for name in node.output if name and (name not in stops or name == tap)), "")
    copy.output[:] = [
        f"{first}.unread{place}" if name in stops and name != tap else names.get(name, "")
        for place, name in enumerate(node.output)
    ]
    rename_captured(copy, names)
    return copy
