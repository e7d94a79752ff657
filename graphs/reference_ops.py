"""onnx.reference, which runs what onnxruntime has no kernel for, with operators of ours where its own are wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


class Erf(OpRun):
    """onnx.reference's own Erf answers in single precision."""

    op_domain = ""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


class GlobalMaxPool(OpRun):
    """onnx.reference's own is wrong but for images."""

    op_domain = ""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class BatchNormalization(OpRun):
    """onnx.reference's own takes the statistics of what it reads where a file of opset 9 to 13 says a momentum."""

    op_domain = ""

    def _run(self, x: np.ndarray, *weights: np.ndarray, epsilon: float = 1e-5, **_: object) -> tuple[np.ndarray]:
        by_channel = (-1, *(1,) * (x.ndim - 2))
        gain, bias, mean, variance = (np.asarray(weight, x.dtype).reshape(by_channel) for weight in weights)
        return (gain * (x - mean) / np.sqrt(variance + np.asarray(epsilon, x.dtype)) + bias,)


_OURS: list[type[OpRun]] = [Erf, GlobalMaxPool, BatchNormalization]


def run_of(model: onnx.ModelProto) -> Callable[[list[str], dict[str, np.ndarray]], list[np.ndarray]]:
    """What runs a model: gives the outputs of these names for inputs by name."""
    evaluator = ReferenceEvaluator(model, new_ops=_OURS)
    return lambda outputs, feeds: [np.asarray(value) for value in evaluator.run(outputs, feeds)]
