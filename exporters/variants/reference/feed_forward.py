"""The feed-forward network of a block: gate, up and down, or up and down alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ....graphs.decoder_config import DecoderConfig, Xielu
from ...tapping import tap
from ..activations import Activations
from .layers import Layers


def gelu_by_table(x: Tensor) -> Tensor:
    """gelu as ggml looks it up on the CPU, in a table of float16 by the float16 that is nearest. Source: ggml_vec_gelu_f32."""
    looked_up = F.gelu(x.half().float(), approximate="tanh").half().float()
    return torch.where(x <= -10, torch.zeros_like(x), torch.where(x >= 10, x, looked_up))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu2": lambda x: F.relu(x).square(),
}
OF_GGML = {"gelu": gelu_by_table, "gelu_tanh": gelu_by_table}  # llama.cpp has the tanh form in the place of either


def activation_of(config: DecoderConfig, block: int, activations: Activations) -> Callable[[Tensor], Tensor]:
    """The activation of a block; gelu as ggml has it, where its activations are."""
    if config.activation == "xielu":
        return partial(xielu, of=config.xielu[block])
    known = {**ACTIVATIONS, **(OF_GGML if activations == "ggml" else {})}
    return known[config.activation]


def xielu(x: Tensor, of: Xielu) -> Tensor:
    """a x^2 + beta x where x > 0, else b (exp(min(x, eps)) - 1 - x) + beta x. Source: Huang and Schlag 2024."""
    a, b = (float(np.logaddexp(0, alpha)) for alpha in (of.alpha_p, of.alpha_n))  # softplus
    below = (torch.expm1(x.clamp(max=of.eps)) - x) * (of.beta + b) + of.beta * x
    return torch.where(x > 0, a * x * x + of.beta * x, below)


class FeedForward(Layers):
    """The feed-forward network of a block without experts."""

    activation: Callable[[Tensor], Tensor]
    is_gated: bool

    def feed_forward(self, h: Tensor) -> Tensor:
        if self.is_gated:
            gate = tap(self.name + "ffn_gate", self.linear(h, "ffn_gate"), axes="token channel")
            up = tap(self.name + "ffn_up", self.linear(h, "ffn_up"), axes="token channel")
            act = tap(self.name + "ffn_act", self.activation(gate) * up, axes="token channel")
        else:
            up = tap(self.name + "ffn_up", self.linear(h, "ffn_up"), axes="token channel")
            act = tap(self.name + "ffn_act", self.activation(up), axes="token channel")
        return tap(self.name + "ffn_down", self.linear(act, "ffn_down"), axes="token channel")
