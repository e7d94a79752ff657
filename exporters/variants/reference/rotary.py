"""RoPE: the table of angles, scaled or not, and the rotation of the pairs of a head.

Source of the scalings: transformers' modeling_rope_utils.py; ggml's rope_yarn.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ....graphs.decoder_config import RopeScaling
from ...bound import BoundCheckpoint


class Rotary(nn.Module):
    """positions [T] -> the cosines and sines of their angles, [T, 1, R/2] each.

    What is known before a pass is a constant: `inv_freq`, in radians for each position.
    """

    inv_freq: Tensor
    long_inv_freq: Tensor

    def __init__(self, checkpoint: BoundCheckpoint, base: float, scaling: RopeScaling | None) -> None:
        super().__init__()
        self.base, self.scaling = base, scaling
        self.dim = checkpoint.config.rotary_dim or checkpoint.config.head_dim
        self.amplitude = 1.0 if scaling is None else scaling.attention_factor
        plain = 1.0 / self.base ** self.exponents()
        self.register_buffer("inv_freq", plain / divisors(checkpoint, plain, base, scaling), persistent=False)
        if scaling is not None and scaling.kind == "longrope":
            factors = _listed(checkpoint, scaling.long_factors, "rope_factors_long.weight")
            self.register_buffer("long_inv_freq", plain / factors, persistent=False)

    def exponents(self) -> Tensor:
        """0, 2/R, 4/R, ...: [R/2]."""
        return torch.arange(0, self.dim, 2, dtype=torch.int64).float() / self.dim

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions.float()[:, None] * self.frequencies(positions)[None, :]  # [T, R/2]
        cos, sin = angles.cos()[:, None, :], angles.sin()[:, None, :]
        return (cos, sin) if self.amplitude == 1 else (cos * self.amplitude, sin * self.amplitude)

    def frequencies(self, positions: Tensor) -> Tensor:
        """Those of a pass over these positions, by the greatest of them: [R/2]."""
        scaling = self.scaling
        if scaling is None or scaling.original_context is None or scaling.kind not in ("dynamic", "longrope"):
            return self.inv_freq
        n_tokens = positions.max() + 1
        if scaling.kind == "longrope":
            return torch.where(n_tokens > scaling.original_context, self.long_inv_freq, self.inv_freq)
        beyond = n_tokens.float().clamp(min=scaling.original_context) / scaling.original_context
        base = self.base * (scaling.factor * beyond - (scaling.factor - 1)) ** (self.dim / (self.dim - 2))
        return 1.0 / base ** self.exponents()


def divisors(checkpoint: BoundCheckpoint, plain: Tensor, base: float, scaling: RopeScaling | None) -> Tensor:
    """What each frequency [R/2] is divided by, as far as the number of tokens has no say in it."""
    kind = None if scaling is None else scaling.kind
    if scaling is None or kind == "dynamic":
        return torch.ones_like(plain)
    if kind == "linear":
        return torch.full_like(plain, scaling.factor)
    if kind == "factors":
        return checkpoint["rope_freqs.weight"]
    if kind == "longrope":
        return _listed(checkpoint, scaling.short_factors, "rope_factors_short.weight")
    return 1.0 / (1.0 - _share_of_low(plain, base, scaling) * (1.0 - 1.0 / scaling.factor))


def _listed(checkpoint: BoundCheckpoint, factors: tuple[float, ...], tensor: str) -> Tensor:
    return torch.tensor(factors) if factors else checkpoint[tensor]


def _share_of_low(plain: Tensor, base: float, scaling: RopeScaling) -> Tensor:
    """How much of each frequency is divided by the factor: 1 for low ones, 0 for high ones, in between a ramp."""
    assert scaling.original_context is not None
    if scaling.kind == "llama3":
        turns = scaling.original_context * plain / (2 * math.pi)
        ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        return 1.0 - ramp.clamp(0, 1)
    dim = 2 * len(plain)
    bounds = [
        dim * math.log(scaling.original_context / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (scaling.beta_fast, scaling.beta_slow)
    ]
    low, high = (math.floor(bounds[0]), math.ceil(bounds[1])) if scaling.truncated else bounds
    low, high = max(low, 0), min(high, dim - 1)
    return ((torch.arange(dim // 2).float() - low) / max(high - low, 0.001)).clamp(0, 1)


def rotate_half_split(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + D/2) of each head: x [T, H, D], cos and sin [T, 1, D/2]. Source: GPT-NeoX."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def rotate_interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of each head: x [T, H, D], cos and sin [T, 1, D/2]. Source: Su et al. 2021."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
