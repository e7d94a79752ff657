"""A region as a network of values: every step can be run by itself, in double precision, and again on other values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import onnx

from .bodies import body_of
from .constants import constant_arrays
from .errors import InputError
from .kernels import FLOAT32_DOMAIN
from .regions import Region
from .slices import implicit_inputs
from .stepping import FLOAT, Context, StepRunner, Typed, element_of, type_name, typed

Attribute = str | int | float | tuple | bytes
Kind = Literal["input", "weight", "constant", "step"]
# Which operands say no more than where values stand: they are evaluated, and no step of the mathematics.
_LITERALS = {
    "Reshape": (1,),
    "Expand": (1,),
    "Slice": (1, 2, 3, 4),
    "Unsqueeze": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Split": (1,),
    "Pad": (1, 3),
    "ConstantOfShape": (0,),
    "Range": (0, 1, 2),
    "Trilu": (1,),
    "TopK": (1,),
    "CumSum": (1,),
    "OneHot": (1,),
    **{f"Reduce{name}": (1,) for name in ("Mean", "Sum", "Max", "Min", "L1", "L2", "SumSquare", "Prod", "LogSumExp")},
}
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Expand"})
_SHAPES = frozenset({"Shape", "Size"})
_PARTS = frozenset({"Slice", "Gather"})  # and these put some of them there
_SPLIT_READS = 13  # the opset since which a Split reads its sizes
# What an attribute is along each axis where it is left out; ONNX's schema gives no default of them.
_NOTHING = {"pads": 0, "output_padding": 0, "strides": 1, "dilations": 1}
ROUNDINGS = "roundings"  # among what is opened: values that are rounded to whole numbers are taken as they are


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """One node: what it reads as values (`operands`) and what only says where values stand (`literals`, by place).

    number: its place among the network's steps.
    index: its place among the program's nodes.
    attributes: those that are not at their default; axes counted from the end.
    defaults: what those are that are.
    places: which of the node's inputs each operand is.
    """

    number: int
    index: int
    operator: str
    domain: str
    attributes: Mapping[str, Attribute]
    defaults: Mapping[str, Attribute]
    operands: tuple[str, ...]
    places: tuple[int, ...]
    literals: Mapping[int, np.ndarray]
    outputs: tuple[str, ...]
    node: onnx.NodeProto = field(repr=False)

    @property
    def is_move(self) -> bool:
        """Whether it does nothing but put the same numbers elsewhere, or repeat them."""
        return self.operator in _MOVES and not self.domain

    def with_attribute(self, name: str, value: float) -> Step:
        """The same step with another number as an attribute."""
        node = onnx.NodeProto.FromString(self.node.SerializeToString())
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
        return replace(self, attributes={**self.attributes, name: value}, node=node)

    def is_like(self, other: Step) -> bool:
        """Whether both are the same operator on as many operands."""
        mine, theirs = ((s.operator, s.domain, len(s.operands)) for s in (self, other))
        return mine == theirs

    def has_settings_of(self, other: Step) -> bool:
        """Whether both have the same attributes and literals; where values stand is not asked of moves."""
        return self.attributes == other.attributes and (self.is_move or self.has_literals_of(other))

    def has_literals_of(self, other: Step) -> bool:
        """Whether both have the same literals."""
        return self.literals.keys() == other.literals.keys() and all(
            np.array_equal(value, other.literals[place]) for place, value in self.literals.items()
        )


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """One value: a tap or graph input, a weight, a constant, or what a step makes (`output` says which of them).

    label: the tap's, graph input's or weight's name.
    is_data: whether it hangs on what the region reads, by more than its shape.
    """

    name: str
    kind: Kind
    label: str
    maker: Step | None
    output: int
    is_data: bool


class Network:
    """A region's values and steps. Values are made when they are asked for, each once.

    Casts that change nothing in double precision are left out, and a Gemm is a product and a sum.

    Args:
        region: the region.
        feeds: its inputs in the graph's own layout.
        runner: runs single steps.
        opened: operators that are taken as the steps that ONNX defines them by; `ROUNDINGS` among them.
    """

    def __init__(
        self, region: Region, feeds: Sequence[np.ndarray], runner: StepRunner, opened: Collection[str] = ()
    ) -> None:
        self.region, self.runner = region, runner
        self._context = Context.of(region.program.model)
        self._made: dict[str, Typed | None] = {}
        self._aliases: dict[str, str] = {}
        self._paths: dict[tuple[frozenset[str], str], tuple[Step, ...]] = {}
        self._types: dict[str, str] = {}
        self._passes_over, self.passed_over = ROUNDINGS in opened, list[Step]()
        self.values: dict[str, Value] = {}
        self._read_leaves(region, feeds)
        steps: list[Step] = []
        for index, node in _plain_nodes(region.program.model.graph.node):
            for one in self._body_of(node) if node.op_type in opened else (node,):
                self._enter(index, one, steps)
        self.steps = tuple(steps)
        self.output = self._alias("out")

    def _read_leaves(self, region: Region, feeds: Sequence[np.ndarray]) -> None:
        declared = region.program.model.graph.input
        for n, (label, feed) in enumerate(zip(region.inputs, feeds, strict=True)):
            kind = type_name(declared[n].type.tensor_type.elem_type)
            self._add(Value(f"i{n}", "input", label, None, 0, True), Typed(typed(feed).array, kind))
        for n, (label, weight) in enumerate(zip(region.weight_names, region.weights, strict=True)):
            is_float = weight.array.dtype.kind not in "biu"
            stored = Typed(weight.array, FLOAT) if is_float else typed(weight.array)
            self._add(Value(f"w{n}", "weight", label, None, 0, True), stored)
        for name, array in constant_arrays(region.program).items():
            self._add(Value(name, "constant", "", None, 0, False), typed(array))

    def _add(self, value: Value, made: Typed) -> None:
        self.values[value.name], self._made[value.name] = value, made

    def _alias(self, name: str) -> str:
        return self._aliases.get(name, name)

    def _body_of(self, node: onnx.NodeProto) -> Sequence[onnx.NodeProto]:
        """The steps that a node stands for; the node itself where none are known."""
        read = {name: self._known(self._alias(name)) for name in node.input if name}
        types = {name: (element_of(made), made.array.shape) for name, made in read.items() if made is not None}
        body = body_of(node, types, self._context.opsets) if len(types) == len(read) and not node.domain else None
        return body or (node,)

    def _enter(self, index: int, node: onnx.NodeProto, steps: list[Step]) -> None:
        """Add a node as a step, or as another name of what it reads."""
        if node.op_type == "Constant" and not node.domain:
            if node.output[0] not in self.values:
                self._add(Value(node.output[0], "constant", "", None, 0, False), _constant(node))
            return
        names = [self._alias(name) for name in (*node.input, *implicit_inputs(node))]
        rounding = self._rounding(node, names) if self._passes_over else None
        if rounding is not None:
            self._aliases[node.output[0]] = self._moved(index, *rounding, steps)
            if rounding[0] not in self.passed_over:
                self.passed_over.append(rounding[0])
            return
        if self._is_nothing(node, names):
            self._aliases[node.output[0]] = names[0]
            return
        at = _LITERALS.get(node.op_type, ()) if not node.domain else self._held(node, names)
        literals = {place: self._literal(names[place]) for place in at if place < len(names) and names[place]}
        places = tuple(place for place, name in enumerate(names) if name and place not in at)
        operands = tuple(names[place] for place in places)
        rank = self._rank(operands[0]) if operands else None
        attributes, defaults = _attributes(node, self._context, rank)
        if node.op_type == "Reshape" and 1 in literals and literals[1].all():
            attributes.pop("allowzero", None)  # which says what a zero means
        shape = self._shape(operands[0]) if operands else None
        if self._is_split(node) and 1 not in literals and shape:
            node, literals[1] = _with_sizes(node, shape)
            attributes.pop("num_outputs", None)
        literals = _normal_literals(node.op_type, literals, shape)
        outputs = tuple(name for name in node.output if name)
        step = Step(
            len(steps),
            index,
            node.op_type,
            node.domain,
            attributes,
            defaults,
            operands,
            places,
            literals,
            outputs,
            node,
        )
        steps.append(step)
        is_data = node.op_type not in _SHAPES and any(self.values[name].is_data for name in operands)
        for n, name in enumerate(outputs):
            self.values[name] = Value(name, "step", "", step, n, is_data)

    def _is_split(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a Split, of an opset in which it may read its sizes."""
        is_split = node.op_type == "Split" and not node.domain
        return is_split and dict(self._context.opsets).get("", 1) >= _SPLIT_READS

    def _held(self, node: onnx.NodeProto, names: Sequence[str]) -> tuple[int, ...]:
        """The constants of an operator of onnxruntime's own, which chooses its kernel by them: they are no operands."""
        if node.domain == FLOAT32_DOMAIN:
            return ()
        return tuple(place for place, name in enumerate(names) if name and self.values[name].kind == "constant")

    def _rounding(self, node: onnx.NodeProto, names: Sequence[str]) -> tuple[Step, list[Step]] | None:
        """The step that rounds data to the whole numbers of which a node makes floats again, by the same scale, and what
        moves them in between; None where there is none.
        """
        maker = self.values[names[0]].maker if node.op_type == "DequantizeLinear" and not node.domain else None
        if maker is None or not self.values[names[0]].is_data:
            return None
        moves = list[Step]()
        while maker is not None and (maker.is_move or maker.operator in _PARTS) and not maker.domain:
            moves.insert(0, maker)
            maker = self.values[maker.operands[0]].maker
        if maker is None or maker.domain:
            return None
        if maker.operator == "DynamicQuantizeLinear":
            return (maker, moves) if tuple(names[1:]) == maker.outputs[1:] else None
        if maker.operator != "QuantizeLinear" or len(names) != len(maker.operands):
            return None
        scales = [[self._known(name) for name in one] for one in (names[1:], maker.operands[1:])]
        same = (
            ours is not None and theirs is not None and np.array_equal(ours.array, theirs.array)
            for ours, theirs in zip(*scales, strict=True)
        )
        return (maker, moves) if all(same) else None

    def _moved(self, index: int, rounding: Step, moves: Sequence[Step], steps: list[Step]) -> str:
        """What is rounded, moved as its whole numbers are."""
        name = rounding.operands[0]
        for move in moves:
            node = onnx.NodeProto.FromString(move.node.SerializeToString())
            node.input[0], node.output[0] = name, f"{move.outputs[0]}.not_rounded"
            if node.output[0] not in self.values:
                self._enter(index, node, steps)
            name = self._alias(node.output[0])
        return name

    def _is_nothing(self, node: onnx.NodeProto, names: Sequence[str]) -> bool:
        """Whether a node hands on what it reads: Identity, or a cast to what double precision makes the same."""
        if node.domain or not names or names[0] not in self.values:
            return False
        if node.op_type == "Identity":
            return True
        if node.op_type not in ("Cast", "CastLike"):
            return False
        made = self._known(names[0])
        if node.op_type == "CastLike":
            like = self._known(names[1])
            return made is not None and like is not None and made.type == like.type
        to = type_name(next(onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == "to"))
        return made is not None and made.type == to

    def _literal(self, name: str) -> np.ndarray:
        made = self._known(name)
        if made is None:
            raise InputError("a shape inside the region is not known")
        return made.array

    def _rank(self, name: str) -> int | None:
        made = self._known(name)
        return None if made is None else made.array.ndim

    def _shape(self, name: str) -> tuple[int, ...] | None:
        made = self._known(name)
        return None if made is None else made.array.shape

    def _known(self, name: str) -> Typed | None:
        """A value, made where it was not; None where it cannot be."""
        if name not in self._made:
            maker = self.values[name].maker
            assert maker is not None
            self._run(maker)
        return self._made[name]

    def _run(self, step: Step) -> None:
        operands = [self._known(name) for name in step.operands]
        made: Sequence[Typed | None] = [None] * len(step.outputs)
        if all(value is not None for value in operands):
            with suppress(InputError):
                made = self.apply(step, [value for value in operands if value is not None])
        self._made.update(zip(step.outputs, made, strict=True))

    def typed(self, name: str) -> Typed | None:
        """A value with its type; None where it cannot be made."""
        return self._known(self._alias(name))

    def array(self, name: str) -> np.ndarray | None:
        """A value; None where it cannot be made."""
        made = self._known(self._alias(name))
        return None if made is None else made.array

    def apply(self, step: Step, operands: Sequence[Typed], like: Step | None = None) -> list[Typed]:
        """What a step makes of these operands, with the attributes and literals of another one where that is given.

        Raises:
            InputError: it cannot run on them.
        """
        shown = like or step
        n_inputs = max((*shown.places, *shown.literals, -1)) + 1
        inputs: list[Typed | None] = [None] * n_inputs
        for place, operand in zip(shown.places, operands, strict=True):
            inputs[place] = operand
        for place, literal in shown.literals.items():
            inputs[place] = Typed(literal, FLOAT if literal.dtype == np.float64 else literal.dtype.name)
        held = frozenset(shown.literals) if shown.domain else frozenset[int]()
        try:
            return self.runner.run(shown.node, self._context, inputs, held)
        except InputError:
            raise
        except (ValueError, IndexError, TypeError) as e:  # numpy's, of shapes that do not fit
            raise InputError(f"{shown.operator} cannot run on these values ({e})") from e

    def rerun(self, given: Mapping[str, Typed], target: str) -> Typed | None:
        """The target with other values at some places; None where it does not hang on them, or cannot be run so."""
        path = self.path(frozenset(given), target)
        if not path:
            return given.get(target)
        made = dict(given)
        for step in path:
            operands = [made.get(name) or self._known(name) for name in step.operands]
            if any(operand is None for operand in operands):
                return None
            try:
                outputs = self.apply(step, [operand for operand in operands if operand is not None])
            except InputError:
                return None
            for name, value in zip(step.outputs, outputs, strict=True):
                made.setdefault(name, value)
        return made[target]

    def path(self, sources: frozenset[str], target: str) -> tuple[Step, ...]:
        """The steps between these values and the target, in order."""
        key = sources, target
        if key not in self._paths:
            depends: dict[str, bool] = {}
            for step in self.steps:
                for name in step.outputs:
                    depends[name] = any(n in sources or depends.get(n, False) for n in step.operands)
            needed: dict[int, Step] = {}
            stack = [target] if target not in sources else []
            while stack:
                maker = self.values[stack.pop()].maker
                if maker is None or maker.number in needed or not depends[maker.outputs[0]]:
                    continue
                needed[maker.number] = maker
                stack.extend(name for name in maker.operands if name not in sources)
            self._paths[key] = tuple(needed[number] for number in sorted(needed))
        return self._paths[key]

    def base(self, name: str) -> str:
        """The value that this one is, moved elsewhere: what stands before all moves."""
        while (maker := self.values[name].maker) is not None and maker.is_move:
            name = maker.operands[0]
        return name

    def cone(self, top: str, stops: Iterable[str] = ()) -> Iterator[str]:
        """The values that one is made of, itself first, moved ones too; those at which to stop are not entered."""
        stops, seen, stack = set(stops), set(), [top]
        while stack:
            name = stack.pop()
            if name in seen:
                continue
            seen.add(name)
            yield name
            maker = self.values[name].maker
            if maker is not None and name not in stops:
                stack.extend(maker.operands)

    def is_below(self, name: str, other: str) -> bool:
        """Whether a value hangs on another one, or is it."""
        return other in self.cone(name)


def _plain_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[int, onnx.NodeProto]]:
    """The nodes with their places; a Gemm without factors as transposes, a product and a sum."""
    for index, node in enumerate(nodes):
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type != "Gemm" or node.domain or attributes.get("alpha", 1) != 1 or attributes.get("beta", 1) != 1:
            yield index, node
            continue
        output, names = node.output[0], list(node.input[:2])
        for place, flag in enumerate(("transA", "transB")):
            if attributes.get(flag):
                turned = f"{output}.{flag}"
                yield index, onnx.helper.make_node("Transpose", [names[place]], [turned], perm=[1, 0])
                names[place] = turned
        has_bias = len(node.input) > 2 and bool(node.input[2])
        yield index, onnx.helper.make_node("MatMul", names, [f"{output}.product" if has_bias else output])
        if has_bias:
            yield index, onnx.helper.make_node("Add", [f"{output}.product", node.input[2]], [output])


def _constant(node: onnx.NodeProto) -> Typed:
    value = onnx.helper.get_attribute_value(node.attribute[0])
    if isinstance(value, onnx.TensorProto):
        return typed(onnx.numpy_helper.to_array(value))
    array = np.array(value)
    return typed(array.astype(np.float32) if array.dtype.kind == "f" else array)


def _attributes(
    node: onnx.NodeProto, context: Context, rank: int | None
) -> tuple[dict[str, Attribute], dict[str, Attribute]]:
    """A node's attributes, without those at their default, with axes counted from the end; and the defaults."""
    found = {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in node.attribute}
    defaults: dict[str, Attribute] = {}
    with suppress(onnx.defs.SchemaError):  # an operator of another domain has no schema
        schema = onnx.defs.get_schema(node.op_type, dict(context.opsets).get(node.domain, 1), node.domain)
        known = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.type}
        defaults = {name: _plain(onnx.helper.get_attribute_value(value)) for name, value in known.items()}
    defaults |= {
        name: value for name, value in found.items() if isinstance(value, tuple) and {*value} == {_NOTHING.get(name)}
    }
    found = {name: value for name, value in found.items() if defaults.get(name) != value}
    if node.op_type in ("Conv", "ConvTranspose"):
        found.pop("kernel_shape", None)  # the weight's own
    if node.op_type in ("Cast", "CastLike") and isinstance(to := found.get("to"), int):
        found["to"] = type_name(to)
    if rank and isinstance(axis := found.get("axis"), int) and node.op_type not in ("Gather", "Flatten"):
        found["axis"] = axis % rank - rank
    return found, defaults


def _plain(value: object) -> Attribute:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value).tobytes()
    assert hasattr(value, "SerializeToString")
    return bytes(value.SerializeToString(deterministic=True))


def _with_sizes(node: onnx.NodeProto, shape: tuple[int, ...]) -> tuple[onnx.NodeProto, np.ndarray]:
    """A Split into parts of one size, with the sizes as an input; and these."""
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    n_parts, size = len(node.output), shape[axis]
    copy = onnx.NodeProto.FromString(node.SerializeToString())
    del copy.attribute[:]
    copy.attribute.extend(a for a in node.attribute if a.name != "num_outputs")
    copy.input[:] = [node.input[0], "sizes"]
    largest = -(-size // n_parts)
    return copy, np.array([min(largest, max(0, size - n * largest)) for n in range(n_parts)], np.int64)


def _normal_literals(
    operator: str, literals: dict[int, np.ndarray], shape: tuple[int, ...] | None
) -> dict[int, np.ndarray]:
    """Literals in one form: reduced axes sorted and counted from the end, slices within their bounds."""
    if shape is None or not shape:
        return literals
    if operator.startswith("Reduce") and 1 in literals:
        return {1: np.sort(literals[1] % len(shape)) - len(shape)}
    if operator == "Slice" and 1 in literals and 2 in literals:
        starts, ends = (literals[n].ravel() for n in (1, 2))
        axes = literals[3].ravel() if 3 in literals else np.arange(len(starts))
        strides = literals[4].ravel() if 4 in literals else np.ones(len(starts), np.int64)
        rows = []
        for start, end, axis, stride in zip(starts, ends, axes, strides, strict=True):
            axis = int(axis) % len(shape)
            first, last, step = slice(int(start), int(end), int(stride)).indices(shape[axis])
            rows.append((axis - len(shape), first, last if last >= 0 else -shape[axis] - 1, step))
        table = np.array(sorted(rows), np.int64)
        return {1: table[:, 1], 2: table[:, 2], 3: table[:, 0], 4: table[:, 3]}
    return literals
