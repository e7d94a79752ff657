"""One node at a time, in double precision: what a program's step makes of values that are handed to it.

Values in half precision are held as float64 numbers that the type can hold: a step on them is computed in double, and
rounded to the type as a float32 kernel would round it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import ml_dtypes
import numpy as np
import onnx

from .constants import BFLOAT16
from .errors import InputError
from .inference import inferred
from .products import Session, is_plain_gemm
from .promote import promoted
from .run import Runner
from .slices import implicit_inputs, rename_captured

FLOAT = "float"
SMALL_FLOATS = {
    "float16": np.dtype(np.float16),
    "bfloat16": BFLOAT16,
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
_TYPE_OF_ELEMENT: dict[int, str] = {
    onnx.TensorProto.FLOAT: FLOAT,
    onnx.TensorProto.DOUBLE: FLOAT,
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.FLOAT8E4M3FN: "float8_e4m3fn",
    onnx.TensorProto.FLOAT8E5M2: "float8_e5m2",
}
_ELEMENT_OF_TYPE = {name: element for element, name in reversed(_TYPE_OF_ELEMENT.items())}
_VIEWS = {"Transpose", "Reshape", "Squeeze", "Unsqueeze"}
_ARITHMETIC = {  # of which IEEE 754 says each bit, so that no kernel can give another one
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Neg": np.negative,
    "Sqrt": np.sqrt,
}


class Typed(NamedTuple):
    """An array and what it is in the program: "float", "float16", "bfloat16", or numpy's name of another type.

    Floats are float64, but for weights, which stay as they are stored until a step reads them.
    """

    array: np.ndarray
    type: str


@dataclass(frozen=True, slots=True)
class Context:
    """What a node's program says of all its nodes: the opsets, and the functions that it may call."""

    opsets: tuple[tuple[str, int], ...]
    functions: tuple[bytes, ...]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Context:
        opsets = tuple((o.domain, o.version) for o in model.opset_import)
        return cls(opsets, tuple(f.SerializeToString(deterministic=True) for f in model.functions))


def typed(array: np.ndarray) -> Typed:
    """An array as a program has it, by its own type: floats in float64."""
    if array.dtype in (np.float32, np.float64):
        return Typed(np.asarray(array, np.float64), FLOAT)
    for name, dtype in SMALL_FLOATS.items():
        if array.dtype == dtype:
            return Typed(array.astype(np.float64), name)
    return Typed(array, array.dtype.name)


def rounded(array: np.ndarray, kind: str) -> np.ndarray:
    """Float numbers as a type of fewer bits holds them, in float64; as they are where it holds them all."""
    if kind not in SMALL_FLOATS:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32).astype(SMALL_FLOATS[kind]).astype(np.float64)


class StepRunner:
    """Runs single nodes. Nodes that are alike share a session; large products with weights are taken by the runner.

    `work` counts what was spent: the elements made, and a fixed share for each call.
    """

    CALL, ELEMENT = 20_000, 2  # what a call costs beside its elements, and what an element does

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._sessions: dict[tuple, tuple[Session, list[str]]] = {}
        self.work = 0

    def run(
        self,
        node: onnx.NodeProto,
        context: Context,
        inputs: Sequence[Typed | None],
        held: frozenset[int] = frozenset(),
    ) -> list[Typed]:
        """The node's outputs on these inputs, those that its subgraphs read behind its own; None where one is left out.

        Args:
            held: which of them onnxruntime is to have as constants, for it chooses its kernel by them.
        Raises:
            InputError: it cannot run on them.
        """
        try:
            made = self._in_numpy(node, inputs)
        except (IndexError, ValueError) as e:
            raise InputError(f"{node.op_type} {node.name}: {e}") from e
        if made is None:
            made = self._in_onnxruntime(node, context, inputs, held)
        self.work += self.CALL + self.ELEMENT * sum(value.array.size for value in made)
        return made

    def _in_numpy(self, node: onnx.NodeProto, inputs: Sequence[Typed | None]) -> list[Typed] | None:
        """What needs no kernel: casts, moves, arithmetic, and what is done with a weight as it is stored."""
        first = inputs[0] if inputs else None
        if first is None or node.domain:
            return None
        if node.op_type in _ARITHMETIC and not node.attribute:
            return _arithmetic(node, inputs)
        if node.op_type == "Cast":
            to = next(onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == "to")
            return [_cast(first, type_name(to))]
        if node.op_type == "CastLike" and inputs[1] is not None:
            return [_cast(first, inputs[1].type)]
        if node.op_type == "MatMul" and inputs[1] is not None and is_stored(inputs[1]) and inputs[1].array.ndim == 2:
            return [self._product(_wide(first), inputs[1])] if first.array.ndim > 1 else None
        if node.op_type == "Gemm" and inputs[1] is not None and is_stored(inputs[1]):
            return self._gemm(node, first, inputs[1], inputs[2] if len(inputs) > 2 else None)
        if node.op_type in _VIEWS:
            return _view(node, first, inputs)
        if node.op_type == "Gather" and inputs[1] is not None:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            # np.take would copy a table that is seen transposed
            seen = np.moveaxis(first.array, axis, 0)[inputs[1].array]
            places = range(inputs[1].array.ndim)
            found = np.moveaxis(seen, places, [axis % first.array.ndim + place for place in places])
            return [typed(found) if is_stored(first) else Typed(np.asarray(found), first.type)]
        if not is_stored(first):
            return None
        if node.op_type == "GatherND" and inputs[1] is not None and not any(a.i for a in node.attribute):
            return [typed(first.array[tuple(np.moveaxis(inputs[1].array, -1, 0))])]
        return None

    def _gemm(self, node: onnx.NodeProto, x: Typed, weight: Typed, bias: Typed | None) -> list[Typed] | None:
        """A product with a weight as it is stored, and a bias; None where more is asked."""
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if not is_plain_gemm(attributes):
            return None
        made = self._product(_wide(x), Typed(weight.array.T, FLOAT) if attributes.get("transB", 0) else weight)
        return [made if bias is None else Typed(made.array + _wide(bias), FLOAT)]

    def _product(self, x: np.ndarray, weight: Typed) -> Typed:
        """x [..., in] with a weight [in, out] as it is stored."""
        w = weight.array
        if x.shape[-1] != w.shape[0]:
            raise InputError(f"a product of {list(x.shape)} with {list(w.shape)} cannot be")
        rows = self._runner.multiply(np.ascontiguousarray(x.reshape(-1, x.shape[-1])), w.T)
        self.work += w.size * (1 + len(rows) // 16) // 8
        return Typed(rows.reshape(*x.shape[:-1], -1), FLOAT)

    def _in_onnxruntime(
        self, node: onnx.NodeProto, context: Context, inputs: Sequence[Typed | None], held: frozenset[int]
    ) -> list[Typed]:
        types = tuple(None if value is None else value.type for value in inputs)
        attributes = tuple(a.SerializeToString(deterministic=True) for a in node.attribute)
        constants = {place: value for place in held if (value := inputs[place]) is not None}
        digests = tuple((place, hash(value.array.tobytes())) for place, value in constants.items())
        key = node.op_type, node.domain, attributes, types, len(node.output), context, digests
        if key not in self._sessions:
            self._sessions[key] = self._prepared(node, context, types, constants)
        session, made_types = self._sessions[key]
        feeds = [_wide(value) for n, value in enumerate(inputs) if value is not None and n not in held]
        with np.errstate(all="ignore"):
            arrays = session.run([f"y{n}" for n, name in enumerate(node.output) if name], feeds)
        return [_as_made(array, kind) for array, kind in zip(arrays, made_types, strict=True)]

    def _prepared(
        self, node: onnx.NodeProto, context: Context, types: Sequence[str | None], constants: Mapping[int, Typed]
    ) -> tuple[Session, list[str]]:
        model, n_inputs = _model_of(node, context, types, constants, is_wide=True)
        exact, _ = _model_of(node, context, types, constants, is_wide=False)
        inferred = {info.name: info.type.tensor_type.elem_type for info in _inferred(exact).graph.output}
        outputs = [f"y{n}" for n, name in enumerate(node.output) if name]
        wide = next((kind for kind in types if kind == FLOAT or kind in SMALL_FLOATS), FLOAT)
        made = [_TYPE_OF_ELEMENT.get(inferred.get(name, 0), wide if not inferred.get(name) else "") for name in outputs]
        return self._runner.session(promoted(model, n_inputs)), made


def type_name(element: int) -> str:
    """The name of an ONNX element type, as `Typed` has it."""
    known = _TYPE_OF_ELEMENT.get(element)
    return known or np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element)).name


def element_of(value: Typed) -> int:
    """The ONNX element type of a value."""
    return _element(value.type, is_wide=False)


def is_stored(value: Typed) -> bool:
    """Whether a value is a weight as it is stored, or a view of one."""
    return value.type == FLOAT and value.array.dtype != np.float64


def _wide(value: Typed) -> np.ndarray:
    is_float = value.type == FLOAT or value.type in SMALL_FLOATS
    return np.asarray(value.array, np.float64, order="C") if is_float else np.asarray(value.array, order="C")


def _as_made(array: np.ndarray, kind: str) -> Typed:
    if kind == FLOAT or kind in SMALL_FLOATS:
        return Typed(rounded(np.asarray(array, np.float64), kind), kind)
    return typed(np.asarray(array))


def _cast(value: Typed, to: str) -> Typed:
    if to == FLOAT:
        return value if value.type == FLOAT else Typed(_wide(value).astype(np.float64), FLOAT)
    if to in SMALL_FLOATS:
        return Typed(rounded(_wide(value).astype(np.float64), to), to)
    with np.errstate(invalid="ignore"):
        return Typed(value.array.astype(np.dtype(to)), to)


def _arithmetic(node: onnx.NodeProto, inputs: Sequence[Typed | None]) -> list[Typed] | None:
    """What IEEE arithmetic makes of floats; None of anything else."""
    arrays = [_wide(value) for value in inputs if value is not None and value.type == FLOAT]
    if len(arrays) != len(inputs):
        return None
    with np.errstate(all="ignore"):
        return [Typed(np.asarray(_ARITHMETIC[node.op_type](*arrays)), FLOAT)]


def _view(node: onnx.NodeProto, value: Typed, inputs: Sequence[Typed | None]) -> list[Typed] | None:
    """What a move makes of a value, without a copy where numpy needs none; None where its opset says it in another way.

    Raises:
        ValueError: the value cannot be moved so.
    """
    array, attributes = value.array, {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    argument = inputs[1].array.ravel().tolist() if len(inputs) > 1 and inputs[1] is not None else None
    axes = attributes.get("axes") if argument is None else argument
    if node.op_type == "Transpose":
        array = array.transpose(attributes.get("perm"))
    elif node.op_type == "Squeeze":
        array = np.squeeze(array, None if axes is None else tuple(axes))
    elif node.op_type == "Unsqueeze" and axes is not None:
        array = np.expand_dims(array, tuple(axes))
    elif node.op_type == "Reshape" and argument is not None and not attributes.get("allowzero", 0):
        array = array.reshape([array.shape[n] if size == 0 else size for n, size in enumerate(argument)])
    else:
        return None
    return [Typed(array, value.type)]


def _model_of(
    node: onnx.NodeProto,
    context: Context,
    types: Sequence[str | None],
    constants: Mapping[int, Typed],
    is_wide: bool,
) -> tuple[onnx.ModelProto, int]:
    """The node alone, with its inputs as graph inputs or constants: as the program types them, or all floats as float32."""
    copy = onnx.NodeProto.FromString(node.SerializeToString())
    captured = implicit_inputs(node)
    names = {name: f"x{len(node.input) + n}" for n, name in enumerate(captured)}
    rename_captured(copy, names)
    copy.input[:] = [f"x{n}" if kind is not None else "" for n, kind in enumerate(types[: len(node.input)])]
    while copy.input and not copy.input[-1]:
        copy.input.pop()
    copy.output[:] = [f"y{n}" if name else "" for n, name in enumerate(node.output)]
    graph = onnx.GraphProto(name="step", node=[copy])
    for n, kind in enumerate(types):
        if n in constants:
            array = constants[n].array
            graph.initializer.append(
                onnx.numpy_helper.from_array(array.astype(np.float32) if kind == FLOAT else array, f"x{n}")
            )
        elif kind is not None:
            graph.input.append(onnx.helper.make_tensor_value_info(f"x{n}", _element(kind, is_wide), None))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in copy.output if name)
    model = onnx.ModelProto(ir_version=10, graph=graph)
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in context.opsets)
    model.functions.extend(onnx.FunctionProto.FromString(data) for data in context.functions)
    return model, len(graph.input)


def _element(kind: str, is_wide: bool) -> int:
    known = _ELEMENT_OF_TYPE.get(FLOAT if is_wide and kind in SMALL_FLOATS else kind)
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)) if known is None else known)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types of its outputs, where ONNX knows them."""
    try:
        return inferred(model)
    except InputError:  # what is wrong is said when it is run
        return model
