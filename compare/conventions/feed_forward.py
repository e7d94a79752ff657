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
from .settings import AS_CONFIGURED, Value

ACTIVE = ("ffn_act", "expert_out", "shared_out")
XIELU = "xielu"
UNTRAINED = 0.8  # what multiplies x^2, and its counterpart below 0, before any training
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
        return activated(run, block, run.tap("ffn_up", block))
    gate, up = run.tap("ffn_gate", block), run.tap("ffn_up", block)
    if run.setting("ffn.gate_up") == "swapped":
        gate, up = up, gate
    active = activated(run, block, gate)
    combine = run.setting("ffn.combine")
    return active if combine == "gate_only" else active + up if combine == "sum" else active * up


def activated(run: Run, block: int | None, gate: Array) -> Array:
    """The block's activation of a gate, of any shape."""
    name = str(run.setting("ffn.activation"))
    return _xielu(run, block, gate) if name == XIELU else ACTIVATIONS[name](gate)


def _xielu(run: Run, block: int | None, x: Array) -> Array:
    """With the block's numbers. Source: Huang and Schlag 2024."""
    kind = run.setting("ffn.xielu")
    of = run.config.xielu[0 if kind == "of_first_block" else block or 0]
    p, n = (of.alpha_n, of.alpha_p) if kind == "swapped" else (of.alpha_p, of.alpha_n)
    if kind != "without_softplus":
        p, n = float(np.logaddexp(0.0, p)), float(np.logaddexp(0.0, n))
    n += 0.0 if kind == "without_beta" else of.beta
    if kind == "untrained":
        p = n = UNTRAINED
    below = (np.expm1(np.minimum(x, of.eps)) - x) * n
    return np.asarray(np.where(x > 0, p * x * x, below) + of.beta * x)


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
    ACTIVE,
    lambda config: "gelu_erf" if config.activation == "gelu" else config.activation,
)
def activation(question: Question) -> Iterator[Value]:
    """The activation of the gate; of the only matrix before it where there is no gate; of the experts' gates."""
    yield from ACTIVATIONS


@convention("ffn.xielu", ACTIVE, AS_CONFIGURED, configured=lambda config: "the checkpoint's numbers")
def xielu_numbers(question: Question) -> Iterator[Value]:
    """The numbers of xIELU: as_configured, the block's own with softplus on both alphas and beta added to alpha_n;
    without_softplus; without_beta, which is then not added; with the two alphas swapped; untrained, both 0.8 in the end; or
    of_first_block, in every block.
    """
    yield from ("without_softplus", "without_beta", "swapped", "untrained", "of_first_block")


@convention("ffn.gate_up", ("ffn_gate", "ffn_up", "ffn_act"), "own")
def gate_up(question: Question) -> Iterator[Value]:
    """Whether gate and up are swapped: at ffn_gate and ffn_up their weights; at ffn_act the activation is on up."""
    yield "swapped"


@convention("ffn.combine", ("ffn_act",), "product", rank=1)
def combine(question: Question) -> Iterator[Value]:
    """How the active gate and up come together: their product, their sum, or the gate only."""
    yield from ("gate_only", "sum")
