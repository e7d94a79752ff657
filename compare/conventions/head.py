"""The output head: `logits`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...graphs.decoder_config import DecoderConfig
from .attention import capped
from .case import Array
from .evaluate import Run
from .fit import Fitted, Question, solve
from .linear import product
from .registry import convention, model
from .settings import Value

STAGES = ("logits",)


@model("logits")
def logits(run: Run, block: int | None) -> Array:
    """[T, V], scaled and capped."""
    tied = run.setting("head.tensor") == "tied" or "output.weight" not in run.case.weights
    name = "token_embd.weight" if tied else "output.weight"
    raw = run.step(f"head @ {name}", lambda: product(run, run.tap("final_norm"), name))
    return capped(raw * _factor(run.setting("logits.scale"), run.config), run.setting("logits.softcap"))


def _factor(scale: Value, config: DecoderConfig) -> float:
    return float(config.width) ** -0.5 if scale == "1/sqrt(width)" else float(scale)  # type: ignore[arg-type]


@convention("head.tensor", STAGES, lambda config: "tied" if config.tied_head else "own")
def table(question: Question) -> Iterator[Value]:
    """Which tensor the head multiplies by: its own, output.weight, or the embedding's."""
    yield "tied"
    if "output.weight" in question.case.weights:
        yield "own"


@convention("logits.scale", STAGES, lambda config: float(config.logit_scale), number=_factor)
def scale(question: Question) -> Iterator[Value]:
    """What the logits are multiplied by."""
    yield from (1.0, "1/sqrt(width)")


@scale.fitted
def solved_scale(question: Question) -> Iterator[Fitted]:
    """Solved: the logits before the cap are linear in it."""
    yield from solve(question, "logits.scale", [0.5])


@convention("logits.softcap", STAGES, lambda config: config.logit_softcap, rank=1)
def softcap(question: Question) -> Iterator[Value]:
    """The cap c of the logits, c * tanh(logits / c); None where there is none."""
    yield from (None, 30.0)


@softcap.fitted
def solved_softcap(question: Question) -> Iterator[Fitted]:
    """Solved from the logits."""
    size = float(np.abs(question.output[np.isfinite(question.output)]).max(initial=1.0))
    yield from solve(question, "logits.softcap", [2 * size], logarithmic=True)
