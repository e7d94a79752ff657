"""A graph run once on one input, in float64, node by node: what hangs on no input's values is a constant, and leaves no node.

Shapes are numbers then, masks that are made of shapes are constants, of an If only the branch that was taken is there, and
of a loop the turns that it took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import onnx
from onnx import NodeProto

from ..artifact import Weight
from ..errors import InputError
from ..run import Runner
from ..slices import implicit_inputs, rename_captured
from ..stepping import FLOAT, SMALL_FLOATS, Context, StepRunner, Typed, type_name, typed
from .known import expanded
from .loops import unrolled, unrolls
from .opened import Foreign
from .quantised import in_floats

_SHAPES = ("Shape", "Size")
_FLOATS = (FLOAT, *SMALL_FLOATS)
_MOVES = ("Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Gather")
_SEQUENCES = (
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceInsert",
    "SequenceErase",
    "SplitToSequence",
    "SequenceAt",
    "SequenceLength",
    "ConcatFromSequence",
)
_MOST_IN_LOOPS = 100_000  # nodes and turns


@dataclass(frozen=True, eq=False)
class Ran:
    """One node as it ran.

    place: its place among the graph's nodes that hang on the input.
    reads: the values that it reads, its subgraphs' too, "" for one that is left out.
    """

    place: int
    node: NodeProto = field(repr=False)
    reads: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def operator(self) -> str:
        return self.node.op_type

    @property
    def domain(self) -> str:
        return self.node.domain

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        return tuple(name for name in self.node.output if name)

    def attribute(self, name: str, default: object = None) -> object:
        """An attribute's value."""
        return next((onnx.helper.get_attribute_value(a) for a in self.node.attribute if a.name == name), default)


@dataclass
class Flat:
    """A graph as it ran. Names are each made once.

    nodes: those whose values hang on the input, in the order in which they ran.
    constant_nodes: for each large constant that is made of weights, the node that makes it.
    values: every value, floats in float64 (weights as they are stored).
    outputs: the graph's outputs by name, and the values that they are.
    given: constants that were replaced, with what they are now.
    origin: for values that the graph itself has under another name, that name.
    storage: for constants that are stored in fewer bits than float32, how far one level is from the next, in their shape.
    """

    foreign: Foreign
    inputs: Mapping[str, np.ndarray]
    nodes: list[Ran] = field(default_factory=list)
    constant_nodes: dict[str, NodeProto] = field(default_factory=dict)
    values: dict[str, Typed] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)
    outputs: dict[str, str] = field(default_factory=dict)
    storage: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    given: dict[str, Weight] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)

    @cached_property
    def initial(self) -> frozenset[str]:
        """The names of what the file has ready."""
        return frozenset(tensor.name for tensor in self.foreign.model.graph.initializer)

    def replaced(self, constants: Mapping[str, np.ndarray]) -> None:
        """Let constants have other values; what they were made of is forgotten."""
        for name, array in constants.items():
            self.values[name] = Typed(array, FLOAT)
            self.constant_nodes.pop(name, None)
            self.given[name] = Weight(array, (f"{self.foreign.path}#{name}", id(array), array.nbytes))

    def array(self, name: str) -> np.ndarray:
        """A value's numbers."""
        return self.values[name].array

    def is_data(self, name: str) -> bool:
        """Whether a value hangs on the input."""
        return bool(name) and name not in self.constants

    @cached_property
    def maker(self) -> dict[str, Ran]:
        """For each value that hangs on the input, the node that makes it."""
        return {name: node for node in self.nodes for name in node.outputs}

    @cached_property
    def readers(self) -> dict[str, list[Ran]]:
        """For each value, the nodes that read it, in order."""
        found: dict[str, list[Ran]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(filter(None, node.reads)):
                found.setdefault(name, []).append(node)
        return found

    def rerun(self, node: Ran, values: Mapping[str, Typed], steps: StepRunner) -> dict[str, Typed]:
        """What a node makes of other values than its own, by name.

        Raises:
            InputError: it cannot run on them.
        """
        return dict(zip(node.outputs, made(node.node, self, values, steps), strict=False))

    @cached_property
    def context(self) -> Context:
        """What all its nodes are read by."""
        return Context(tuple((o.domain, o.version) for o in self.foreign.model.opset_import), ())


def flatten(
    foreign: Foreign,
    data: Mapping[str, np.ndarray],
    fixed: Mapping[str, np.ndarray],
    runner: Runner,
    instead: Mapping[str, np.ndarray] | None = None,
) -> Flat:
    """Run the graph on these inputs.

    Args:
        data: the inputs that the comparison is about, by name.
        fixed: all others, which are taken for constants.
        instead: other numbers for some of its initializers and constants, by name.
    Raises:
        InputError: a node cannot run.
    """
    run = _Run(Flat(foreign, data), runner, instead or {})
    for name, array in data.items():
        run.flat.values[name] = _typed(array)
    for name, array in fixed.items():
        run.add_constant(name, _typed(array), is_of_weights=False)
    graph = foreign.model.graph
    for tensor in graph.initializer:
        weight = foreign.weights.get(tensor.name)
        if weight is None:
            run.add_constant(tensor.name, _typed(onnx.numpy_helper.to_array(tensor)), is_of_weights=False)
            run.note_half(tensor.name)
        else:
            run.add_constant(tensor.name, _stored(weight), is_of_weights=True)
            if (step := foreign.step_of(tensor.name)) is not None:
                run.flat.storage[tensor.name] = step
    names = {name: name for name in run.flat.values}
    try:
        run.graph(in_floats(graph, run.opset), names, "")
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, StopIteration, RecursionError) as e:
        raise InputError(f"{foreign.path}: its graph is damaged, or cannot be run ({type(e).__name__}: {e})") from e
    run.flat.outputs = {output.name: names[output.name] for output in graph.output if output.name in names}
    run.flat.nodes = needed(run.flat)
    return run.flat


def needed(flat: Flat) -> list[Ran]:
    """The nodes without those of which nothing comes to an output."""
    wanted, kept = set(flat.outputs.values()), []
    for ran in reversed(flat.nodes):
        if not wanted.isdisjoint(ran.outputs):
            wanted.update(filter(None, ran.reads))
            kept.append(ran)
    return [replace(ran, place=place) for place, ran in enumerate(reversed(kept))]


class _Run:
    """One run, which fills a flat graph."""

    def __init__(self, flat: Flat, runner: Runner, instead: Mapping[str, np.ndarray]) -> None:
        self.flat, self._steps, self._keep, self._instead = flat, StepRunner(runner), runner.keep, instead
        self._of_weights: set[str] = set()
        self._sequences: dict[str, list[str]] = {}
        self._context = flat.context
        self.opset = max((version for domain, version in flat.context.opsets if not domain), default=1)
        self._n_in_loops = self._depth = 0
        self._rows: dict[str, NodeProto] = {}  # what looks rows of a constant table up, by its output
        self._floats: dict[tuple[str, ...], str] = {}  # whole numbers, scale and what stands for 0, and what these are

    def add_constant(self, name: str, value: Typed, is_of_weights: bool) -> None:
        if name in self._instead:
            self.flat.replaced({name: self._instead[name]})
        else:
            self.flat.values[name] = value
        self.flat.constants.add(name)
        if is_of_weights:
            self._of_weights.add(name)

    def note_half(self, name: str) -> None:
        """Note the storage of a small constant of a graph in half precision."""
        step = self.flat.foreign.step_of_halves(self.flat.array(name))
        if step is not None:
            self.flat.storage[name] = step

    def graph(self, graph: onnx.GraphProto, names: dict[str, str], prefix: str) -> None:
        """Run a graph's nodes; `names` says which value each of its names is, and gets those that it makes."""
        for node in graph.node:
            self._run(renamed(node, names), names, prefix)

    def _run(self, node: NodeProto, names: dict[str, str], prefix: str) -> None:
        """Run a node whose inputs are values, and whose outputs are still the graph's own names."""
        if self._depth:
            self._count_in_loops()
        if self._hands_on(node):
            names[node.output[0]] = node.input[0]
            return
        if node.op_type == "If" and not node.domain:
            self._branch(node, names, prefix)
            return
        if unrolls(node, self.opset) and any(name not in self.flat.constants for name in _read(node)):
            self._depth += 1
            values = unrolled(node, self, f"{prefix}{node.name or node.output[0]}")
            self._depth -= 1
            names.update({name: value for name, value in zip(node.output, values, strict=False) if name})
            return
        if node.op_type in _SEQUENCES and not node.domain:
            self._sequence(node, names, prefix)
            return
        outputs = list(node.output)
        own = [self._fresh(f"{prefix}{name}" if name else "") for name in outputs]
        node.output[:] = own
        node.name = f"{prefix}{node.name}"
        inner = expanded(node, self.flat.values, self._context.opsets, self.flat.constants)
        made: dict[str, str] = {}
        if inner is not None:
            self.flat.storage.update(inner.storage)
            for name, array in inner.held.items():
                self.add_constant(name, _typed(array), is_of_weights=False)
        for step in (node,) if inner is None else inner.steps:
            step.input[:] = [made.get(name, name) for name in step.input]
            same = step.input[0] if self._hands_on(step) else self._made_before(step)
            if same is not None:
                made[step.output[0]] = same
            else:
                self._step(self._of_floats(step))
        names.update({name: made.get(new, new) for name, new in zip(outputs, own, strict=True) if name})

    def _hands_on(self, node: NodeProto) -> bool:
        """Whether a node gives what it reads: Identity, or a cast of a number to the type that it has."""
        if node.op_type != "CastLike" or node.domain:
            return node.op_type == "Identity" and not node.domain
        own, other = (self.flat.values[name].type for name in node.input)
        return own in _FLOATS and other in _FLOATS

    def _made_before(self, node: NodeProto) -> str | None:
        """What a node makes, where that was made before: the same whole numbers as floats."""
        if node.op_type != "DequantizeLinear" or node.domain:
            return None
        key = (*node.input, *sorted(onnx.helper.printable_attribute(one) for one in node.attribute))
        found = self._floats.setdefault(key, node.output[0])
        return None if found == node.output[0] else found

    def _of_floats(self, node: NodeProto) -> NodeProto:
        """Instead of rows of whole numbers that are dequantised all with one scale: the same rows of the dequantised table."""
        is_of_rows = node.op_type == "DequantizeLinear" and not node.domain and node.input[0] in self._rows
        if not is_of_rows or any(self.array(name).size != 1 or self.is_data(name) for name in node.input[1:] if name):
            return node
        rows = NodeProto.FromString(self._rows[node.input[0]].SerializeToString())
        table = onnx.helper.make_node("DequantizeLinear", [rows.input[0], *node.input[1:]], [f"{node.output[0]}/table"])
        same = self._made_before(table)
        if same is None:
            self._step(table)
        rows.input[0], rows.output[0] = same or table.output[0], node.output[0]
        return rows

    def _fresh(self, name: str) -> str:
        if not name or name not in self.flat.values:
            return name
        n = 2
        while f"{name}_{n}" in self.flat.values:
            n += 1
        return f"{name}_{n}"

    def _sequence(self, node: NodeProto, names: dict[str, str], prefix: str) -> None:
        """A sequence is no value of its own: its parts are, and whatever reads it reads one of these."""
        output, array = node.output[0], self.flat.array
        if node.op_type in ("SequenceConstruct", "SequenceEmpty"):
            self._sequences[prefix + output] = list(node.input)
        elif node.op_type in ("SequenceInsert", "SequenceErase"):
            parts = list(self._sequences[node.input[0]])
            at = node.input[-1] if len(node.input) > 1 + (node.op_type == "SequenceInsert") else ""
            if node.op_type == "SequenceInsert":
                parts.insert(int(array(at)) if at else len(parts), node.input[1])
            else:
                del parts[int(array(at)) if at else -1]
            self._sequences[prefix + output] = parts
        elif node.op_type == "SplitToSequence":
            self._sequences[prefix + output] = self._split(node, prefix)
        else:
            parts = self._sequences[node.input[0]]
            if node.op_type == "SequenceAt":
                names[output] = parts[int(array(node.input[1]))]
                return
            if node.op_type == "SequenceLength":
                made = onnx.helper.make_node("Constant", [], [output], value_int=len(parts))
            else:
                kept = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
                stacked = kept.pop("new_axis", 0)
                if stacked:
                    parts = [
                        self._unsqueezed(part, kept["axis"], f"{prefix}{output}.{n}") for n, part in enumerate(parts)
                    ]
                made = onnx.helper.make_node("Concat", parts, [output], node.name, **kept)
            made.metadata_props.extend(node.metadata_props)
            self._run(made, names, prefix)
            return
        names[output] = prefix + output

    def _unsqueezed(self, part: str, axis: int, name: str) -> str:
        self.add_constant(f"{name}.axis", typed(np.array([axis], np.int64)), is_of_weights=False)
        self._step(onnx.helper.make_node("Unsqueeze", [part, f"{name}.axis"], [name], name))
        return name

    def _split(self, node: NodeProto, prefix: str) -> list[str]:
        """The parts of a split, each made by a Slice."""
        at = {a.name: a.i for a in node.attribute}
        value, axis = node.input[0], at.get("axis", 0)
        size = self.flat.array(value).shape[axis]
        given = self.flat.array(node.input[1]) if len(node.input) > 1 and node.input[1] else np.array(1)
        sizes = [int(n) for n in given] if given.ndim else [int(given)] * -(-size // max(1, int(given)))
        is_squeezed, parts, start = len(node.input) < 2 and not at.get("keepdims", 1), [], 0
        for n, width in enumerate(sizes):
            stem, end = self._fresh(f"{prefix}{node.output[0]}.{n}"), min(size, start + width)
            for what, number in (("start", start), ("end", end), ("axis", axis)):
                self.add_constant(f"{stem}.{what}", typed(np.array([number], np.int64)), is_of_weights=False)
            reads = [value, f"{stem}.start", f"{stem}.end", f"{stem}.axis"]
            made = onnx.helper.make_node("Slice", reads, [stem], f"{prefix}{node.name}.{n}")
            made.metadata_props.extend(node.metadata_props)
            self._step(made)
            if is_squeezed:
                self._step(onnx.helper.make_node("Squeeze", [stem, f"{stem}.axis"], [f"{stem}.part"], made.name))
                stem = f"{stem}.part"
            parts.append(stem)
            start = end
        return parts

    def _branch(self, node: NodeProto, names: dict[str, str], prefix: str) -> None:
        taken = "then_branch" if bool(self.flat.array(node.input[0]).ravel()[0]) else "else_branch"
        branch = next(a.g for a in node.attribute if a.name == taken)
        if self.flat.is_data(node.input[0]):
            self.flat.notes.append(f"of {node.name or 'an If'}, only the branch that this input takes was compared")
        values = self.body(branch, (), f"{prefix}{node.name}/")
        names.update({name: value for name, value in zip(node.output, values, strict=True) if name})

    def body(self, graph: onnx.GraphProto, reads: Sequence[str], prefix: str) -> list[str]:
        """Run a subgraph, whose captured values go by their own names already, on these values; the values that it gives."""
        if self._depth:
            self._count_in_loops()
        inside = dict(zip((info.name for info in graph.input), reads, strict=True))
        for tensor in graph.initializer:
            inside[tensor.name] = self.held(f"{prefix}{tensor.name}", onnx.numpy_helper.to_array(tensor))
        self.graph(graph, inside, prefix)
        return [inside.get(output.name, output.name) for output in graph.output]

    def _count_in_loops(self) -> None:
        self._n_in_loops += 1
        if self._n_in_loops > _MOST_IN_LOOPS:
            raise InputError(
                f"{self.flat.foreign.path}: its loops run more than {_MOST_IN_LOOPS} nodes on this input, and cannot be "
                "unrolled; give it a shorter one"
            )

    def array(self, name: str) -> np.ndarray:
        """A value's numbers."""
        return self.flat.array(name)

    def is_data(self, name: str) -> bool:
        """Whether a value hangs on the input."""
        return self.flat.is_data(name)

    def held(self, name: str, array: np.ndarray) -> str:
        """A constant of about this name; its name."""
        name = self._fresh(name)
        self.add_constant(name, _typed(array), is_of_weights=False)
        return name

    def stepped(self, node: NodeProto) -> str:
        """Run a node that makes one value; its name."""
        node.output[0] = self._fresh(node.output[0])
        self._step(node)
        return node.output[0]

    def note(self, text: str) -> None:
        """Tell the reader something."""
        self.flat.notes.append(text)

    def _step(self, node: NodeProto) -> None:
        flat = self.flat
        if node.op_type == "Sum" and not node.domain and len(node.input) == 2:
            node.op_type = "Add"
        read = _read(node)
        is_constant = node.op_type in (*_SHAPES, "Constant") or all(name in flat.constants for name in read)
        outputs = [name for name in node.output if name]
        if is_constant and self._instead.keys() >= set(outputs):
            for name in outputs:
                self.flat.replaced({name: self._instead[name]})
                self.flat.constants.add(name)
            return
        found = dict(zip(outputs, made(node, flat, flat.values, self._steps), strict=False))
        if not is_constant:
            if node.op_type == "Gather" and not node.domain and not flat.is_data(node.input[0]):
                self._rows[node.output[0]] = node
            flat.nodes.append(Ran(len(flat.nodes), node, (*node.input, *implicit_inputs(node))))
            flat.values.update({name: self._kept(value, read) for name, value in found.items()})
            return
        self._note_storage(node)
        of_weights = node.op_type not in _SHAPES and not self._of_weights.isdisjoint(read)
        for name, value in found.items():
            self.add_constant(name, value, of_weights)
            if node.op_type == "Constant":
                self.note_half(name)
            if of_weights and name not in flat.given:
                flat.constant_nodes[name] = node

    def _kept(self, value: Typed, read: Sequence[str]) -> Typed:
        """A value put aside, unless it is what the node read, seen otherwise."""
        is_seen = any(np.may_share_memory(value.array, self.array(name)) for name in read)
        return value if is_seen else Typed(self._keep(value.array), value.type)

    def _note_storage(self, node: NodeProto) -> None:
        """How far a constant's levels are from one another, where it is dequantised, or made of one that is."""
        flat, output = self.flat, node.output[0]
        if node.op_type == "DequantizeLinear" and not node.domain:
            ones = Typed(np.ones_like(flat.array(node.input[0])), flat.values[node.input[0]].type)
            bare = NodeProto.FromString(node.SerializeToString())
            del bare.input[2:]
            flat.storage[output] = made(bare, flat, {**flat.values, node.input[0]: ones}, self._steps)[0].array
        elif (
            node.input and node.input[0] in flat.storage and node.op_type in _MOVES and node.input[0] in flat.constants
        ):
            step = Typed(flat.storage[node.input[0]], FLOAT)
            flat.storage[output] = made(node, flat, {**flat.values, node.input[0]: step}, self._steps)[0].array


def made(node: NodeProto, flat: Flat, values: Mapping[str, Typed], steps: StepRunner) -> Sequence[Typed]:
    """What a node of a flat graph makes of these values.

    Raises:
        InputError: it cannot run on them.
    """
    if not node.domain:
        if node.op_type == "Constant":
            return [_constant(node)]
        if node.op_type in _SHAPES:
            return [_shape(node, values[node.input[0]].array)]
        if node.op_type == "Cast" and values[node.input[0]].type in _FLOATS:
            to = type_name(next(onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == "to"))
            if to in _FLOATS:
                return [values[node.input[0]]]
    inputs = [values[name] if name else None for name in (*node.input, *implicit_inputs(node))]
    held = (
        frozenset(n for n, name in enumerate(node.input) if name in flat.constants) if node.domain else frozenset[int]()
    )
    try:
        return steps.run(node, flat.context, inputs, held)
    except (InputError, ValueError, IndexError, TypeError, KeyError) as e:
        where = f"{flat.foreign.path}: node {node.name or node.output[0]} ({node.op_type})"
        raise InputError(f"{where} cannot run on this input: {e}") from e


def _read(node: NodeProto) -> list[str]:
    """The values that a node reads, its subgraphs' too."""
    return [name for name in (*node.input, *implicit_inputs(node)) if name]


def renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """A copy of a node that reads these values under other names."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) if name else "" for name in node.input]
    rename_captured(copy, names)
    return copy


def _typed(array: np.ndarray) -> Typed:
    """An array as a value: floats in float64, whatever they are stored as."""
    found = typed(array)
    return Typed(found.array, FLOAT) if found.type in _FLOATS else found


def _stored(weight: Weight) -> Typed:
    return Typed(weight.array, FLOAT) if weight.array.dtype.kind not in "biu" else typed(weight.array)


def _constant(node: NodeProto) -> Typed:
    attribute = node.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return _typed(onnx.numpy_helper.to_array(value))
    array = np.array(value)
    return _typed(array.astype(np.float32) if array.dtype.kind == "f" else array)


def _shape(node: NodeProto, array: np.ndarray) -> Typed:
    if node.op_type == "Size":
        return typed(np.array(array.size, np.int64))
    at = {a.name: a.i for a in node.attribute}
    return typed(np.array(array.shape[at.get("start", 0) : at.get("end", array.ndim)], np.int64))
