"""A decoder block: attention and feed-forward network, their norms, and how they are added to the residual stream."""

from __future__ import annotations

from torch import Tensor, nn

from ...bound import BoundCheckpoint
from ...checkpoints.shapes import norms
from ...tapping import tap
from ..activations import Activations
from ..linear import Weights
from .attention import Attention
from .experts import MixtureOfExperts
from .feed_forward import FeedForward, activation_of
from .norms import Norm

STAGES = {"post_attention_norm": "attn_post_norm", "post_ffw_norm": "ffn_post_norm"}


class Block(Attention, FeedForward):
    """One decoder block; in a Llama, attention and feed-forward network each behind its norm and with its residual."""

    def __init__(self, checkpoint: BoundCheckpoint, n: int, weights: Weights, activations: Activations) -> None:
        super().__init__()
        config, self.name = checkpoint.config, f"blk.{n}."
        self.add_attention(checkpoint, n)
        self.activation, self.is_gated = activation_of(config, n, activations), config.gated
        has_experts = config.experts_of(n) is not None
        self.experts = MixtureOfExperts(checkpoint, self.name, self.activation) if has_experts else None
        dense = ("ffn_gate", "ffn_up", "ffn_down") if config.gated else ("ffn_up", "ffn_down")
        parts = ("attn_q", "attn_k", "attn_v", "attn_output", *(() if has_experts else dense))
        self.add_linear(checkpoint, parts, weights, activations)
        self.norms = nn.ModuleDict(
            {STAGES.get(name, name): Norm(checkpoint, self.name + name) for name in norms(config)}
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor) -> Tensor:
        h = self.normed("attn_norm", x)
        attended = self.normed("attn_post_norm", self.attention(h, cos, sin, visible))
        if self.config.parallel != "no":
            h = self.normed("ffn_norm", x) if self.config.parallel == "two_norms" else h
            return self.added("ffn_residual", self.scaled(attended) + x, self.fed_forward(h))
        x = self.added("attn_residual", x, attended)
        h = self.normed("ffn_norm", x)
        return self.added("ffn_residual", x, self.fed_forward(h))

    def fed_forward(self, h: Tensor) -> Tensor:
        out = self.feed_forward(h) if self.experts is None else self.experts(h)
        return self.normed("ffn_post_norm", out)

    def normed(self, stage: str, x: Tensor) -> Tensor:
        """x behind this norm; x itself where the block has none there."""
        return tap(self.name + stage, self.norms[stage](x), axes="token channel") if stage in self.norms else x

    def added(self, stage: str, x: Tensor, branch: Tensor) -> Tensor:
        return tap(self.name + stage, x + self.scaled(branch), axes="token channel")

    def scaled(self, branch: Tensor) -> Tensor:
        scale = self.config.residual_scale
        return branch if scale == 1 else branch * scale
