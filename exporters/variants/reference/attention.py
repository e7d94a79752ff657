"""Attention: projections, norms of q and k, rotation, scores, probabilities, context."""

from __future__ import annotations

import torch
from torch import Tensor

from ...bound import BoundCheckpoint
from ...tapping import tap
from ..cache import with_cache
from ..linear import gain
from .layers import Layers
from .norms import Norm
from .rotary import rotate_half_split, rotate_interleaved

ROTATIONS = {"interleaved": rotate_interleaved, "half_split": rotate_half_split}


class Attention(Layers):
    """The attention of a block."""

    def add_attention(self, checkpoint: BoundCheckpoint, n: int) -> None:
        """Give the module what attention has beside its linear layers."""
        config = self.config = checkpoint.config
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.is_rotated, self.rotate = config.is_rotated(n), ROTATIONS[config.pairing]
        self.q_norm = Norm(checkpoint, self.name + "attn_q_norm") if config.qk_norm else None
        self.k_norm = Norm(checkpoint, self.name + "attn_k_norm") if config.qk_norm else None
        self.sinks = gain(checkpoint, self.name + "attn_sinks.weight") if config.sinks else None

    def attention(self, h: Tensor, cos: Tensor, sin: Tensor, visible: Tensor) -> Tensor:
        name = self.name
        q = self.heads("q_proj", self.linear(h, "attn_q"), self.n_heads)  # [T, H, D]
        k = self.heads("k_proj", self.linear(h, "attn_k"), self.n_kv_heads)  # [T, KV, D]
        v = self.heads("v_proj", self.linear(h, "attn_v"), self.n_kv_heads)
        if self.q_norm is not None and self.k_norm is not None:
            q = tap(name + "q_norm", self.normed_heads(q, self.q_norm), axes="token head channel")
            k = tap(name + "k_norm", self.normed_heads(k, self.k_norm), axes="token head channel")
        q, k, v = (clipped(x, self.config.clip_qkv) for x in (q, k, v))
        if self.is_rotated:
            q = tap(name + "q_rope", self.rotated(q, cos, sin), axes="token head channel")
            k = tap(name + "k_rope", self.rotated(k, cos, sin), axes="token head channel")
        k, v = with_cache(name + "k_cache", k), with_cache(name + "v_cache", v)  # [K, KV, D]
        groups = self.n_heads // self.n_kv_heads
        k = k.repeat_interleave(groups, dim=1).transpose(0, 1)  # [H, K, D]
        v = v.repeat_interleave(groups, dim=1).transpose(0, 1)
        scores = q.transpose(0, 1) @ k.transpose(1, 2) * self.config.scale_of_scores  # [H, T, K]
        scores = self.biased(scores)
        scores = scores.masked_fill(~visible, float("-inf"))
        scores = tap(name + "attn_scores", scores, axes="head token key")
        probs = tap(name + "attn_probs", self.softmax(scores), axes="head token key")
        context = tap(name + "attn_context", (probs @ v).transpose(0, 1), axes="token head channel")
        return tap(name + "o_proj", self.linear(context.flatten(1), "attn_output"), axes="token channel")

    def heads(self, stage: str, x: Tensor, n_heads: int) -> Tensor:
        return tap(self.name + stage, x.view(x.shape[0], n_heads, self.head_dim), axes="token head channel")

    def normed_heads(self, x: Tensor, norm: Norm) -> Tensor:
        """x [T, H, D] normed over each head, or over the whole projection."""
        return norm(x) if self.config.qk_norm_over != "projection" else norm(x.flatten(1)).view(x.shape)

    def rotated(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [T, H, D] with its first R channels rotated; cos and sin [T, 1, R/2]."""
        if self.config.rotary_dim is None:
            return self.rotate(x, cos, sin)
        turned, kept = x[..., : self.config.rotary_dim], x[..., self.config.rotary_dim :]
        return torch.cat((self.rotate(turned, cos, sin), kept), dim=-1)

    def biased(self, scores: Tensor) -> Tensor:
        """The scores [H, T, K] capped, and with ALiBi's biases."""
        most, scores = self.config.max_alibi_bias, capped(scores, self.config.score_softcap)
        return scores if most is None else scores + alibi(scores, most)

    def softmax(self, scores: Tensor) -> Tensor:
        """The probabilities of the keys; a sink takes its share of them, and gives nothing. Source: Agarwal et al. 2025."""
        if self.sinks is None:
            return scores.softmax(dim=-1)
        sinks = self.sinks.float()[:, None, None].expand(-1, scores.shape[1], 1)
        return torch.cat((scores, sinks), dim=-1).softmax(dim=-1)[..., :-1]


def capped(x: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(x / cap); x itself where there is no cap. Source: Gemma Team 2024."""
    return x if cap is None else torch.tanh(x / cap) * cap


def clipped(x: Tensor, most: float | None) -> Tensor:
    """x with no value larger than this in size; x itself where there is no limit."""
    return x if most is None else x.clamp(-most, most)


def alibi(scores: Tensor, most: float) -> Tensor:
    """How much each head [H] takes off for each position that a key lies before the query: [H, T, K].

    Source: Press et al. 2022; for a number of heads that is no power of two, as in its published code.
    """
    n_heads, n_queries, n_keys = scores.shape
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2.0 ** (-most * (n + 1) / power) for n in range(power)]
    slopes += [2.0 ** (-most * (2 * n + 1) / (2 * power)) for n in range(n_heads - power)]
    keys = torch.arange(n_keys, device=scores.device)
    behind = keys[None, n_keys - n_queries :].T - keys[None, :]  # [T, K]
    return -torch.tensor(slopes)[:, None, None] * behind
