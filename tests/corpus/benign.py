"""The registry of benign changes: `BENIGN`, by name. Each computes the same function, so none of them has a cause."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from . import faults  # noqa: F401  # first: it registers all faults in one order
from .attention import patch_attention
from .ffn_faults import patch_sum
from .linear_faults import set_weight
from .models import pair_rows
from .registry import BENIGN, Benign, benign
from .rope_faults import interleaved

__all__ = ["BENIGN", "Benign"]


def _unchanged(model: Any) -> None:
    pass


benign("opset 18", export={"opset_version": 18})(_unchanged)
benign("opset 23", export={"opset_version": 23})(_unchanged)
benign("unoptimised export", export={"optimize": False})(_unchanged)


@benign("sdpa attention")
def sdpa(model: Any) -> None:
    """The scores and the probabilities have no taps then."""
    model.set_attn_implementation("sdpa")


class FusedRMSNorm(nn.Module):
    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


@benign("fused rms_norm")
def fused_norms(model: Any) -> None:
    for layer in model.model.layers:
        for owner, name in (
            (layer, "input_layernorm"),
            (layer, "post_attention_layernorm"),
            (layer.self_attn, "q_norm"),
            (layer.self_attn, "k_norm"),
        ):
            setattr(owner, name, FusedRMSNorm(getattr(owner, name)))
    model.model.norm = FusedRMSNorm(model.model.norm)


class ReorderedLinear(nn.Module):
    """The same products, summed in two halves and from the other end."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        x, weight = x.flip(-1), self.weight.flip(-1)
        middle = x.shape[-1] // 2
        total = x[..., :middle] @ weight[:, :middle].T + x[..., middle:] @ weight[:, middle:].T
        return total if self.bias is None else total + self.bias


@benign("sums in another order")
def reordered_sums(model: Any) -> None:
    for layer in model.model.layers:
        for owner in (layer.self_attn, layer.mlp):
            for name, linear in list(owner.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(owner, name, ReorderedLinear(linear))
    model.lm_head = ReorderedLinear(model.lm_head)


@benign("merged qkv projection")
def merged_qkv(model: Any) -> None:
    """One product, then split: the three projections have no taps of their own then."""
    for layer in model.model.layers:
        attn = layer.self_attn
        parts = (attn.q_proj, attn.k_proj, attn.v_proj)
        attn.qkv_proj = nn.Linear(parts[0].in_features, sum(part.out_features for part in parts), bias=False)
        set_weight(attn.qkv_proj, torch.cat([part.weight for part in parts]))
        attn.qkv_sizes = [part.out_features for part in parts]
        patch_attention(attn, project=lambda attn, x: attn.qkv_proj(x).split(attn.qkv_sizes, dim=-1))


@benign("merged qkv projection with biases", model="qwen2")
def merged_qkv_with_biases(model: Any) -> None:
    merged_qkv(model)
    for layer in model.model.layers:
        attn = layer.self_attn
        biases = torch.cat([part.bias for part in (attn.q_proj, attn.k_proj, attn.v_proj)])
        attn.qkv_proj.bias = nn.Parameter(biases, requires_grad=False)


@benign("interleaved pairing on permuted rows and gains")
def permuted_pairs(model: Any) -> None:
    """What llama.cpp's converter does to a llama checkpoint, done to a Qwen3: two conventions that cancel."""
    for layer in model.model.layers:
        attn = layer.self_attn
        for linear in (attn.q_proj, attn.k_proj):
            set_weight(linear, pair_rows(linear.weight, attn.head_dim))
        for norm in (attn.q_norm, attn.k_norm):
            norm.weight = nn.Parameter(pair_rows(norm.weight, attn.head_dim), requires_grad=False)
        patch_attention(attn, rotate=lambda attn, q, k, cos, sin: (interleaved(q, cos, sin), interleaved(k, cos, sin)))


@benign("interleaved pairing on permuted rows", model="llama")
def permuted_llama_pairs(model: Any) -> None:
    for layer in model.model.layers:
        attn = layer.self_attn
        for linear in (attn.q_proj, attn.k_proj):
            set_weight(linear, pair_rows(linear.weight, attn.head_dim))
        patch_attention(attn, rotate=lambda attn, q, k, cos, sin: (interleaved(q, cos, sin), interleaved(k, cos, sin)))


class LaterPositions:
    def forward(self: Any, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        return type(self).forward(self, x, position_ids + 1)


@benign("positions of q and k one later")
def later_positions(model: Any) -> None:
    """Only the distance between two positions reaches the scores."""
    rotary = model.model.rotary_emb
    rotary.forward = MethodType(LaterPositions.forward, rotary)


class Doubled:
    def forward(self: Any, input_ids: Tensor, **kwargs: Any) -> Any:
        return type(self).forward(self, input_ids=input_ids.expand(2, -1), **kwargs)


@benign("batch of 2")
def batch_of_two(model: Any) -> None:
    """The same tokens twice."""
    model.forward = MethodType(Doubled.forward, model)


@benign("scale on q before the product")
def scale_on_q(model: Any) -> None:
    def product(attn: Any, q: Tensor, k: Tensor) -> Tensor:
        return torch.matmul(q * attn.scaling, k.transpose(2, 3))

    for layer in model.model.layers:
        patch_attention(layer.self_attn, product=product)


@benign("scale shared between q and k")
def scale_shared(model: Any) -> None:
    def product(attn: Any, q: Tensor, k: Tensor) -> Tensor:
        return torch.matmul(q * attn.scaling**0.5, k.transpose(2, 3) * attn.scaling**0.5)

    for layer in model.model.layers:
        patch_attention(layer.self_attn, product=product)


@benign("KV heads repeated by index")
def repeated_by_index(model: Any) -> None:
    def repeat(attn: Any, x: Tensor) -> Tensor:
        return x.repeat_interleave(attn.num_key_value_groups, dim=1)

    for layer in model.model.layers:
        patch_attention(layer.self_attn, repeat_k=repeat, repeat_v=repeat)


@benign("residuals summed the other way round")
def sums_turned(model: Any) -> None:

    for block in range(len(model.model.layers)):
        for place in ("attn", "ffn"):
            patch_sum(model, block, place, lambda residual, branch: branch + residual)
