"""Faults of the feed-forward part and of the residuals, as HF-style code."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from .registry import fault, mlp_of


@fault("gate and up swapped", "ffn_gate ffn_up", "ffn.gate_up")
def gate_and_up_swapped(model: Any, block: int) -> None:
    """As a converter does that takes the halves of a fused weight in the wrong order."""
    mlp = mlp_of(model, block)
    mlp.gate_proj, mlp.up_proj = mlp.up_proj, mlp.gate_proj


class SwappedMLP:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.down_proj(self.gate_proj(x) * self.act_fn(self.up_proj(x)))


@fault("activation on up instead of on gate", "ffn_act", "ffn.gate_up")
def activation_on_up(model: Any, block: int) -> None:
    mlp = mlp_of(model, block)
    mlp.forward = MethodType(SwappedMLP.forward, mlp)


def _activation(name: str) -> Callable[[Any, int], None]:
    def patch(model: Any, block: int) -> None:
        mlp_of(model, block).act_fn = ACT2FN[name]

    return patch


fault("gelu for silu", "ffn_act", "ffn.activation")(_activation("gelu"))
fault("tanh gelu for silu", "ffn_act", "ffn.activation", model="llama")(_activation("gelu_pytorch_tanh"))
fault("relu for silu", "ffn_act", "ffn.activation")(_activation("relu"))


class ResidualSteps:
    """Holds the forward of a decoder layer whose two sums are methods of their own."""

    def forward(self: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        residual = hidden_states
        hidden_states, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = self.sums.get("attn", torch.add)(residual, hidden_states)
        residual = hidden_states
        hidden_states = self.mlp(self.post_attention_layernorm(hidden_states))
        return self.sums.get("ffn", torch.add)(residual, hidden_states)


def patch_sum(model: Any, block: int, place: str, total: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replace one residual sum of a block: `place` is `attn` or `ffn`; `total` gets (residual, branch)."""
    layer = model.model.layers[block]
    if not hasattr(layer, "sums"):
        layer.sums = {}
        layer.forward = MethodType(ResidualSteps.forward, layer)
    assert place not in layer.sums, "two patches of one sum"
    layer.sums[place] = total


@fault("attention residual missing", "attn_residual", "residual.attn")
def attention_residual_missing(model: Any, block: int) -> None:
    patch_sum(model, block, "attn", lambda residual, branch: branch)


@fault("ffn residual missing", "ffn_residual", "residual.ffn")
def ffn_residual_missing(model: Any, block: int) -> None:
    patch_sum(model, block, "ffn", lambda residual, branch: branch)


# What no catalogue has a name for.


@fault("ffn branch subtracted", "ffn_residual")
def branch_subtracted(model: Any, block: int) -> None:
    patch_sum(model, block, "ffn", lambda residual, branch: residual - branch)


@fault("attention residual halved", "attn_residual")
def residual_halved(model: Any, block: int) -> None:
    patch_sum(model, block, "attn", lambda residual, branch: residual * 0.5 + branch)


@fault("ffn residual times sqrt(1/2)", "ffn_residual")
def sum_scaled(model: Any, block: int) -> None:
    patch_sum(model, block, "ffn", lambda residual, branch: (residual + branch) * 0.5**0.5)


fault("relu6 for silu", "ffn_act")(_activation("relu6"))


class HardGate(nn.Module):
    """silu, but nothing passes the first eight channels."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(x) * (torch.arange(x.shape[-1]) >= 8).to(x.dtype)


@fault("first eight activations dead", "ffn_act")
def dead_channels(model: Any, block: int) -> None:
    mlp_of(model, block).act_fn = HardGate()
