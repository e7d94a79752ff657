"""Faults of single families, put into transformers' own modules: mostly what makes a family another one than a Llama, left out.

Each is written without a look at the catalogue: as a change of a module's attribute, or of what its `forward` reads or gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from families.models import WINDOW

Patch = Callable[[Any, int], None]


@dataclass(frozen=True)
class FamilyFault:
    """One mistake in one block of a model, or outside of the blocks.

    stages: every region that it spoils, and no other, as far as transformers shows them.
    conventions: the names that explain it together; none where no catalogue has one.
    blocks: in which it makes a difference; None: outside of them.
    """

    kind: str
    name: str
    stages: frozenset[str]
    conventions: frozenset[str]
    blocks: tuple[int, ...] | None
    apply: Patch = field(repr=False)

    def taps(self, block: int) -> frozenset[str]:
        return self.stages if self.blocks is None else frozenset(f"blk.{block}.{stage}" for stage in self.stages)


FAULTS: list[FamilyFault] = []


def fault(
    kind: str, name: str, stages: str, conventions: str, blocks: tuple[int, ...] | None = (0, 1, 2)
) -> Callable[[Patch], Patch]:
    """Register what it decorates; stages and conventions are separated by spaces."""

    def register(patch: Patch) -> Patch:
        FAULTS.append(FamilyFault(kind, name, frozenset(stages.split()), frozenset(conventions.split()), blocks, patch))
        return patch

    return register


def outside(kind: str, name: str, stages: str, conventions: str) -> Callable[[Patch], Patch]:
    return fault(kind, name, stages, conventions, None)


# How a module is changed


def layer(model: Any, block: int) -> Any:
    for path in ("model.layers", "gpt_neox.layers", "transformer.h"):
        owner = model
        for name in path.split("."):
            owner = getattr(owner, name, None)
        if owner is not None:
            return owner[block]
    raise AssertionError(type(model).__name__)


def attention(model: Any, block: int) -> Any:
    one = layer(model, block)
    return next(getattr(one, name) for name in ("self_attn", "attention", "attn") if hasattr(one, name))


def mlp(model: Any, block: int) -> Any:
    one = layer(model, block)
    return next(getattr(one, name) for name in ("mlp", "block_sparse_moe") if hasattr(one, name))


def gives(module: Any, change: Callable[..., Any]) -> None:
    """Let a module give what `change` makes of what it would give."""
    forward = module.forward
    module.forward = lambda *args, **kwargs: change(forward(*args, **kwargs))


def skipped(module: Any) -> None:
    """Let a module give what it is given."""
    module.forward = lambda x: x


def reads(module: Any, name: str, change: Callable[[Any], Any]) -> None:
    """Let a module read what `change` makes of one of its arguments."""
    forward = module.forward
    module.forward = lambda *args, **kwargs: forward(*args, **{**kwargs, name: change(kwargs[name])})


def sees(attn: Any, window: int | None) -> None:
    """Let attention see only so many keys, itself included; None: all before it."""

    def mask(given: Tensor) -> Tensor:
        behind = torch.arange(given.shape[-2])[:, None] - torch.arange(given.shape[-1])[None, :]
        seen = behind >= 0 if window is None else (behind >= 0) & (behind < window)
        return torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]

    reads(attn, "attention_mask", mask)


def turns(attn: Any, base: float, width: int, divisor: float = 1.0) -> None:
    """Let attention turn q and k by a plain table of angles."""
    turns_at(attn, base ** (-torch.arange(0, width, 2).float() / width) / divisor)


def turns_at(attn: Any, speeds: Tensor, amplitude: float = 1.0) -> None:
    """Let attention turn the pairs of q and k at these speeds, in radians for each position."""

    def table(given: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        positions = torch.arange(given[0].shape[1]).float()
        angles = positions[None, :, None] * torch.cat((speeds, speeds))  # [1, T, width]
        return angles.cos() * amplitude, angles.sin() * amplitude

    reads(attn, "position_embeddings", table)


def turns_by(attn: Any, factor: float) -> None:
    """Let the cosines and sines be so many times as large."""
    reads(attn, "position_embeddings", lambda given: tuple(x * factor for x in given))


def plain_rms(norm: Any, eps: float) -> None:
    """Let a LayerNorm be an RMSNorm with its gain, without its bias."""
    norm.forward = lambda x: norm.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps))


def gain_as_stored(norm: Any) -> None:
    """Let Gemma's gain be w, where it is 1 + w."""
    norm.forward = lambda x: norm.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps))


def without_bias(module: Any) -> None:
    gives(module, lambda y: y - module.bias)


def routed(gate: Any, change: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    """Let a router give the weights and the choice that `change` makes of its logits, weights and choice."""
    gives(gate, lambda given: (given[0], *change(*given)))


# Windows

for _kind in ("mistral", "phi3", "starcoder2"):

    @fault(_kind, "no window", "attn_scores", "attention.window")
    def _(model: Any, block: int) -> None:
        sees(attention(model, block), None)


@fault("mistral", "window one too wide", "attn_scores", "attention.window")
def _(model: Any, block: int) -> None:
    sees(attention(model, block), WINDOW + 1)


@fault("gemma2", "no window", "attn_scores", "attention.window", (0, 2))
def _(model: Any, block: int) -> None:
    sees(attention(model, block), None)


@fault("gemma2", "a window in a block without one", "attn_scores", "attention.window", (1,))
def _(model: Any, block: int) -> None:
    sees(attention(model, block), WINDOW)


@fault("cohere2", "no window", "attn_scores", "attention.window", (0, 1, 2))
def _(model: Any, block: int) -> None:
    sees(attention(model, block), None)


# Scores and logits


@fault("gemma2", "scores not capped", "attn_scores", "attention.softcap")
def _(model: Any, block: int) -> None:
    attention(model, block).attn_logit_softcapping = None


for _kind in ("gemma2", "gemma3"):

    @fault(_kind, "scale of head_dim", "attn_scores", "attention.scale")
    def _(model: Any, block: int) -> None:
        attention(model, block).scaling = model.config.head_dim**-0.5

    @outside(_kind, "embedding not scaled", "embed", "embedding.scale")
    def _(model: Any, block: int) -> None:
        gives(model.model.embed_tokens, lambda x: x / model.config.hidden_size**0.5)


@outside("gemma2", "logits not capped", "logits", "logits.softcap")
def _(model: Any, block: int) -> None:
    model.config.final_logit_softcapping = None


@fault("granite", "scale of head_dim", "attn_scores", "attention.scale")
def _(model: Any, block: int) -> None:
    attention(model, block).scaling = 16**-0.5


for _kind in ("granite", "granitemoe"):

    @fault(_kind, "branches not scaled", "attn_residual ffn_residual", "residual.branch_scale")
    def _(model: Any, block: int) -> None:
        layer(model, block).residual_multiplier = 1.0


@outside("granite", "embedding not scaled", "embed", "embedding.scale")
def _(model: Any, block: int) -> None:
    model.model.embedding_multiplier = 1.0


@outside("granite", "logits not scaled", "logits", "logits.scale")
def _(model: Any, block: int) -> None:
    gives(model.lm_head, lambda y: y * model.config.logits_scaling)


@outside("cohere2", "logits not scaled", "logits", "logits.scale")
def _(model: Any, block: int) -> None:
    model.logit_scale = 1.0


@fault("gpt_oss", "no sinks", "attn_probs", "attention.sinks")
def _(model: Any, block: int) -> None:
    attention(model, block).sinks.fill_(-1e4)


@fault("olmoe clipped", "not clipped", "q_rope k_rope attn_context", "attention.clip")
def _(model: Any, block: int) -> None:
    attn = attention(model, block)
    attn.config = type(attn.config)(**{**attn.config.to_dict(), "clip_qkv": None, "attn_implementation": "eager"})


# Norms

for _kind, _names in {
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "glm4": ("post_self_attn_layernorm", "post_mlp_layernorm"),
}.items():
    for _name, _stage in zip(_names, ("attn_post_norm", "ffn_post_norm"), strict=True):

        @fault(_kind, f"no norm: {_stage}", _stage, f"{_stage}.kind")
        def _(model: Any, block: int, name: str = _name) -> None:
            skipped(getattr(layer(model, block), name))


for _kind, _name, _stage in (
    ("gemma2", "input_layernorm", "attn_norm"),
    ("gemma3", "pre_feedforward_layernorm", "ffn_norm"),
    ("gemma3", "post_attention_layernorm", "attn_post_norm"),
):

    @fault(_kind, f"gain as it is stored: {_stage}", _stage, f"{_stage}.gain")
    def _(model: Any, block: int, name: str = _name) -> None:
        gain_as_stored(getattr(layer(model, block), name))


for _kind, _name, _stage in (
    ("cohere2", "input_layernorm", "attn_norm"),
    ("stablelm", "input_layernorm", "attn_norm"),
    ("gpt_neox", "post_attention_layernorm", "ffn_norm"),
    ("gpt2", "ln_1", "attn_norm"),
    ("starcoder2", "post_attention_layernorm", "ffn_norm"),
):

    @fault(_kind, f"RMSNorm for LayerNorm: {_stage}", _stage, f"{_stage}.kind {_stage}.bias")
    def _(model: Any, block: int, name: str = _name) -> None:
        norm = getattr(layer(model, block), name)
        plain_rms(norm, getattr(norm, "eps", None) or norm.variance_epsilon)


for _kind, _name, _stage in (
    ("stablelm", "post_attention_layernorm", "ffn_norm"),
    ("gpt2", "ln_2", "ffn_norm"),
    ("starcoder2", "input_layernorm", "attn_norm"),
):

    @fault(_kind, f"no bias: {_stage}", _stage, f"{_stage}.bias")
    def _(model: Any, block: int, name: str = _name) -> None:
        without_bias(getattr(layer(model, block), name))


for _kind in ("olmo2", "olmoe"):

    @fault(_kind, "q and k normed by head", "q_norm k_norm", "qk_norm.per_head")
    def _(model: Any, block: int) -> None:
        for norm in (attention(model, block).q_norm, attention(model, block).k_norm):

            def by_head(x: Tensor, norm: Any = norm) -> Tensor:
                heads = x.unflatten(-1, (-1, 16))
                normed = heads * torch.rsqrt(heads.square().mean(-1, keepdim=True) + norm.variance_epsilon)
                return norm.weight * normed.flatten(-2)

            norm.forward = by_head


for _kind in ("gemma3", "qwen3_moe", "apertus"):

    @fault(_kind, "q and k not normed", "q_norm k_norm", "qk_norm.kind")
    def _(model: Any, block: int) -> None:
        skipped(attention(model, block).q_norm)
        skipped(attention(model, block).k_norm)


# RoPE


@fault("gemma3", "global angles in a local block", "q_rope k_rope", "rope.table", (0, 2))
def _(model: Any, block: int) -> None:
    turns(attention(model, block), 1e5, 16, divisor=2.0)


@fault("gemma3", "angles not divided", "q_rope k_rope", "rope.scaling", (1,))
def _(model: Any, block: int) -> None:
    turns(attention(model, block), 1e5, 16)


@fault("phi3", "short factors behind the original context", "q_rope k_rope", "rope.scaling")
def _(model: Any, block: int) -> None:
    speeds = 1e3 ** (-torch.arange(0, 8, 2) / 8) / torch.tensor([1.1, 1.2, 1.3, 1.4])
    turns_at(attention(model, block), speeds, model.model.rotary_emb.attention_scaling)


@fault("phi3", "no longrope", "q_rope k_rope", "rope.scaling rope.amplitude")
def _(model: Any, block: int) -> None:
    turns(attention(model, block), 1e3, 8)


for _kind in ("phi3", "qwen3 with yarn", "gpt_oss"):

    @fault(_kind, "no attention factor", "q_rope k_rope", "rope.amplitude")
    def _(model: Any, block: int) -> None:
        turns_by(attention(model, block), 1 / model.model.rotary_emb.attention_scaling)


@fault("qwen3 with yarn", "no yarn", "q_rope k_rope", "rope.scaling rope.amplitude")
def _(model: Any, block: int) -> None:
    turns(attention(model, block), 1e3, 16)


@fault("llama with llama3 scaling", "linear scaling in its place", "q_rope k_rope", "rope.scaling")
def _(model: Any, block: int) -> None:
    turns(attention(model, block), 1e3, 16, divisor=4.0)


for _kind in ("llama with llama3 scaling", "llama with linear scaling", "llama with dynamic scaling"):

    @fault(_kind, "not scaled", "q_rope k_rope", "rope.scaling")
    def _(model: Any, block: int) -> None:
        turns(attention(model, block), 1e3, 16)


@fault("smollm3", "rotated in a block that is not", "attn_scores", "rope.applied", (3,))
def _(model: Any, block: int) -> None:
    attention(model, block).use_rope = 1


@fault("smollm3", "not rotated in a block that is", "q_rope k_rope", "rope.applied", (0, 2))
def _(model: Any, block: int) -> None:
    attention(model, block).use_rope = 0


@fault("cohere2", "rotated in a block that is not", "attn_scores", "rope.applied", (3,))
def _(model: Any, block: int) -> None:
    attention(model, block).sliding_window = 64


@fault("stablelm", "all of a head turned", "q_rope k_rope", "rope.rotary_dim")
def _(model: Any, block: int) -> None:
    attn = attention(model, block)
    attn.rotary_ndims = 16
    turns(attn, 1e4, 16)


@fault("glm4", "not rotated", "q_rope k_rope", "rope.applied")
def _(model: Any, block: int) -> None:
    reads(
        attention(model, block),
        "position_embeddings",
        lambda given: (torch.ones_like(given[0]), torch.zeros_like(given[1])),
    )


# Blocks


@fault("gpt_neox", "one sublayer after the other", "ffn_norm", "residual.parallel")
def _(model: Any, block: int) -> None:
    layer(model, block).use_parallel_residual = False


@outside("gpt2", "no embedding of positions", "position_embed", "embedding.positions")
def _(model: Any, block: int) -> None:
    gives(model.transformer.wpe, torch.zeros_like)


@outside("gpt2", "positions from row 2 on", "position_embed", "embedding.position_offset")
def _(model: Any, block: int) -> None:
    gives(model.transformer.wpe, lambda rows: model.transformer.wpe.weight[2 : 2 + rows.shape[1]][None])


for _kind, _function in (
    ("gemma2", nn.functional.silu),
    ("gpt2", nn.functional.gelu),
    ("gpt_neox", nn.functional.silu),
    ("starcoder2", nn.functional.gelu),
    ("apertus", nn.functional.silu),
):

    @fault(_kind, "another activation", "ffn_act", "ffn.activation")
    def _(model: Any, block: int, function: Any = _function) -> None:
        one = mlp(model, block)
        (one.act_fn if hasattr(one, "act_fn") else one.act).forward = function


def xielu(x: Tensor, a: Tensor, b: Tensor, act: Any) -> Tensor:
    below = (torch.expm1(torch.minimum(x, act.eps)) - x) * b + act.beta * x
    return torch.where(x > 0, a * x * x + act.beta * x, below)


@fault("apertus", "alphas without softplus", "ffn_act", "ffn.xielu")
def _(model: Any, block: int) -> None:
    act = mlp(model, block).act_fn
    act.forward = lambda x: xielu(x, act.alpha_p, act.beta + act.alpha_n, act)


@fault("apertus", "alpha_n without beta", "ffn_act", "ffn.xielu")
def _(model: Any, block: int) -> None:
    act = mlp(model, block).act_fn
    act.forward = lambda x: xielu(x, nn.functional.softplus(act.alpha_p), nn.functional.softplus(act.alpha_n), act)


@fault("apertus", "alphas as before training", "ffn_act", "ffn.xielu")
def _(model: Any, block: int) -> None:
    act = mlp(model, block).act_fn
    act.forward = lambda x: xielu(x, torch.tensor(0.8), torch.tensor(0.8), act)


for _kind, _name, _stage in (
    ("stablelm", "self_attn.k_proj", "k_proj"),
    ("starcoder2", "mlp.c_proj", "ffn_down"),
    ("qwen2_moe", "self_attn.v_proj", "v_proj"),
    ("gpt_neox", "attention.dense", "o_proj"),
    ("gpt_oss", "self_attn.o_proj", "o_proj"),
):

    @fault(_kind, f"no bias: {_stage}", _stage, "linear.bias")
    def _(model: Any, block: int, name: str = _name) -> None:
        without_bias(layer(model, block).get_submodule(name))


# Experts


def _of_softmax(logits: Tensor, weights: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
    return logits.softmax(-1).gather(1, choice), choice


for _kind in ("mixtral", "qwen3_moe", "gpt_oss", "granitemoe"):

    @fault(_kind, "weights not normalised", "router_weights", "experts.normalised experts.score")
    def _(model: Any, block: int) -> None:
        one = mlp(model, block)
        routed(one.gate if hasattr(one, "gate") else one.router, _of_softmax)


for _kind in ("olmoe", "qwen2_moe"):

    @fault(_kind, "weights normalised", "router_weights", "experts.normalised experts.score")
    def _(model: Any, block: int) -> None:
        routed(
            mlp(model, block).gate, lambda logits, weights, choice: (weights / weights.sum(-1, keepdim=True), choice)
        )


@fault("mixtral", "weights left out", "expert_out", "experts.weighted")
def _(model: Any, block: int) -> None:
    experts = mlp(model, block).experts
    forward = experts.forward
    experts.forward = lambda x, choice, weights: forward(x, choice, torch.ones_like(weights))


@fault("qwen3_moe", "gate and up swapped", "expert_out", "experts.gate_up")
def _(model: Any, block: int) -> None:
    both = mlp(model, block).experts.gate_up_proj
    gate, up = both.chunk(2, dim=1)
    both.data = torch.cat((up, gate), dim=1)


@fault("qwen2_moe", "no shared expert", "ffn_residual", "experts.shared")
def _(model: Any, block: int) -> None:
    gives(mlp(model, block).shared_expert, torch.zeros_like)


@fault("qwen2_moe", "no gate of the shared expert", "ffn_residual", "experts.shared_gate")
def _(model: Any, block: int) -> None:
    gives(mlp(model, block).shared_expert_gate, lambda x: torch.full_like(x, 40.0))


@fault("glm4_moe", "no routed scaling", "router_weights", "experts.scale", (1, 2))
def _(model: Any, block: int) -> None:
    mlp(model, block).gate.routed_scaling_factor = 1.0


@fault("glm4_moe", "weights not normalised", "router_weights", "experts.normalised", (1, 2))
def _(model: Any, block: int) -> None:
    mlp(model, block).gate.norm_topk_prob = False


@fault("glm4_moe", "groups without a say", "expert_choice", "experts.groups", (1, 2))
def _(model: Any, block: int) -> None:
    mlp(model, block).gate.topk_group = 4


@fault("glm4_moe", "no correction", "expert_choice", "experts.correction", (1, 2))
def _(model: Any, block: int) -> None:
    mlp(model, block).gate.e_score_correction_bias.zero_()


@fault("glm4_moe", "softmax for sigmoid", "router_weights", "experts.score", (1, 2))
def _(model: Any, block: int) -> None:
    def change(logits: Tensor, weights: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
        scores = logits.softmax(-1).gather(1, choice)
        return scores / scores.sum(-1, keepdim=True) * 1.7, choice

    routed(mlp(model, block).gate, change)


@fault("gpt_oss", "not clamped", "expert_out", "experts.swiglu_limit")
def _(model: Any, block: int) -> None:
    mlp(model, block).experts.limit = 1e9


@fault("gpt_oss", "silu for the sigmoid of 1.702", "expert_out", "experts.swiglu_alpha")
def _(model: Any, block: int) -> None:
    mlp(model, block).experts.alpha = 1.0


@fault("gpt_oss", "up without its 1", "expert_out", "experts.swiglu")
def _(model: Any, block: int) -> None:
    experts = mlp(model, block).experts

    def gate(both: Tensor) -> Tensor:
        gate, up = both[..., ::2].clamp(max=experts.limit), both[..., 1::2].clamp(-experts.limit, experts.limit)
        return up * (gate * torch.sigmoid(gate * experts.alpha))

    experts._apply_gate = gate


@fault("gpt_oss", "no biases of experts", "expert_out", "experts.bias")
def _(model: Any, block: int) -> None:
    experts = mlp(model, block).experts
    experts.gate_up_proj_bias.zero_()
    experts.down_proj_bias.zero_()


# Mistakes of other kinds


@fault("qwen3 with yarn", "another factor", "q_rope k_rope", "rope.scaling")
def _(model: Any, block: int) -> None:
    speeds = 1e3 ** (-torch.arange(0, 16, 2).float() / 16)
    low, high = (16 * math.log(16 / (turns * 2 * math.pi)) / (2 * math.log(1e3)) for turns in (3.0, 1.0))
    low, high = max(math.floor(low), 0), math.ceil(high)
    divided = ((torch.arange(8).float() - low) / (high - low)).clamp(0, 1)
    turns_at(attention(model, block), speeds * (divided / 2.0 + 1 - divided), 0.1 * math.log(4.0) + 1)


@fault("llama with llama3 scaling", "another factor", "q_rope k_rope", "rope.scaling")
def _(model: Any, block: int) -> None:
    speeds = 1e3 ** (-torch.arange(0, 16, 2).float() / 16)
    kept = ((16 * speeds / (2 * math.pi) - 1) / 3).clamp(0, 1)
    turns_at(attention(model, block), (1 - kept) * speeds / 8.0 + kept * speeds)


@fault("olmo2", "the norm before attention", "q_proj k_proj v_proj attn_post_norm", "attn_post_norm.place")
def _(model: Any, block: int) -> None:
    norm = layer(model, block).post_attention_layernorm
    reads(attention(model, block), "hidden_states", norm.forward)
    skipped(norm)


@fault("gpt_neox", "the fused matrix read as q, k and v in turn", "q_proj k_proj v_proj", "linear.fused")
def _(model: Any, block: int) -> None:
    fused = attention(model, block).query_key_value
    for value in (fused.weight, fused.bias):
        value.data = value.data.view(3, 4, 16, -1).transpose(0, 1).reshape(value.shape)


@fault("glm4_moe", "weights over all experts", "router_weights", "experts.normalised", (1, 2))
def _(model: Any, block: int) -> None:
    def change(logits: Tensor, weights: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
        scores = logits.sigmoid()
        return scores.gather(1, choice) / scores.sum(-1, keepdim=True) * 1.7, choice

    routed(mlp(model, block).gate, change)


@outside("cohere2", "logits divided by their scale", "logits", "logits.scale")
def _(model: Any, block: int) -> None:
    model.logit_scale = 1 / model.logit_scale


@fault("olmoe", "another activation of the experts", "expert_out", "ffn.activation")
def _(model: Any, block: int) -> None:
    mlp(model, block).experts.act_fn = nn.GELU()
