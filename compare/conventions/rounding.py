"""Weights rounded to a smaller type before use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...graphs.errors import OpdiffError
from .case import Weights
from .evaluate import Run, evaluate
from .fit import Question
from .registry import convention
from .settings import Settings, Value

STORAGE = "linear.weight"
Q8_0_BLOCK = 32
SIEVED_ROWS = 64
HELPS = 0.75  # what is left of a squared difference of two roundings, alike in size, without one of them: about half
STAGES = ("embed", "q_proj", "k_proj", "v_proj", "o_proj", "ffn_gate", "ffn_up", "ffn_down", "logits")


@convention(STORAGE, STAGES, "as_stored", rank=1)
def rounding(question: Question) -> Iterator[Value]:
    """The type to which linear weights and the embedding are rounded before use: none, float16, bfloat16, Q8_0."""
    for kind in ROUNDINGS:
        if question.case.stage != "logits" or helps_in_the_first_rows(question, STORAGE, kind):
            yield kind


class _FirstRows:
    """The weights, of the embedding and the head only the first rows."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __getitem__(self, name: str) -> NDArray[Any]:
        whole = self._weights[name]
        return whole[:SIEVED_ROWS] if name.startswith(("token_embd.weight", "output.weight")) else whole


def helps_in_the_first_rows(question: Question, name: str, value: Value) -> bool:
    """Whether some logits come nearer to the output, up to a factor: a whole head takes seconds."""
    case = question.case
    if "final_norm" not in case.values:
        return True
    few = replace(case, weights=_FirstRows(case.weights))

    def left(settings: Settings) -> float:
        predicted = evaluate(few, "logits", settings)
        measured = question.output[:, : predicted.shape[1]]
        size = float(np.square(predicted).sum())
        factor = float((predicted * measured).sum()) / size if size else 1.0
        return float(np.square(measured - factor * predicted).sum())

    try:
        return left(question.settings.with_value(name, value)) < HELPS * left(question.settings)
    except OpdiffError:
        return False


def rounded_rows(run: Run, rows: NDArray[Any]) -> NDArray[np.float64]:
    """Rows of a weight, rounded as the settings say, in float64: shape kept, `[out, in]`."""
    kind = run.setting("linear.weight")
    return np.asarray(rows if kind == "as_stored" else ROUNDINGS[str(kind)](rows), np.float64)


def to_float16(rows: NDArray[Any]) -> NDArray[np.float32]:
    """To float16 and back, to nearest, ties to even; infinite beyond 65504."""
    return rows.astype(np.float16).astype(np.float32)


def to_bfloat16(rows: NDArray[Any]) -> NDArray[np.float32]:
    """To bfloat16 and back, to nearest, ties to even; for finite values."""
    bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    nearest = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (nearest & np.uint32(0xFFFF0000)).view(np.float32)


def to_q8_0(rows: NDArray[Any]) -> NDArray[np.float32]:
    """To Q8_0 and back: blocks of 32 along the last axis, d = amax / 127 kept as float16, quants half away from zero.

    Rows whose length is no multiple of 32 cannot be Q8_0 and are left as they are.
    Source: quantize_row_q8_0_ref in ggml-quants.c; the quotient is taken with d before it is rounded to float16.
    """
    if rows.shape[-1] % Q8_0_BLOCK:
        return np.asarray(rows, np.float32)
    blocks = np.asarray(rows, np.float32).reshape(-1, Q8_0_BLOCK)
    step = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.where(step == 0, np.float32(0), np.float32(1) / np.where(step == 0, np.float32(1), step))
    size = np.abs(blocks * inverse)
    whole = np.floor(size)
    quants = np.sign(blocks) * (whole + np.floor(2 * (size - whole)))
    return (quants * step.astype(np.float16).astype(np.float32)).reshape(rows.shape)


ROUNDINGS = {"float16": to_float16, "bfloat16": to_bfloat16, "q8_0": to_q8_0}
