"""Any ONNX file: its graph with functions inlined, its large tensors mapped or held beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, inliner

from ..artifact import Maps, Weight, read_model, weights_outside
from ..errors import InputError

# ONNX's own operators that hide several steps, and have a body that says which.
_WITH_A_BODY = (
    "Attention",
    "RMSNormalization",
    "RotaryEmbedding",
    "LayerNormalization",
    "GroupNormalization",
    "MeanVarianceNormalization",
    "Gelu",
    "Swish",
    "HardSwish",
    "Mish",
)
_INSIDE = 64  # elements: what is larger counts as a weight, wherever it stands


@dataclass(frozen=True)
class Foreign:
    """A graph without taps. `weights` are its initializers but for the small ones, by name."""

    path: Path
    model: onnx.ModelProto = field(repr=False)
    weights: Mapping[str, Weight] = field(repr=False)
    sha256: str

    @property
    def name(self) -> str:
        return self.path.stem


def open_foreign(path: str | Path, maps: Maps | None = None) -> Foreign:
    """Read an .onnx file that need not have taps.

    Raises:
        InputError: no such file, no ONNX graph, or weights that are missing, cut short or outside its folder.
    """
    path = Path(path)
    model, sha256 = read_model(path)
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
    return Foreign(path, _inlined(model, path), {**outside, **held}, sha256)


def _empty(tensor: TensorProto) -> None:
    """Leave of a tensor its name, type and shape."""
    kept = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    kept.data_location = TensorProto.EXTERNAL
    tensor.CopyFrom(kept)


def _inlined(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Without functions: neither the graph's own nor those operators of ONNX that have a body."""
    try:
        if model.functions:
            model = inliner.inline_local_functions(model, True)
        if any(node.op_type in _WITH_A_BODY and node.domain in ("", "ai.onnx") for node in model.graph.node):
            ids = [("", name) for name in _WITH_A_BODY]
            model = inliner.inline_selected_functions(model, ids, False, True)
    except Exception as e:  # onnx's own, of a graph that it cannot read
        raise InputError(f"{path}: its functions cannot be inlined ({str(e).splitlines()[0]})") from e
    return model
