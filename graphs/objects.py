"""Objects of the user's as the files that everything else reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from .errors import InputError


def save_model(path: Path, model: Any) -> Path:
    """Write an onnx.ModelProto.

    Raises:
        InputError: it is none, or its weights lie in files, whose folder it does not know.
    """
    if not isinstance(model, onnx.ModelProto):
        raise InputError(f"{path.stem}: {type(model).__name__} is no onnx.ModelProto")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise InputError(f"{path.stem}: its weights lie outside of the ModelProto; give the path of its .onnx file")
    onnx.save(model, path)
    return path


def save_recording(path: Path, arrays: Mapping[str, Any]) -> Path:
    """Write arrays by tap name as a trace.

    Raises:
        InputError: one is no array of numbers.
    """
    named = {str(name): np.asarray(value) for name, value in arrays.items()}
    wrong = next((name for name, value in named.items() if value.dtype.kind not in "fiub"), None)
    if wrong is not None:
        raise InputError(f"{path.stem}: {wrong} is no array of numbers (it is of {named[wrong].dtype})")
    np.savez(path, **named)  # type: ignore[arg-type]
    return path
