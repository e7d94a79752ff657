"""Faults of scores, mask, KV heads, heads and context, as HF-style code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .attention import STEPS, causal, patch_attention
from .registry import attention_of, fault


@fault("scale missing", "attn_scores", "attention.scale")
def scale_missing(model: Any, block: int) -> None:
    attention_of(model, block).scaling = 1.0


@fault("scale applied twice", "attn_scores", "attention.scale")
def scale_twice(model: Any, block: int) -> None:
    attention_of(model, block).scaling **= 2


@fault("scale from width / heads", "attn_scores", "attention.scale")
def scale_from_width(model: Any, block: int) -> None:
    config = model.config
    attention_of(model, block).scaling = (config.hidden_size / config.num_attention_heads) ** -0.5


@fault("scale from the whole width", "attn_scores", "attention.scale", model="llama")
def scale_from_whole_width(model: Any, block: int) -> None:
    attention_of(model, block).scaling = model.config.hidden_size**-0.5


@fault("mask missing", "attn_scores", "attention.mask")
def mask_missing(model: Any, block: int) -> None:
    patch_attention(attention_of(model, block), mask=lambda attn, scores, mask: scores)


def _masked(scores: Tensor, seen: Tensor) -> Tensor:
    return scores.masked_fill(~seen, torch.finfo(scores.dtype).min)


@fault("mask lets one later token through", "attn_scores", "attention.mask")
def mask_off_by_one(model: Any, block: int) -> None:
    def mask(attn: Any, scores: Tensor, mask: Any) -> Tensor:
        return _masked(scores, causal(scores, first_hidden=2))

    patch_attention(attention_of(model, block), mask=mask)


@fault("sliding window of 4", "attn_scores", "attention.window")
def sliding_window(model: Any, block: int) -> None:
    def mask(attn: Any, scores: Tensor, mask: Any) -> Tensor:
        return _masked(scores, causal(scores, window=4))

    patch_attention(attention_of(model, block), mask=mask)


@fault("KV heads tiled", "attn_scores attn_context", "attention.kv_heads")
def kv_heads_tiled(model: Any, block: int) -> None:
    def tiled(attn: Any, x: Tensor) -> Tensor:
        return x.repeat(1, attn.num_key_value_groups, 1, 1)

    patch_attention(attention_of(model, block), repeat_k=tiled, repeat_v=tiled)


@fault("scores capped at 50", "attn_scores", "attention.softcap")
def softcap(model: Any, block: int) -> None:
    """As Gemma 2 caps them, before the mask."""
    patch_attention(attention_of(model, block), cap=lambda attn, scores: torch.tanh(scores / 50.0) * 50.0)


@fault("heads split without a transpose", "q_norm k_norm attn_context", "heads.split")
def split_without_transpose(model: Any, block: int) -> None:
    """[T, H*D] read as [H, T, D]; turned to [T, H, D] again, as the norms expect it."""

    def split(attn: Any, x: Tensor) -> Tensor:
        batch, length, channels = x.shape
        return x.flatten(1).view(batch, channels // attn.head_dim, length, attn.head_dim).transpose(1, 2)

    patch_attention(attention_of(model, block), split=split)


@fault("heads merged without a transpose", "attn_context", "heads.merge")
def merge_without_transpose(model: Any, block: int) -> None:
    def merge(attn: Any, context: Tensor) -> Tensor:
        batch, heads, length, channels = context.shape
        return context.flatten(1).view(batch, length, heads, channels)

    patch_attention(attention_of(model, block), merge=merge)


# What no catalogue has a name for.


def _after_merge(model: Any, block: int, change: Any) -> None:
    patch_attention(attention_of(model, block), merge=lambda attn, context: change(STEPS["merge"](attn, context)))


@fault("context channel 3 of each head zeroed", "attn_context")
def channel_zeroed(model: Any, block: int) -> None:
    def change(context: Tensor) -> Tensor:
        return context * (torch.arange(context.shape[-1]) != 3).to(context.dtype)

    _after_merge(model, block, change)


@fault("context of heads 0 and 1 swapped", "attn_context")
def heads_swapped(model: Any, block: int) -> None:
    _after_merge(model, block, lambda context: context[:, :, [1, 0, 2, 3]])


@fault("context of the last position halved", "attn_context")
def last_position_halved(model: Any, block: int) -> None:
    def change(context: Tensor) -> Tensor:
        last = torch.arange(context.shape[1]) == context.shape[1] - 1
        return torch.where(last[:, None, None], context * 0.5, context)

    _after_merge(model, block, change)


@fault("context doubled", "attn_context")
def context_doubled(model: Any, block: int) -> None:
    _after_merge(model, block, lambda context: context * 2.0)


@fault("values read one position late", "attn_context")
def values_late(model: Any, block: int) -> None:
    patch_attention(attention_of(model, block), values=lambda attn, v, cos, sin: torch.roll(v, 1, dims=2))


@fault("scores of head 2 too large", "attn_scores")
def one_head_louder(model: Any, block: int) -> None:
    def cap(attn: Any, scores: Tensor) -> Tensor:
        return torch.cat((scores[:, :2], scores[:, 2:3] * 1.25, scores[:, 3:]), dim=1)

    patch_attention(attention_of(model, block), cap=cap)


@fault("softmax over the queries", "attn_probs")
def softmax_over_queries(model: Any, block: int) -> None:
    patch_attention(attention_of(model, block), softmax=lambda attn, scores: nn.functional.softmax(scores, dim=-2))


@fault("probabilities rounded to bfloat16", "attn_context")
def rounded_probabilities(model: Any, block: int) -> None:
    def softmax(attn: Any, scores: Tensor) -> Tensor:
        return STEPS["softmax"](attn, scores).to(torch.bfloat16).to(scores.dtype)

    patch_attention(attention_of(model, block), softmax=softmax)


# Written out, this softmax has no taps: the stages before the context are missing on this side.
@fault("softmax with 1 added to its sum", "attn_context")
def softmax_with_sink(model: Any, block: int) -> None:
    def softmax(attn: Any, scores: Tensor) -> Tensor:
        largest = scores.amax(-1, keepdim=True).clamp(min=0.0)
        weights = torch.exp(scores - largest)
        return weights / (weights.sum(-1, keepdim=True) + torch.exp(-largest))

    patch_attention(attention_of(model, block), softmax=softmax)


@fault("keys averaged with the one before", "attn_scores")
def keys_blurred(model: Any, block: int) -> None:
    def repeat_k(attn: Any, k: Tensor) -> Tensor:
        k = STEPS["repeat_k"](attn, k)
        return (k + torch.roll(k, 1, dims=2)) / 2

    patch_attention(attention_of(model, block), repeat_k=repeat_k)
