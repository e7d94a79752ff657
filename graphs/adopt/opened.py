"""Any ONNX file: its graph with functions inlined, its large tensors mapped or held beside it, those of subgraphs too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, inliner

from ..artifact import Maps, Read, Weight, read_model, weights_outside
from ..errors import InputError
from ..slices import rename_captured, subgraphs

_INSIDE = 64  # elements: what is larger counts as a weight, wherever it stands


@dataclass(frozen=True)
class Foreign:
    """A graph without taps. `weights` are its initializers but for the small ones, by name.

    half: the type in which it computes, where that is of half precision: it is then widened to float32 throughout.
    rounded: which weights were of half precision.
    """

    path: Path
    model: onnx.ModelProto = field(repr=False)
    weights: Mapping[str, Weight] = field(repr=False)
    sha256: str
    half: str = ""
    rounded: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return self.path.stem

    def step_of(self, name: str) -> np.ndarray | None:
        """How far from each entry of a weight the next number is that its storage has; None where that is float32's."""
        return _step(self.weights[name].array, _HALVES[self.half]) if name in self.rounded else None

    def step_of_halves(self, array: np.ndarray) -> np.ndarray | None:
        """The same for a constant of a graph in half precision; None where it is no number of that precision."""
        if not self.half or array.dtype.kind in "biu":
            return None
        kind = _HALVES[self.half]
        with np.errstate(over="ignore"):
            stored = np.asarray(array).astype(onnx.helper.tensor_dtype_to_np_dtype(kind.element))
        if not np.array_equal(stored.astype(array.dtype), array, equal_nan=True):
            return None
        return _step(array, kind)

    def rounds_to(self, exact: np.ndarray, stored: np.ndarray) -> bool:
        """Whether numbers are these ones, each rounded to the nearest that the graph's half precision has."""
        kind = onnx.helper.tensor_dtype_to_np_dtype(_HALVES[self.half].element)
        with np.errstate(over="ignore"):
            nearest = np.asarray(exact, np.float32).astype(kind)
        return np.array_equal(nearest.astype(np.float64), np.asarray(stored, np.float64), equal_nan=True)


@dataclass(frozen=True, slots=True)
class _Half:
    """A type of half precision: its step relative to a number, its least step, and its largest number."""

    element: int
    unit: float
    least: float
    largest: float


_HALVES = {
    "float16": _Half(TensorProto.FLOAT16, 2.0**-10, 2.0**-23, 65504.0),
    "bfloat16": _Half(TensorProto.BFLOAT16, 2.0**-7, 2.0**-133, 3.38e38),
}


def _step(array: np.ndarray, kind: _Half) -> np.ndarray:
    """How far from each number the next one is of this type."""
    step = np.asarray(np.abs(np.asarray(array, np.float32)))
    is_beyond = ~(step < kind.largest)
    step *= np.float32(kind.unit)
    np.maximum(step, np.float32(kind.least), out=step)
    step[is_beyond] = np.inf
    return step


def open_foreign(path: str | Path, maps: Maps | None = None, read: Read | None = None) -> Foreign:
    """Read an .onnx file that need not have taps.

    Args:
        maps: the files that are mapped already.
        read: what the file holds, where it was read already; it is written to.
    Raises:
        InputError: no such file, no ONNX graph, or weights that are missing, cut short or outside its folder.
    """
    path = Path(path)
    model, sha256 = read or read_model(path)
    _lift(model.graph, model.graph, {tensor.name for tensor in model.graph.initializer})
    outside = weights_outside(path, model.graph.initializer, {} if maps is None else maps)
    held: dict[str, Weight] = {}
    for tensor in model.graph.initializer:
        if (
            tensor.name not in outside
            and int(np.prod(tensor.dims)) > _INSIDE
            and tensor.data_type != TensorProto.STRING
        ):
            held[tensor.name] = Weight(onnx.numpy_helper.to_array(tensor), (str(path), hash(tensor.name), len(held)))
            _empty(tensor)
    weights = {**outside, **held}
    model = _inlined(model, path)
    half = _half_of(model, weights)
    rounded = frozenset(name for name in weights if half and weights[name].array.dtype.name == half)
    if half:
        _widen(model.graph, _HALVES[half].element)
        weights |= {
            name: Weight(np.asarray(weights[name].array, np.float32), (f"{path}#{name}", 0, 0)) for name in rounded
        }
    return Foreign(path, model, weights, sha256, half, rounded)


def _lift(graph: onnx.GraphProto, top: onnx.GraphProto, taken: set[str]) -> None:
    """Let the initializers of a graph's subgraphs be those of the whole, under names of their own."""
    for node in graph.node:
        for inner in subgraphs(node):
            _lift(inner, top, taken)
            if not inner.initializer:
                continue
            names = {}
            for tensor in inner.initializer:
                name = f"{node.name or next(iter(node.output), '')}/{tensor.name}"
                while name in taken:
                    name += "'"
                taken.add(name)
                names[tensor.name] = name
                top.initializer.append(tensor)
                top.initializer[-1].name = name
            del inner.initializer[:]
            holder = onnx.NodeProto(attribute=[onnx.AttributeProto(name="body", g=inner)])
            rename_captured(holder, names)
            inner.CopyFrom(holder.attribute[0].g)


def _half_of(model: onnx.ModelProto, weights: Mapping[str, Weight]) -> str:
    """The type of half precision in which a graph computes: that of most of its weights, where they are not cast first."""
    kinds = {name: weight.array.dtype.name for name, weight in weights.items()}
    read = [kinds[name] for node in model.graph.node if node.op_type != "Cast" for name in node.input if name in kinds]
    floats = [kind for kind in read if kind in ("float32", "float64", *_HALVES)]
    return next((kind for kind in _HALVES if 2 * floats.count(kind) > len(floats)), "")


def _widen(graph: onnx.GraphProto, element: int) -> None:
    """Let everything of a type of half precision be float32."""
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type == element:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        _widen_tensor(tensor, element)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "output_dtype") and attribute.i == element:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                _widen_tensor(attribute.t, element)
        for inner in subgraphs(node):
            _widen(inner, element)


def _widen_tensor(tensor: TensorProto, element: int) -> None:
    if tensor.data_type != element:
        return
    if tensor.data_location == TensorProto.EXTERNAL:
        tensor.data_type = TensorProto.FLOAT
        return
    array = onnx.numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _empty(tensor: TensorProto) -> None:
    """Leave of a tensor its name, type and shape."""
    kept = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    kept.data_location = TensorProto.EXTERNAL
    tensor.CopyFrom(kept)


def _inlined(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Without the graph's own functions."""
    try:
        if model.functions:
            model = inliner.inline_local_functions(model, True)
    except Exception as e:  # onnx's own, of a graph that it cannot read
        raise InputError(f"{path}: its functions cannot be inlined ({str(e).splitlines()[0]})") from e
    return model
