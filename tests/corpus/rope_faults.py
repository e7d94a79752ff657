"""Faults of the rotary embedding, as HF-style code."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .attention import STEPS, own_rotary, patch_attention, positions_of, rotated
from .registry import attention_of, fault

Q_K = "q_rope k_rope"


def rotate_every_two(x: Tensor) -> Tensor:
    """As in GPT-J and Cohere."""
    return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)


def interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i + 1); cos and sin come in the half-split layout, [batch, token, channel]."""
    half = cos.shape[-1] // 2
    cos, sin = (table[..., :half].repeat_interleave(2, dim=-1).unsqueeze(1) for table in (cos, sin))
    return x * cos + rotate_every_two(x) * sin


@fault("rope pairs neighbours", Q_K, "rope.pairing")
def neighbours(model: Any, block: int) -> None:
    patch_attention(
        attention_of(model, block),
        rotate=lambda attn, q, k, cos, sin: (interleaved(q, cos, sin), interleaved(k, cos, sin)),
    )


def _with_rotary(model: Any, block: int, **parameters: Any) -> None:
    """Let one block compute cos and sin with rope parameters of its own."""
    config = copy.deepcopy(model.config)
    config.rope_parameters = {**config.rope_parameters, **parameters}
    rotary_class: type[nn.Module] = type(model.model.rotary_emb)
    attn = attention_of(model, block)
    own_rotary(attn, lambda: rotary_class(config))
    patch_attention(attn, angles=lambda attn, x, angles: attn.own_rotary(x, positions_of(x)))


@fault("rope base 500000", Q_K, "rope.base")
def other_base(model: Any, block: int) -> None:
    _with_rotary(model, block, rope_theta=500_000.0)


@fault("rope base 10000", Q_K, "rope.base")
def default_base(model: Any, block: int) -> None:
    _with_rotary(model, block, rope_theta=10_000.0)


@fault("rope linear scaling by 4", Q_K, "rope.scaling")
def linear_scaling(model: Any, block: int) -> None:
    _with_rotary(model, block, rope_type="linear", factor=4.0)


@fault("rope llama3 scaling", Q_K, "rope.scaling", model="llama")
def llama3_scaling(model: Any, block: int) -> None:
    """With the numbers of Llama 3.1."""
    scaling = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
    _with_rotary(model, block, rope_type="llama3", **scaling)


@fault("rope queries one position late", "q_rope", "rope.offset")
def late_queries(model: Any, block: int) -> None:
    attn = attention_of(model, block)
    own_rotary(attn, lambda: copy.deepcopy(model.model.rotary_emb))

    def rotate(attn: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        late_cos, late_sin = attn.own_rotary(q, positions_of(cos) + 1)
        return rotated(q, late_cos, late_sin), rotated(k, cos, sin)

    patch_attention(attn, rotate=rotate)


@fault("rope turns backwards", Q_K, "rope.direction")
def backwards(model: Any, block: int) -> None:
    patch_attention(attention_of(model, block), angles=lambda attn, x, angles: (angles[0], -angles[1]))


@fault("rope on half of the channels", Q_K, "rope.rotary_dim")
def partial(model: Any, block: int) -> None:
    """As GLM and Phi do with partial_rotary_factor=0.5: the frequencies are those of the shorter dimension."""
    attn = attention_of(model, block)
    base = model.config.rope_parameters["rope_theta"]
    dim = attn.head_dim // 2
    frequencies = 1.0 / base ** (torch.arange(0, dim, 2).float() / dim)
    attn.register_buffer("partial_frequencies", frequencies.to(attn.o_proj.weight.dtype), persistent=False)

    def rotate_first(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return torch.cat((rotated(x[..., :dim], cos, sin), x[..., dim:]), dim=-1)

    def rotate(attn: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions_of(cos)[..., None].to(q.dtype) * attn.partial_frequencies
        cos, sin = torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin()
        return rotate_first(q, cos, sin), rotate_first(k, cos, sin)

    patch_attention(attn, rotate=rotate)


@fault("rope missing", Q_K, "rope.applied")
def missing(model: Any, block: int) -> None:
    patch_attention(attention_of(model, block), rotate=lambda attn, q, k, cos, sin: (q, k))


@fault("rope missing on k", "k_rope", "rope.applied")
def missing_on_k(model: Any, block: int) -> None:
    patch_attention(attention_of(model, block), rotate=lambda attn, q, k, cos, sin: (rotated(q, cos, sin), k))


@fault("rope on v too", "attn_context", "rope.on_v")
def on_v(model: Any, block: int) -> None:
    patch_attention(attention_of(model, block), values=lambda attn, v, cos, sin: rotated(v, cos, sin))


# The scores read the norms here, not the rotations: fed with right values for both, they are wrong as well.
@fault("rope before the qk-norm", "q_norm k_norm q_rope k_rope attn_scores", "qk_norm.place")
def before_the_norm(model: Any, block: int) -> None:
    def norm_and_rotate(attn: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        rotate = attn.steps.get("rotate", STEPS["rotate"])
        q, k = rotate(attn, q.transpose(1, 2), k.transpose(1, 2), cos, sin)
        q, k = attn.q_norm(q.transpose(1, 2)), attn.k_norm(k.transpose(1, 2))
        return q.transpose(1, 2), k.transpose(1, 2)

    patch_attention(attention_of(model, block), norm_and_rotate=norm_and_rotate)
