"""The norms: RMSNorm, and LayerNorm with a bias or without."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...bound import BoundCheckpoint
from ..linear import gain, optional_bias


class Norm(nn.Module):
    """The norm `name` of a checkpoint, over the last axis."""

    bias: Tensor | None

    def __init__(self, checkpoint: BoundCheckpoint, name: str) -> None:
        super().__init__()
        self.kind, self.eps = checkpoint.config.norm_kind, checkpoint.config.rms_norm_eps
        self.gain = gain(checkpoint, name + ".weight")
        self.register_parameter("bias", optional_bias(checkpoint, name + ".bias"))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "layer_norm":
            return layer_norm(x, self.gain, self.bias, self.eps)
        return rms_norm(x, self.gain, self.eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis. Source: Zhang and Sennrich 2019."""
    return weight.float() * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis. Source: Ba et al. 2016."""
    centred = x - x.mean(-1, keepdim=True)
    normed = weight.float() * (centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps))
    return normed if bias is None else normed + bias.float()
