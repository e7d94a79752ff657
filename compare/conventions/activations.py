"""Activations rounded before they are multiplied, as ggml's CPU matmuls do to go with the weight's stored type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...graphs.errors import OpdiffError
from .case import Array
from .evaluate import CannotEvaluate, Run
from .fit import Question
from .registry import convention
from .rounding import helps_in_the_first_rows, to_bfloat16, to_float16
from .settings import Value

Single = NDArray[np.float32]
STAGES = ("q_proj", "k_proj", "v_proj", "o_proj", "ffn_gate", "ffn_up", "ffn_down", "logits")
BLOCK, K_BLOCK = 32, 256
MINS = ".mins"
# The values, and of what the rows' length must be a multiple.
BLOCKS = {"q8_0": BLOCK, "q8_1": BLOCK, "q8_k": K_BLOCK, "float16": 1, "bfloat16": 1}


@convention("linear.activations", STAGES, "exact", rank=1)
def activations(question: Question) -> Iterator[Value]:
    """What the rows that a linear layer or the head multiplies are rounded to first, as ggml does on x86: exact, not at
    all; q8_0; q8_1, for weights with block minima; q8_k; float16; bfloat16.
    """
    length = _row_length(question)
    for kind, block in BLOCKS.items():
        if length % block == 0 and _is_worth_a_try(question, kind):
            yield kind


def _is_worth_a_try(question: Question, kind: str) -> bool:
    """Whether it helps at a few logits; elsewhere, whether the weights have the minima that Q8_1 wants."""
    if question.case.stage == "logits":
        return helps_in_the_first_rows(question, "linear.activations", kind)
    if kind == "q8_1":
        try:
            question.predict("linear.activations", kind)
        except OpdiffError:
            return False
    return True


def rounded_activations(run: Run, x: Array) -> Array:
    """The rows [T, in] that a matmul multiplies: x, rounded in float32 where the settings say so and its blocks fit."""
    kind = str(run.setting("linear.activations"))
    if kind == "exact" or x.shape[-1] % BLOCKS[kind]:
        return x
    return np.asarray(ROUNDINGS[kind](x.astype(np.float32)), np.float64)


def left_over(x: Array) -> Array:
    """What is multiplied by a weight's minima in Q8_1: [T, in / 32]."""
    return np.asarray(q8_1_left_over(x.astype(np.float32)), np.float64)


def mins_of(run: Run, tensor: str) -> NDArray[Any]:
    """The minima of a weight's blocks, as stored: [out, in / 32].

    Raises:
        CannotEvaluate: the checkpoint has none, or not one for each block.
    """
    shape, mins = run.tensor(tensor).shape, run.tensor(tensor + MINS)
    if mins.shape != (shape[0], shape[1] / BLOCK):
        raise CannotEvaluate(f"tensor {tensor}{MINS}: {mins.shape}, not one minimum for each {BLOCK} of {shape}")
    return mins


def to_q8_0(x: Single) -> Single:
    """To Q8_0 and back: blocks of 32, their step amax / 127 kept as float16, the quants x * (127 / amax), ties to even.

    A weight's own Q8_0 is another: ties away from zero, and quants x * (1 / (amax / 127)).

    Args:
        x: [T, n], n a multiple of 32; all arithmetic is in float32, as in the other roundings.
    Source: `quantize_row_q8_0` in ggml-cpu/arch/x86/quants.c; docs/findings-llama-cpp.md.
    """
    quants, largest, _ = _quants(x, BLOCK)
    return (quants * to_float16(largest / np.float32(127))).reshape(x.shape)


def q8_1_left_over(x: Single) -> Single:
    """By how much the sum that Q8_1 stores of each block is more than the sum of the block's rounded values: [T, n / 32].

    Q8_1 is Q8_0 with that sum beside it, made with the step before it is rounded to float16, and then rounded to float16.
    """
    quants, largest, _ = _quants(x, BLOCK)
    step, sums = largest / np.float32(127), quants.sum(axis=-1, keepdims=True)
    return (to_float16(step * sums) - to_float16(step) * sums).reshape(len(x), -1)


def to_q8_k(x: Single) -> Single:
    """To Q8_K and back: blocks of 256, the quants x * (127 / amax), ties to even, the step 1 / (127 / amax) in float32."""
    quants, largest, inverse = _quants(x, K_BLOCK)
    step = np.divide(np.float32(1), inverse, out=np.zeros_like(inverse), where=largest != 0)
    return (quants * step).reshape(x.shape)


def _quants(x: Single, block: int) -> tuple[Single, Single, Single]:
    """Whole numbers of -127 to 127 [T, blocks, block], ties to even; each block's largest size, and 127 over it or 0."""
    blocks = x.reshape(len(x), -1, block)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest != 0)
    return np.rint(blocks * inverse), largest, inverse


ROUNDINGS: dict[str, Callable[[Single], Single]] = {
    "q8_0": to_q8_0,
    "q8_1": to_q8_0,
    "q8_k": to_q8_k,
    "float16": to_float16,
    "bfloat16": to_bfloat16,
}


def _row_length(question: Question) -> int:
    """How many numbers the rows have that the region's linear layer multiplies."""
    config = question.case.config
    lengths = {"o_proj": config.n_heads * config.head_dim, "ffn_down": config.ffn_width}
    lengths |= {"attn_residual": lengths["o_proj"], "ffn_residual": lengths["ffn_down"]}
    return lengths.get(question.case.stage, config.width)
