"""The graph that onnxruntime makes of a file before it runs it."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from ..errors import InputError
from ..run import LEVELS

_OUTSIDE = 1024  # bytes: weights of more are written beside the graph


def optimised(path: Path, level: str, folder: Path) -> Path:
    """The graph as onnxruntime's optimiser leaves it at a level (none, basic, extended, all), written into a folder.

    Raises:
        InputError: there is no such level, or onnxruntime cannot load the file.
    """
    if level not in LEVELS:
        raise InputError(f"{path}: no level {level} of onnxruntime's optimiser; there are {', '.join(LEVELS)}")
    made = folder / f"{path.stem}.{level}.onnx"
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = LEVELS[level], 4
    options.optimized_model_filepath = str(made)
    entries = {"file_name": f"{made.stem}.data", "min_size_in_bytes": str(_OUTSIDE)}
    for key, value in entries.items():
        options.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
    try:
        ort.InferenceSession(str(path), options)
    except Exception as e:  # onnxruntime's own classes
        raise InputError(f"{path}: onnxruntime cannot load it ({str(e).splitlines()[0]})") from e
    return made
