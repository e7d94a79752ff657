"""The feed-forward network: `ffn_gate`, `ffn_up`, `ffn_act`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from .case import Array
from .evaluate import Run
from .fit import Question
from .linear import linear
from .registry import convention, model
from .rounding import to_float16
from .settings import Value

SWAPPED = {"ffn_gate": "ffn_up", "ffn_up": "ffn_gate"}


@model("ffn_gate")
def ffn_gate(run: Run, block: int | None) -> Array:
    """[T, F]."""
    return _projected(run, "ffn_gate", block)


@model("ffn_up")
def ffn_up(run: Run, block: int | None) -> Array:
    """[T, F]."""
    return _projected(run, "ffn_up", block)


@model("ffn_act")
def ffn_act(run: Run, block: int | None) -> Array:
    """activation(gate) * up, [T, F]; where there is no gate, activation(up)."""
    if not run.config.gated:
        return activated(run, run.tap("ffn_up", block))
    gate, up = run.tap("ffn_gate", block), run.tap("ffn_up", block)
    if run.setting("ffn.gate_up") == "swapped":
        gate, up = up, gate
    active = activated(run, gate)
    combine = run.setting("ffn.combine")
    return active if combine == "gate_only" else active + up if combine == "sum" else active * up


def activated(run: Run, gate: Array) -> Array:
    """The activation of a gate, of any shape."""
    return ACTIVATIONS[str(run.setting("ffn.activation"))](gate)


def _projected(run: Run, stage: str, block: int | None) -> Array:
    swapped = run.config.gated and run.is_target(stage, block) and run.setting("ffn.gate_up") == "swapped"
    return linear(run, block, SWAPPED[stage] if swapped else stage)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def gelu_tanh(x: Array) -> Array:
    """The tanh approximation. Source: Hendrycks and Gimpel 2016."""
    return np.asarray(0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))))


def gelu_erf(x: Array) -> Array:
    """x times the normal distribution function."""
    return np.asarray(0.5 * x * (1.0 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2.0))))


def gelu_by_table(x: Array) -> Array:
    """The tanh approximation as ggml looks it up, in a table of float16 by the nearest float16. Source: ggml_vec_gelu_f32.

    The table's entries are computed in float32, which decides to which float16 those are rounded that lie between two.
    """
    near = to_float16(x)
    inner = np.float32(math.sqrt(2.0 / math.pi)) * near * (1 + np.float32(0.044715) * near * near)
    looked_up = to_float16(np.float32(0.5) * near * (1 + np.tanh(inner)))
    return np.where(x <= -10, 0.0, np.where(x >= 10, x, looked_up))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x * sigmoid(x),
    "gelu_tanh": gelu_tanh,
    "gelu_erf": gelu_erf,
    "gelu_tanh_float16_table": gelu_by_table,
    "gelu_sigmoid": lambda x: x * sigmoid(1.702 * x),
    "relu": lambda x: np.maximum(x, 0.0),
    "relu2": lambda x: np.square(np.maximum(x, 0.0)),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "identity": lambda x: x,
}


@convention(
    "ffn.activation",
    ("ffn_act", "expert_out", "shared_out"),
    lambda config: "gelu_erf" if config.activation == "gelu" else config.activation,
)
def activation(question: Question) -> Iterator[Value]:
    """The activation of the gate; of the only matrix before it where there is no gate; of the experts' gates."""
    yield from ACTIVATIONS


@convention("ffn.gate_up", ("ffn_gate", "ffn_up", "ffn_act"), "own")
def gate_up(question: Question) -> Iterator[Value]:
    """Whether gate and up are swapped: at ffn_gate and ffn_up their weights; at ffn_act the activation is on up."""
    yield "swapped"


@convention("ffn.combine", ("ffn_act",), "product", rank=1)
def combine(question: Question) -> Iterator[Value]:
    """How the active gate and up come together: their product, their sum, or the gate only."""
    yield from ("gate_only", "sum")
