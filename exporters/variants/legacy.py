"""The legacy runtime of SKaiNET-transformers as issue 114 found it: LlamaRuntime with CpuAttentionBackend.

Reproduced: `linearProject`, which multiplies `x @ W` where `W.shape[0] == x.shape[-1]` and `x @ W.T` elsewhere, so that a square weight
goes in untransposed; MemSegWeightConverter, which should hand it `[in, out]` weights but returns early when the file has no
quantised tensor (`converter=off`, as reported); RoPE pairing by architecture; per-head QK-norm with the metadata's eps;
head dim as width / heads; query head h reading KV head h / (H / KV).
Exported with a cache, it decodes as the runtime does, on any schedule; without, the whole prompt at once.
Not reproduced: the SIMD kernels' order of summation, sampling.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..bound import BoundCheckpoint
from ..tapping import tap
from .cache import n_past, with_cache
from .linear import (
    Weights,
    embedding,
    gain,
    head_weight,
    linear_weight,
    optional_bias,
    refuse_other_choices,
    refuse_other_head_dim,
)


def legacy(
    checkpoint: BoundCheckpoint,
    converter: Literal["off", "on"] = "off",
    rope: Literal["auto", "interleaved", "half_split"] = "auto",
    head_dim: Literal["width/heads", "metadata"] = "width/heads",
    weights: Weights = "as_stored",
) -> nn.Module:
    """The variant `legacy`; its defaults are the runtime as reported."""
    refuse_other_choices("legacy", checkpoint)
    if head_dim == "width/heads":
        refuse_other_head_dim("legacy", checkpoint, "ask for legacy:head_dim=metadata to run it all the same")
    if rope == "auto":
        rope = "interleaved" if checkpoint.config.architecture == "llama" else "half_split"
    return LlamaRuntime(checkpoint, converter == "on", rope, weights)


class LlamaRuntime(nn.Module):
    """tokens int64 [T] -> logits float32 [T, V]."""

    def __init__(self, checkpoint: BoundCheckpoint, converted: bool, rope: str, weights: Weights) -> None:
        super().__init__()
        config = checkpoint.config
        self.eps, self.converted = config.rms_norm_eps, converted
        self.token_embd = embedding(checkpoint)
        self.blocks = nn.ModuleList(LlamaLayer(checkpoint, n, converted, rope, weights) for n in range(config.n_blocks))
        self.output_norm = gain(checkpoint, "output_norm.weight")
        self.output = head_weight(checkpoint, weights)

    def forward(self, tokens: Tensor) -> Tensor:
        x = tap("embed", torch.index_select(self.token_embd, 0, tokens).float(), axes="token channel")
        for block in self.blocks:
            x = block(x)
        x = tap("final_norm", rms_norm(x, self.output_norm, self.eps), axes="token channel")
        return tap("logits", linear_project(x, self.output(), self.converted), axes="token vocab")


class LlamaLayer(nn.Module):
    """One layer of LlamaRuntime, with the backend's attention."""

    attn_norm: Tensor
    ffn_norm: Tensor
    attn_q_norm: Tensor
    attn_k_norm: Tensor

    def __init__(self, checkpoint: BoundCheckpoint, n: int, converted: bool, rope: str, weights: Weights) -> None:
        super().__init__()
        config, self.name = checkpoint.config, f"blk.{n}."
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.eps, self.rope_base, self.rope, self.converted = config.rms_norm_eps, config.rope_base, rope, converted
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            self.add_module(part, linear_weight(checkpoint, f"{self.name}{part}.weight", weights))
            self.register_parameter(part + "_bias", optional_bias(checkpoint, f"{self.name}{part}.bias"))
        norms = ("attn_norm", "ffn_norm", *(("attn_q_norm", "attn_k_norm") if config.qk_norm else ()))
        for norm in norms:
            self.register_parameter(norm, gain(checkpoint, f"{self.name}{norm}.weight"))
        self.qk_norm = config.qk_norm

    def forward(self, x: Tensor) -> Tensor:
        h = tap(self.name + "attn_norm", rms_norm(x, self.attn_norm, self.eps), axes="token channel")
        x = tap(self.name + "attn_residual", x + self.attention(h), axes="token channel")
        h = tap(self.name + "ffn_norm", rms_norm(x, self.ffn_norm, self.eps), axes="token channel")
        gate = tap(self.name + "ffn_gate", self.project(h, "ffn_gate"), axes="token channel")
        up = tap(self.name + "ffn_up", self.project(h, "ffn_up"), axes="token channel")
        act = tap(self.name + "ffn_act", gate / (1.0 + torch.exp(-gate)) * up, axes="token channel")
        down = tap(self.name + "ffn_down", self.project(act, "ffn_down"), axes="token channel")
        return tap(self.name + "ffn_residual", x + down, axes="token channel")

    def attention(self, h: Tensor) -> Tensor:
        name = self.name
        q = tap(name + "q_proj", self.project(h, "attn_q"), axes="token channel")
        k = tap(name + "k_proj", self.project(h, "attn_k"), axes="token channel")
        v = tap(name + "v_proj", self.project(h, "attn_v"), axes="token channel")
        q, k, v = (x.unflatten(-1, (-1, self.head_dim)) for x in (q, k, v))  # [T, H, D], [T, KV, D]
        if self.qk_norm:
            q = tap(name + "q_norm", per_head_rms_norm(q, self.attn_q_norm, self.eps), axes="token head channel")
            k = tap(name + "k_norm", per_head_rms_norm(k, self.attn_k_norm, self.eps), axes="token head channel")
        n_before = n_past(k.new_zeros(0, self.n_kv_heads, self.head_dim))
        q = tap(name + "q_rope", apply_rope(q, self.rope_base, self.rope, n_before), axes="token head channel")
        k = tap(name + "k_rope", apply_rope(k, self.rope_base, self.rope, n_before), axes="token head channel")
        k, v = with_cache(name + "k_cache", k), with_cache(name + "v_cache", v)  # [K, KV, D]
        kv_head = torch.arange(self.n_heads) // (self.n_heads // self.n_kv_heads)
        scores = torch.einsum("thd,khd->htk", q, k[:, kv_head]) / self.head_dim**0.5
        time = torch.arange(scores.shape[-1])
        scores = torch.where(time[None, :] > time[n_before:, None], float("-inf"), scores)
        scores = tap(name + "attn_scores", scores, axes="head token key")
        probs = tap(name + "attn_probs", torch.softmax(scores, -1), axes="head token key")
        context = torch.einsum("htk,khd->thd", probs, v[:, kv_head])
        context = tap(name + "attn_context", context, axes="token head channel")
        return tap(name + "o_proj", self.project(context.flatten(1), "attn_output"), axes="token channel")

    def project(self, x: Tensor, part: str) -> Tensor:
        y = linear_project(x, self.get_submodule(part)(), self.converted)
        bias = getattr(self, part + "_bias")
        return y if bias is None else y + bias.float()


def linear_project(x: Tensor, weight: Tensor, converted: bool) -> Tensor:
    """x [T, in] times the weight, untransposed where its first dimension fits; weight [out, in] as in the file."""
    if converted:
        weight = weight.T  # MemSegWeightConverter: [in, out]
    return x @ weight if weight.shape[0] == x.shape[-1] else x @ weight.T


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    return x / torch.sqrt(torch.mean(x**2, -1, keepdim=True) + eps) * weight.float()


def per_head_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(sumsq / head_dim + eps) * weight for each head: x [T, H, D], weight [D]."""
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) / x.shape[-1] + eps) * weight.float()


def apply_rope(x: Tensor, base: float, pairing: str, start: int = 0) -> Tensor:
    """Rotate the pairs of each head by pos / base^(2i/D), with positions from `start`: x [T, H, D]; the angles are
    computed in float32.
    """
    dim = x.shape[-1]
    frequency = 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    angle = torch.arange(start, start + x.shape[0], dtype=torch.float32)[:, None, None] * frequency  # [T, 1, D/2]
    cos, sin = torch.cos(angle), torch.sin(angle)
    if pairing == "interleaved":
        a, b = x[..., ::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
    a, b = x[..., : dim // 2], x[..., dim // 2 :]
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)
