"""Activations rounded before they are multiplied, as ggml's CPU matmuls do to go with the weight's stored type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .case import Array
from .evaluate import CannotEvaluate, Run
from .rounding import to_bfloat16, to_float16

Single = NDArray[np.float32]
BLOCK, K_BLOCK = 32, 256
MINS = ".mins"
# The types, and of what the rows' length must be a multiple.
BLOCKS = {"q8_0": BLOCK, "q8_1": BLOCK, "q8_k": K_BLOCK, "float16": 1, "bfloat16": 1}


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
