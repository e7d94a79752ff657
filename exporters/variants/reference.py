"""The reference: the mathematics on which HF transformers and llama.cpp agree for an architecture.

Source: transformers' modeling_qwen3.py, modeling_qwen2.py and modeling_llama.py; llama.cpp's graphs of the same names.
In GGUF files of the llama architecture the rows of attn_q and attn_k are permuted, and the pairing is interleaved to match.
With activations=ggml its linear layers round their inputs as llama.cpp's CPU matmuls do for weights stored as these are.
Exported with a cache, it takes the keys and values of the steps before; without, every position is computed in one pass.
Not reproduced: sliding windows, RoPE scaling.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bound import BoundCheckpoint
from ..tapping import tap
from .activations import Activations, product
from .cache import n_past, with_cache
from .linear import Weights, embedding, gain, head_name, head_weight, linear_weight, optional_bias


def reference(
    checkpoint: BoundCheckpoint, weights: Weights = "as_stored", activations: Activations = "exact"
) -> nn.Module:
    """The variant `reference`."""
    return Reference(checkpoint, weights, activations)


class Reference(nn.Module):
    """tokens int64 [T] -> logits float32 [T, V]."""

    inv_freq: Tensor

    def __init__(self, checkpoint: BoundCheckpoint, weights: Weights, activations: Activations = "exact") -> None:
        super().__init__()
        config = checkpoint.config
        self.eps = config.rms_norm_eps
        self.n_kv_heads, self.head_dim = config.n_kv_heads, config.head_dim
        self.embedding = embedding(checkpoint)
        self.blocks = nn.ModuleList(Block(checkpoint, n, weights, activations) for n in range(config.n_blocks))
        self.final_gain = gain(checkpoint, "output_norm.weight")
        self.head = head_weight(checkpoint, weights)
        self.head_product = product(checkpoint, head_name(checkpoint), weights, activations)
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
        self.register_buffer("inv_freq", 1.0 / config.rope_base**exponents, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = tap("embed", F.embedding(tokens, self.embedding).float(), axes="token channel")
        n_before = n_past(x.new_zeros(0, self.n_kv_heads, self.head_dim))
        keys = torch.arange(n_before + tokens.shape[0], device=tokens.device)
        positions = keys[n_before:]
        cos, sin = self.rotary_table(positions)
        visible = keys[None, :] <= positions[:, None]  # [T, K]
        for block in self.blocks:
            x = block(x, cos, sin, visible)
        x = tap("final_norm", rms_norm(x, self.final_gain, self.eps), axes="token channel")
        return tap("logits", self.head_product(x, self.head(), None), axes="token vocab")

    def rotary_table(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The cosines and sines of these positions [T]: [T, 1, D/2]."""
        angles = positions.float()[:, None] * self.inv_freq[None, :]  # [T, D/2]
        return angles.cos()[:, None, :], angles.sin()[:, None, :]


class Block(nn.Module):
    """One decoder block: attention and feed-forward, each behind its norm and with its residual."""

    def __init__(self, checkpoint: BoundCheckpoint, n: int, weights: Weights, activations: Activations) -> None:
        super().__init__()
        config, name = checkpoint.config, f"blk.{n}."
        self.name, self.eps = name, config.rms_norm_eps
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.rotate = rotate_interleaved if config.architecture == "llama" else rotate_half_split
        self.attn_gain = gain(checkpoint, name + "attn_norm.weight")
        self.ffn_gain = gain(checkpoint, name + "ffn_norm.weight")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            self.add_module(part, linear_weight(checkpoint, f"{name}{part}.weight", weights))
            setattr(self, part + "_product", product(checkpoint, f"{name}{part}.weight", weights, activations))
            self.register_parameter(part + "_bias", optional_bias(checkpoint, f"{name}{part}.bias"))
        self.q_gain = gain(checkpoint, name + "attn_q_norm.weight") if config.qk_norm else None
        self.k_gain = gain(checkpoint, name + "attn_k_norm.weight") if config.qk_norm else None

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor) -> Tensor:
        h = tap(self.name + "attn_norm", rms_norm(x, self.attn_gain, self.eps), axes="token channel")
        x = tap(self.name + "attn_residual", x + self.attention(h, cos, sin, visible), axes="token channel")
        h = tap(self.name + "ffn_norm", rms_norm(x, self.ffn_gain, self.eps), axes="token channel")
        return tap(self.name + "ffn_residual", x + self.feed_forward(h), axes="token channel")

    def attention(self, h: Tensor, cos: Tensor, sin: Tensor, visible: Tensor) -> Tensor:
        name = self.name
        q = self.heads("q_proj", self.linear(h, "attn_q"), self.n_heads)  # [T, H, D]
        k = self.heads("k_proj", self.linear(h, "attn_k"), self.n_kv_heads)  # [T, KV, D]
        v = self.heads("v_proj", self.linear(h, "attn_v"), self.n_kv_heads)
        if self.q_gain is not None and self.k_gain is not None:
            q = tap(name + "q_norm", rms_norm(q, self.q_gain, self.eps), axes="token head channel")
            k = tap(name + "k_norm", rms_norm(k, self.k_gain, self.eps), axes="token head channel")
        q = tap(name + "q_rope", self.rotate(q, cos, sin), axes="token head channel")
        k = tap(name + "k_rope", self.rotate(k, cos, sin), axes="token head channel")
        k, v = with_cache(name + "k_cache", k), with_cache(name + "v_cache", v)  # [K, KV, D]
        groups = self.n_heads // self.n_kv_heads
        k = k.repeat_interleave(groups, dim=1).transpose(0, 1)  # [H, K, D]
        v = v.repeat_interleave(groups, dim=1).transpose(0, 1)
        scores = q.transpose(0, 1) @ k.transpose(1, 2) * self.head_dim**-0.5  # [H, T, K]
        scores = scores.masked_fill(~visible, float("-inf"))
        scores = tap(name + "attn_scores", scores, axes="head token key")
        probs = tap(name + "attn_probs", scores.softmax(dim=-1), axes="head token key")
        context = tap(name + "attn_context", (probs @ v).transpose(0, 1), axes="token head channel")
        return tap(name + "o_proj", self.linear(context.flatten(1), "attn_output"), axes="token channel")

    def feed_forward(self, h: Tensor) -> Tensor:
        gate = tap(self.name + "ffn_gate", self.linear(h, "ffn_gate"), axes="token channel")
        up = tap(self.name + "ffn_up", self.linear(h, "ffn_up"), axes="token channel")
        act = tap(self.name + "ffn_act", F.silu(gate) * up, axes="token channel")
        return tap(self.name + "ffn_down", self.linear(act, "ffn_down"), axes="token channel")

    def linear(self, x: Tensor, part: str) -> Tensor:
        weight, bias = self.get_submodule(part)(), getattr(self, part + "_bias")
        return getattr(self, part + "_product")(x, weight, None if bias is None else bias.float())

    def heads(self, stage: str, x: Tensor, n_heads: int) -> Tensor:
        return tap(self.name + stage, x.view(x.shape[0], n_heads, self.head_dim), axes="token head channel")


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis. Source: Zhang and Sennrich 2019."""
    return weight.float() * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps))


def rotate_half_split(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + D/2) of each head: x [T, H, D], cos and sin [T, 1, D/2]. Source: GPT-NeoX."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def rotate_interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of each head: x [T, H, D], cos and sin [T, 1, D/2]. Source: Su et al. 2021."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
