"""Functions that a trial puts in the place of A's: activations, and roundings to fewer bits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ....graphs.stepping import rounded

Function = Callable[[np.ndarray], np.ndarray]
_GROUP = 32


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / 2**0.5))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """Softmax over one axis."""
    raised = np.exp(x - x.max(axis, keepdims=True))
    return raised / raised.sum(axis, keepdims=True)


def _in_8_bits(x: np.ndarray, axis: int | None) -> np.ndarray:
    step = np.abs(x).max(axis=axis, keepdims=True) / 127
    return np.where(step == 0, 0.0, np.round(x / np.where(step == 0, 1.0, step)) * step)


def _in_8_bits_by_group(x: np.ndarray) -> np.ndarray:
    return x if x.shape[-1] % _GROUP else _in_8_bits(x.reshape(-1, _GROUP), -1).reshape(x.shape)


ACTIVATIONS: dict[str, Function] = {
    "relu(x)": lambda x: np.maximum(x, 0),
    "relu(x)^2": lambda x: np.maximum(x, 0) ** 2,
    "silu(x)": lambda x: x * _sigmoid(x),
    "sigmoid(x)": _sigmoid,
    "tanh(x)": np.tanh,
    "gelu(x), by erf": _gelu,
    "gelu(x), by tanh": lambda x: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "x * sigmoid(1.702 * x)": lambda x: x * _sigmoid(1.702 * x),
    "softplus(x)": _softplus,
    "mish(x)": lambda x: x * np.tanh(_softplus(x)),
    "hardswish(x)": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "elu(x)": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "leaky_relu(x, 0.01)": lambda x: np.where(x > 0, x, 0.01 * x),
    "exp(x)": np.exp,
    "abs(x)": np.abs,
    "x^2": np.square,
    "sqrt(abs(x))": lambda x: np.sqrt(np.abs(x)),
}
ROUNDINGS: dict[str, Function] = {
    "float16": lambda x: rounded(x, "float16"),
    "bfloat16": lambda x: rounded(x, "bfloat16"),
    "float8_e4m3fn": lambda x: rounded(x, "float8_e4m3fn"),
    "float8_e5m2": lambda x: rounded(x, "float8_e5m2"),
    "8 bits with a scale per row": lambda x: _in_8_bits(x, -1),
    "8 bits with a scale per group of 32": _in_8_bits_by_group,
    "8 bits with one scale": lambda x: _in_8_bits(x, None),
}
