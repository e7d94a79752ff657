"""The DSL runtime of SKaiNET-transformers as issue 114 found it: QwenNetworkLoader, OptimizedLLMRuntime in DIRECT mode.

Reproduced: `x @ W.T` for every linear layer; RoPE in the builder's default pairing, interleaved, with its table in float32;
QK-norm as an RMSNorm module over the head dim whose eps is the class default, 1e-5, and not the metadata's; the scale on the scores;
each KV head repeated in a row; token by token decoding. Exported with a cache, it splits heads as the runtime does: by a
reshape of all rows of a step without a transpose, right for one token only. Without, its whole prompt stands for its steps.
Not reproduced: the graph optimiser, quantised kernels, sampling.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..bound import BoundCheckpoint
from ..tapping import keeps_cache, tap
from .cache import n_past, with_cache
from .linear import Weights, embedding, gain, head_weight, linear_weight, optional_bias, refuse_other_choices

CLASS_DEFAULT_EPS = 1e-5


def dsl(
    checkpoint: BoundCheckpoint,
    rope: Literal["interleaved", "half_split"] = "interleaved",
    qk_norm_eps: Literal["1e-5", "metadata"] = "1e-5",
    weights: Weights = "as_stored",
) -> nn.Module:
    """The variant `dsl`; its defaults are the runtime as reported."""
    refuse_other_choices("dsl", checkpoint)
    eps = CLASS_DEFAULT_EPS if qk_norm_eps == "1e-5" else checkpoint.config.rms_norm_eps
    return DslNetwork(checkpoint, Rope(checkpoint.config, rope), eps, weights)


class RmsNormalization(nn.Module):
    """x / sqrt(mean(x^2) + eps) * w over the last axis."""

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weight.float()


class Linear(nn.Module):
    """x @ W.T, W as the file has it, [out, in]."""

    def __init__(self, weight: nn.Module, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight().T
        return y if self.bias is None else y + self.bias.float()


class Rope(nn.Module):
    """Rotates q or k [..., T, D] by pos / base^(2i/D); the table is computed in float32."""

    def __init__(self, config: object, pairing: str) -> None:
        super().__init__()
        self.base, self.dim, self.pairing = float(config.rope_base), config.head_dim, pairing  # type: ignore[attr-defined]

    def forward(self, x: Tensor, start: int) -> Tensor:
        positions = torch.arange(start, start + x.shape[-2], dtype=torch.float32)
        pair = torch.arange(self.dim // 2, dtype=torch.float32)
        theta = positions[:, None] / torch.pow(self.base, 2.0 * pair / self.dim)[None, :]  # [T, D/2]
        cos, sin = torch.cos(theta), torch.sin(theta)
        if self.pairing == "interleaved":
            pairs = x.unflatten(-1, (self.dim // 2, 2))  # [..., T, D/2, 2]
            first, second = pairs[..., 0], pairs[..., 1]
            return torch.stack((first * cos - second * sin, first * sin + second * cos), -1).flatten(-2)
        first, second = x[..., : self.dim // 2], x[..., self.dim // 2 :]
        return torch.cat((first * cos - second * sin, first * sin + second * cos), -1)


class MultiHeadAttention(nn.Module):
    """Attention over heads-first tensors [H, T, D]."""

    attn_q: nn.Module
    attn_k: nn.Module
    attn_v: nn.Module
    attn_output: nn.Module

    def __init__(self, checkpoint: BoundCheckpoint, n: int, rope: Rope, qk_eps: float, weights: Weights) -> None:
        super().__init__()
        config, self.name = checkpoint.config, f"blk.{n}."
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.rope = rope
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            name = f"{self.name}{part}"
            bias = optional_bias(checkpoint, name + ".bias")
            self.add_module(part, Linear(linear_weight(checkpoint, name + ".weight", weights), bias))
        self.q_norm = self.k_norm = None
        if config.qk_norm:
            self.q_norm = RmsNormalization(gain(checkpoint, self.name + "attn_q_norm.weight"), qk_eps)
            self.k_norm = RmsNormalization(gain(checkpoint, self.name + "attn_k_norm.weight"), qk_eps)

    def forward(self, x: Tensor) -> Tensor:
        q = self.head_view(tap(self.name + "q_proj", self.attn_q(x), axes="token channel"), self.n_heads)
        k = self.head_view(tap(self.name + "k_proj", self.attn_k(x), axes="token channel"), self.n_kv_heads)
        v = self.head_view(tap(self.name + "v_proj", self.attn_v(x), axes="token channel"), self.n_kv_heads)
        if self.q_norm is not None and self.k_norm is not None:
            q = tap(self.name + "q_norm", self.q_norm(q), axes="head token channel")
            k = tap(self.name + "k_norm", self.k_norm(k), axes="head token channel")
        n_before = n_past(k.new_zeros(self.n_kv_heads, 0, self.head_dim), 1)
        q = tap(self.name + "q_rope", self.rope(q, n_before), axes="head token channel")
        k = tap(self.name + "k_rope", self.rope(k, n_before), axes="head token channel")
        k, v = with_cache(self.name + "k_cache", k, 1), with_cache(self.name + "v_cache", v, 1)  # [KV, K, D]
        k, v = self.repeat_kv(k), self.repeat_kv(v)
        scores = torch.matmul(q, k.transpose(-1, -2)) * (1.0 / math.sqrt(self.head_dim))  # [H, T, K]
        key = torch.arange(scores.shape[-1])
        future = key[None, :] > key[n_before:, None]
        scores = tap(self.name + "attn_scores", torch.where(future, float("-inf"), scores), axes="head token key")
        probs = tap(self.name + "attn_probs", torch.softmax(scores, -1), axes="head token key")
        context = tap(self.name + "attn_context", torch.matmul(probs, v), axes="head token channel")
        merged = context.transpose(0, 1).flatten(1)  # [T, H*D]
        return tap(self.name + "o_proj", self.attn_output(merged), axes="token channel")

    def head_view(self, x: Tensor, n_heads: int) -> Tensor:
        """[T, H*D] -> [H, T, D]; the runtime reshapes without the transpose: right for one token only."""
        if keeps_cache():
            return x.flatten().reshape(n_heads, x.shape[0], self.head_dim)
        return x.reshape(x.shape[0], n_heads, self.head_dim).transpose(0, 1)

    def repeat_kv(self, x: Tensor) -> Tensor:
        """[KV, T, D] -> [H, T, D], each KV head repeated in a row."""
        times = self.n_heads // self.n_kv_heads
        return x[:, None].expand(-1, times, -1, -1).flatten(0, 1) if times > 1 else x


class FeedForward(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    ffn_gate: nn.Module
    ffn_up: nn.Module
    ffn_down: nn.Module

    def __init__(self, checkpoint: BoundCheckpoint, n: int, weights: Weights) -> None:
        super().__init__()
        self.name = f"blk.{n}."
        for part in ("ffn_gate", "ffn_up", "ffn_down"):
            self.add_module(part, Linear(linear_weight(checkpoint, f"{self.name}{part}.weight", weights)))

    def forward(self, x: Tensor) -> Tensor:
        gate = tap(self.name + "ffn_gate", self.ffn_gate(x), axes="token channel")
        up = tap(self.name + "ffn_up", self.ffn_up(x), axes="token channel")
        act = tap(self.name + "ffn_act", gate * torch.sigmoid(gate) * up, axes="token channel")
        return tap(self.name + "ffn_down", self.ffn_down(act), axes="token channel")


class DslBlock(nn.Module):
    """Norm, attention, residual; norm, feed-forward, residual."""

    def __init__(self, checkpoint: BoundCheckpoint, n: int, rope: Rope, qk_eps: float, weights: Weights) -> None:
        super().__init__()
        self.name, eps = f"blk.{n}.", checkpoint.config.rms_norm_eps
        self.attn_norm = RmsNormalization(gain(checkpoint, self.name + "attn_norm.weight"), eps)
        self.attention = MultiHeadAttention(checkpoint, n, rope, qk_eps, weights)
        self.ffn_norm = RmsNormalization(gain(checkpoint, self.name + "ffn_norm.weight"), eps)
        self.feed_forward = FeedForward(checkpoint, n, weights)

    def forward(self, x: Tensor) -> Tensor:
        normed = tap(self.name + "attn_norm", self.attn_norm(x), axes="token channel")
        x = tap(self.name + "attn_residual", x + self.attention(normed), axes="token channel")
        normed = tap(self.name + "ffn_norm", self.ffn_norm(x), axes="token channel")
        return tap(self.name + "ffn_residual", x + self.feed_forward(normed), axes="token channel")


class DslNetwork(nn.Module):
    """tokens int64 [T] -> logits float32 [T, V]."""

    def __init__(self, checkpoint: BoundCheckpoint, rope: Rope, qk_eps: float, weights: Weights) -> None:
        super().__init__()
        config = checkpoint.config
        self.embedding = embedding(checkpoint)
        self.blocks = nn.ModuleList(DslBlock(checkpoint, n, rope, qk_eps, weights) for n in range(config.n_blocks))
        self.output_norm = RmsNormalization(gain(checkpoint, "output_norm.weight"), config.rms_norm_eps)
        self.output = Linear(head_weight(checkpoint, weights))

    def forward(self, tokens: Tensor) -> Tensor:
        x = tap("embed", self.embedding[tokens].float(), axes="token channel")
        for block in self.blocks:
            x = block(x)
        x = tap("final_norm", self.output_norm(x), axes="token channel")
        return tap("logits", self.output(x), axes="token vocab")
