"""Faults of the linear layers, the embedding and the head: layout, bias, rows, the wrong tensor, the precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from torch import Tensor, nn

from .models import pair_rows
from .registry import attention_of, fault, mlp_of


def set_weight(linear: Any, weight: Tensor) -> None:
    """A weight of its own: the right one may be shared with another model."""
    linear.weight = nn.Parameter(weight.contiguous().to(linear.weight.dtype), requires_grad=False)


def through_q8_0(weight: Tensor) -> Tensor:
    kind = GGMLQuantizationType.Q8_0
    return torch.from_numpy(dequantize(quantize(weight.float().numpy(), kind), kind))


class Outgoing(nn.Module):
    """A linear layer, or an embedding, and something done to what it gives."""

    def __init__(self, inner: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.change = inner, change

    @property
    def weight(self) -> Tensor:
        return self.inner.get_parameter("weight")

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.inner(x))


def afterwards(owner: Any, attribute: str, change: Callable[[Tensor], Tensor]) -> None:
    setattr(owner, attribute, Outgoing(getattr(owner, attribute), change))


@fault("o_proj transposed", "o_proj", "linear.layout", model="qwen3_square")
def o_proj_transposed(model: Any, block: int) -> None:
    o_proj = attention_of(model, block).o_proj
    set_weight(o_proj, o_proj.weight.T)


@fault("q_proj transposed", "q_proj", "linear.layout", model="llama")
def q_proj_transposed(model: Any, block: int) -> None:
    q_proj = attention_of(model, block).q_proj
    set_weight(q_proj, q_proj.weight.T)


@fault("q_proj without its bias", "q_proj", "linear.bias", model="qwen2")
def q_bias_missing(model: Any, block: int) -> None:
    attention_of(model, block).q_proj.bias = None


@fault("v_proj without its bias", "v_proj", "linear.bias", model="qwen2")
def v_bias_missing(model: Any, block: int) -> None:
    attention_of(model, block).v_proj.bias = None


@fault("q_proj and k_proj rows permuted as in a llama file", "q_proj k_proj", "linear.rows")
def rows_permuted(model: Any, block: int) -> None:
    attn = attention_of(model, block)
    for linear in (attn.q_proj, attn.k_proj):
        set_weight(linear, pair_rows(linear.weight, attn.head_dim))


@fault("q_proj and k_proj rows permuted as in the file", "q_proj k_proj", "linear.rows", model="llama")
def rows_left_permuted(model: Any, block: int) -> None:
    rows_permuted(model, block)


@fault("k_proj with the weight of v_proj", "k_proj", "linear.tensor")
def v_for_k(model: Any, block: int) -> None:
    attn = attention_of(model, block)
    set_weight(attn.k_proj, attn.v_proj.weight)


@fault("ffn_up with the weight of ffn_gate", "ffn_up", "linear.tensor")
def gate_for_up(model: Any, block: int) -> None:
    set_weight(mlp_of(model, block).up_proj, mlp_of(model, block).gate_proj.weight)


@fault("o_proj with the weight of another block", "o_proj", "linear.tensor")
def another_block(model: Any, block: int) -> None:
    other = attention_of(model, (block + 1) % len(model.model.layers))
    set_weight(attention_of(model, block).o_proj, other.o_proj.weight)


@fault("ffn_up in float16", "ffn_up", "linear.weight")
def float16_weight(model: Any, block: int) -> None:
    up = mlp_of(model, block).up_proj
    set_weight(up, up.weight.half())


@fault("ffn_down in bfloat16", "ffn_down", "linear.weight")
def bfloat16_weight(model: Any, block: int) -> None:
    down = mlp_of(model, block).down_proj
    set_weight(down, down.weight.bfloat16())


@fault("o_proj in Q8_0", "o_proj", "linear.weight")
def q8_0_weight(model: Any, block: int) -> None:
    o_proj = attention_of(model, block).o_proj
    set_weight(o_proj, through_q8_0(o_proj.weight))


@fault("v_proj in Q8_0", "v_proj", "linear.weight", model="llama")
def q8_0_value_weight(model: Any, block: int) -> None:
    v_proj = attention_of(model, block).v_proj
    set_weight(v_proj, through_q8_0(v_proj.weight))


@fault("embedding scaled by sqrt(width)", "embed", "embedding.scale", in_block=False)
def embedding_scaled(model: Any, block: int) -> None:
    """As Gemma scales it."""
    scale = model.config.hidden_size**0.5
    afterwards(model.model, "embed_tokens", lambda x: x * scale)


@fault("head tied to the embedding", "logits", "head.tensor", in_block=False)
def head_tied(model: Any, block: int) -> None:
    model.lm_head.weight = model.model.embed_tokens.weight


@fault("logits scaled by 1/16", "logits", "logits.scale", in_block=False)
def logits_scaled(model: Any, block: int) -> None:
    """As Cohere and Granite scale them."""
    afterwards(model, "lm_head", lambda x: x * 0.0625)


# What no catalogue has a name for.


@fault("v_proj negated", "v_proj")
def v_negated(model: Any, block: int) -> None:
    afterwards(attention_of(model, block), "v_proj", lambda x: -x)


@fault("ffn_down times 1.001", "ffn_down")
def down_louder(model: Any, block: int) -> None:
    afterwards(mlp_of(model, block), "down_proj", lambda x: x * 1.001)


@fault("ffn_up one position late", "ffn_up")
def up_rolled(model: Any, block: int) -> None:
    afterwards(mlp_of(model, block), "up_proj", lambda x: torch.roll(x, 1, dims=1))


@fault("v_proj one position late", "v_proj")
def v_rolled(model: Any, block: int) -> None:
    afterwards(attention_of(model, block), "v_proj", lambda x: torch.roll(x, 1, dims=1))


@fault("ffn_gate under a fixed mask", "ffn_gate")
def gate_masked(model: Any, block: int) -> None:
    def change(x: Tensor) -> Tensor:
        return x * (1.0 + 0.3 * torch.sin(37.0 * torch.arange(x.shape[-1], dtype=x.dtype)))

    afterwards(mlp_of(model, block), "gate_proj", change)


@fault("k_proj offset in its last two channels", "k_proj")
def k_channels(model: Any, block: int) -> None:
    def change(x: Tensor) -> Tensor:
        return torch.cat((x[..., :-2], x[..., -2:] + 0.25), dim=-1)

    afterwards(attention_of(model, block), "k_proj", change)


@fault("embedding row of token 5 wrong", "embed", in_block=False)
def embedding_row(model: Any, block: int) -> None:
    weight = model.model.embed_tokens.weight.clone()
    weight[5] = weight[6]
    set_weight(model.model.embed_tokens, weight)


@fault("head row 7 wrong", "logits", in_block=False)
def head_row(model: Any, block: int) -> None:
    weight = model.lm_head.weight.clone()
    weight[7] = weight[8]
    set_weight(model.lm_head, weight)
