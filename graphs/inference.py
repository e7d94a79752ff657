"""The types and shapes of a model's values, as onnx infers them."""

from __future__ import annotations

import onnx
from onnx.shape_inference import InferenceError

from .errors import InputError


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model with what can be known of its values.

    Raises:
        InputError: what it states contradicts itself.
    """
    try:
        return onnx.shape_inference.infer_shapes(model)
    except (InferenceError, ValueError, OverflowError) as e:
        reason = str(e).strip().splitlines()
        raise InputError(f"its types and shapes contradict each other ({reason[0] if reason else e!r:.160})") from e
