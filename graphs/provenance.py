"""Versions of what the numbers rest on."""

from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime as ort


def versions() -> dict[str, str]:
    """The version of each library that takes part in a comparison; onnxruntime's own, whichever of its packages is installed."""
    own = {"onnx": onnx.__version__, "onnxruntime": ort.__version__, "numpy": np.__version__}
    return {"opdiff": version("opdiff"), **own}
