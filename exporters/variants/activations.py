"""What ggml's CPU matmuls do to activations: each row is rounded to the type that goes with the weight's own type.

A weight in Q8_0 is multiplied by activations in Q8_0, one in Q4_1 by activations in Q8_1, and so on. `product` gives the
matmul for a weight as it is stored, equal to ggml's but for the order of float32 additions.

Source: ggml-cpu.c (`vec_dot_type`), arch/x86/quants.c (`quantize_row_q8_0`, `quantize_row_q8_1`) and ggml-quants.c
(`quantize_row_q8_K_ref`) in llama.cpp; held against it in tests/exporters/test_activations.py, with what was found in
docs/findings-llama-cpp.md.
Not reproduced: machines other than x86 with AVX. ggml's plain C code takes another inverse and rounds ties away from 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import onnx
import onnx.parser
import onnxscript
import torch
import torch.nn.functional as F
from onnx.defs import OpSchema
from onnxscript.values import Op, Opset
from torch import Tensor, nn

from ...graphs.errors import InputError
from ...graphs.kernels import FLOAT32_DOMAIN
from ..bound import BoundCheckpoint
from .linear import Weights

Activations = Literal["exact", "ggml"]
Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
BLOCK, K_BLOCK = 32, 256

_PARTNERS = {
    "F32": ("F32",),
    "F16": ("F16",),
    "BF16": ("BF16",),
    "Q8_0": ("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "MXFP4"),
    "Q8_1": ("Q4_1", "Q5_1"),
    "Q8_K": (
        *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"),
        *("IQ3_XXS", "IQ3_S", "IQ4_XS", "TQ1_0", "TQ2_0"),
    ),
}
PARTNER = {stored: partner for partner, types in _PARTNERS.items() for stored in types}


def product(checkpoint: BoundCheckpoint, name: str, weights: Weights, activations: Activations) -> Product:
    """The matmul of activations `[T, in]` with the linear weight `name`, `[out, in]`, and its bias, as `F.linear` is.

    Raises:
        InputError: llama.cpp's rounding for the type in which the weight is stored is not known.
    """
    if activations == "exact":
        return F.linear
    stored = "Q8_0" if weights == "q8_0" else checkpoint.storage(name)
    match PARTNER.get(stored):
        case "F32":
            return F.linear
        case "F16":
            return Rounded(to_float16)
        case "BF16":
            return Rounded(to_bfloat16)
        case "Q8_0":
            return Rounded(to_q8_0)
        case "Q8_1":
            return RoundedToQ8_1(checkpoint.mins(name))
        case "Q8_K":
            return Rounded(to_q8_k)
    raise InputError(
        f"tensor {name}: stored as {stored}, for which it is not known how llama.cpp rounds activations; "
        "choose activations=exact"
    )


class Rounded(nn.Module):
    """The matmul with activations that are rounded first."""

    def __init__(self, rounding: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rounding = rounding

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(self.rounding(x), weight, bias)


class RoundedToQ8_1(nn.Module):
    """The matmul of a weight with block minima: these are multiplied by block sums that are rounded once more.

    Args:
        mins: float32 `[out, in / 32]`.
    """

    def __init__(self, mins: Tensor) -> None:
        super().__init__()
        self.mins = nn.Parameter(mins, requires_grad=False)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rounded, left_over = to_q8_1(x)
        return F.linear(rounded, weight, bias) + F.linear(left_over, self.mins)


def to_float16(x: Tensor) -> Tensor:
    """To float16 and back, to nearest, ties to even."""
    return x.to(torch.float16).to(torch.float32)


def to_bfloat16(x: Tensor) -> Tensor:
    """To bfloat16 and back, to nearest, ties to even."""
    return x.to(torch.bfloat16).to(torch.float32)


def _quants(x: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """Whole numbers of -127..127 `[T, blocks, block]`, ties to even; each block's largest size, and 127 over it."""
    blocks = x.reshape(x.shape[0], -1, block)
    largest = blocks.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest == 0, 0.0, _over(127.0, largest))
    return torch.round(blocks * inverse), largest, inverse


def _over(number: float, x: Tensor) -> Tensor:
    """number / x, rounded once; torch's own `number / x` is `x.reciprocal() * number`, rounded twice."""
    return torch.full_like(x, number) / x


@torch.library.custom_op("opdiff::to_q8_0", mutates_args=())
def to_q8_0(x: Tensor) -> Tensor:
    """To Q8_0 and back: blocks of 32, their step amax / 127 kept as float16, the quants x * (127 / amax).

    Args:
        x: float32 `[T, n]`, n a multiple of 32.
    """
    quants, largest, _ = _quants(x, BLOCK)
    return (quants * to_float16(largest / 127.0)).reshape(x.shape)


@torch.library.custom_op("opdiff::to_q8_1", mutates_args=())
def to_q8_1(x: Tensor) -> tuple[Tensor, Tensor]:
    """To Q8_1 and back, which is Q8_0 with the sum of each block beside it, rounded to float16 from the exact step.

    Args:
        x: float32 `[T, n]`, n a multiple of 32.
    Returns:
        the rounded x, and by how much each block's stored sum is more than the sum of its values, `[T, n / 32]`.
    """
    quants, largest, _ = _quants(x, BLOCK)
    step, sums = largest / 127.0, quants.sum(-1, keepdim=True)
    rounded = to_float16(step)
    left_over = to_float16(step * sums) - rounded * sums
    return (quants * rounded).reshape(x.shape), left_over.squeeze(-1)


@torch.library.custom_op("opdiff::to_q8_k", mutates_args=())
def to_q8_k(x: Tensor) -> Tensor:
    """To Q8_K and back: blocks of 256, the quants x * (127 / amax), the step 1 / (127 / amax) in float32.

    ggml gives the inverse the sign of the largest value; as quants and step then both change theirs, nothing changes.

    Args:
        x: float32 `[T, n]`, n a multiple of 256.
    """
    quants, largest, inverse = _quants(x, K_BLOCK)
    return (quants * torch.where(largest == 0, 0.0, _over(1.0, inverse))).reshape(x.shape)


@to_q8_0.register_fake
@to_q8_k.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@to_q8_1.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[0], x.shape[1] // BLOCK)


_QUANTS = """
  groups = Constant<value_ints = [0, -1, %d]>()
  last = Constant<value_ints = [-1]>()
  zero = Constant<value = float {0.0}>()
  one = Constant<value = float {1.0}>()
  most = Constant<value = float {127.0}>()
  shape = Shape(x)
  blocks = Reshape(x, groups)
  sizes = Abs(blocks)
  largest = ReduceMax<keepdims = 1>(sizes, last)
  is_zero = Equal(largest, zero)
  most_over_largest = Div(most, largest)
  inverse = Where(is_zero, zero, most_over_largest)
  scaled = Mul(blocks, inverse)
  quants = Round(scaled)
"""
_HALF_STEP = """
  step = Div(largest, most)
  half_step = Cast<to = 10>(step)
  used_step = Cast<to = 1>(half_step)
"""
_STEP = """
  one_over_inverse = Div(one, inverse)
  used_step = Where(is_zero, zero, one_over_inverse)
"""
_ROUNDED = """
  values = Mul(quants, used_step)
  rounded = Reshape(values, shape)
"""
_LEFT_OVER = """
  sums = ReduceSum<keepdims = 1>(quants, last)
  sum = Mul(step, sums)
  half_sum = Cast<to = 10>(sum)
  stored_sum = Cast<to = 1>(half_sum)
  own_sum = Mul(used_step, sums)
  more = Sub(stored_sum, own_sum)
  left_over = Squeeze(more, last)
"""
_BODIES = {
    "ToQ8_0 (x) => (rounded)": _QUANTS % BLOCK + _HALF_STEP + _ROUNDED,
    "ToQ8_1 (x) => (rounded, left_over)": _QUANTS % BLOCK + _HALF_STEP + _ROUNDED + _LEFT_OVER,
    "ToQ8_K (x) => (rounded)": _QUANTS % K_BLOCK + _STEP + _ROUNDED,
}
_PARSED = [
    onnx.parser.parse_function(f'<domain: "{FLOAT32_DOMAIN}", opset_import: ["" : 21]> {head} {{ {body} }}')
    for head, body in _BODIES.items()
]
FUNCTIONS = {function.name: function for function in _PARSED}


def _as_node(function: onnx.FunctionProto) -> Callable:
    """What writes a call of the function as one node; its body is added to the finished model from `FUNCTIONS`."""
    x, *outputs = (OpSchema.FormalParameter(name, "tensor(float)") for name in ("x", *function.output))
    schema = OpSchema(function.name, FLOAT32_DOMAIN, 1, inputs=[x], outputs=outputs)
    call = Op(Opset(FLOAT32_DOMAIN, 1), function.name, schema)

    def to_onnx(x: onnxscript.FLOAT) -> onnxscript.FLOAT:
        return call(x)

    return to_onnx


ONNX_TRANSLATIONS: dict[Callable, Callable] = {
    torch.ops.opdiff.to_q8_0.default: _as_node(FUNCTIONS["ToQ8_0"]),
    torch.ops.opdiff.to_q8_1.default: _as_node(FUNCTIONS["ToQ8_1"]),
    torch.ops.opdiff.to_q8_k.default: _as_node(FUNCTIONS["ToQ8_K"]),
}
