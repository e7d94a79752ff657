"""The embedding: `embed`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...graphs.decoder_config import DecoderConfig
from .case import Array
from .evaluate import Run
from .fit import Fitted, Question, solve
from .registry import convention, model
from .rounding import rounded_rows
from .settings import Value

STAGES, POSITIONS = ("embed",), ("position_embed",)


@model("embed")
def embed(run: Run, block: int | None) -> Array:
    """The tokens' rows of the embedding, times its scale: [T, C]."""
    name = {"own": "token_embd.weight", "head": "output.weight"}[str(run.setting("embedding.table"))]
    rows = rounded_rows(run, run.tensor(name)[run.case.tokens])
    return rows * _factor(run.setting("embedding.scale"), run.config)


@model("position_embed")
def position_embed(run: Run, block: int | None) -> Array:
    """The embedding plus the learned rows of the positions: [T, C]."""
    x = run.tap("embed")
    if run.setting("embedding.positions") == "missing":
        return x
    rows = np.arange(run.case.first_position, run.case.end) + int(run.number("embedding.position_offset"))
    table = run.tensor("position_embd.weight")
    return x + np.asarray(table[np.clip(rows, 0, len(table) - 1)], np.float64)


def _factor(scale: Value, config: DecoderConfig) -> float:
    return float(np.sqrt(config.width)) if scale == "sqrt(width)" else float(scale)  # type: ignore[arg-type]


def _standard_scale(config: DecoderConfig) -> Value:
    return "sqrt(width)" if np.isclose(config.embedding_scale, config.width**0.5) else float(config.embedding_scale)


@convention("embedding.scale", STAGES, _standard_scale, number=_factor)
def scale(question: Question) -> Iterator[Value]:
    """What the embedding is multiplied by: 1, the root of the width (Gemma), or another number."""
    yield from (1.0, "sqrt(width)")


@scale.fitted
def solved_scale(question: Question) -> Iterator[Fitted]:
    """Solved: the prediction is linear in it."""
    yield from solve(question, "embedding.scale", [2.0])


@convention("embedding.table", STAGES, "own", rank=1)
def table(question: Question) -> Iterator[Value]:
    """Which tensor the rows are taken from: the embedding, or the output head where it is another of the same shape."""
    weights = question.case.weights
    if "output.weight" in weights and weights["output.weight"].shape == weights["token_embd.weight"].shape:
        yield "head"


@convention("embedding.positions", POSITIONS, "added")
def positions(question: Question) -> Iterator[Value]:
    """What becomes of the learned embedding of the positions: it is added, or missing."""
    yield "missing"


@convention("embedding.position_offset", POSITIONS, lambda config: config.position_offset or 0)
def position_offset(question: Question) -> Iterator[Value]:
    """The row of the first position in the table of learned ones."""
    yield from (0, 1, 2)
