"""Tiny transformers models with fixed random weights, one or more of each family that opdiff's own decoder covers."""

from __future__ import annotations

from typing import Any

import torch
import transformers

N_TOKENS = 24  # more than any window and original context here
VOCAB_SIZE = 288
WINDOW = 6
_NO_TOKENS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
_SHAPE = dict(
    num_hidden_layers=3,
    hidden_size=64,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=96,
    vocab_size=VOCAB_SIZE,
    max_position_embeddings=64,
    **_NO_TOKENS,
)
_GPT2 = dict(n_layer=3, n_embd=64, n_head=4, n_inner=96, vocab_size=VOCAB_SIZE, n_positions=64, **_NO_TOKENS)
_MULTIPLIERS = dict(attention_multiplier=0.3, embedding_multiplier=3.0, logits_scaling=2.5, residual_multiplier=0.4)
_HEAD = {"head_dim": 16}
_WINDOW = {"sliding_window": WINDOW}
_GEMMA = {**_HEAD, **_WINDOW, "query_pre_attn_scalar": 24}
_FOUR_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
_SLIDING, _FULL = "sliding_attention", "full_attention"


def _rope(kind: str = "default", base: float = 1e3, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": base, **more}}


_LONGROPE = _rope(
    "longrope", partial_rotary_factor=0.5, short_factor=[1.1, 1.2, 1.3, 1.4], long_factor=[2.0, 3.0, 4.0, 5.0]
)
_YARN = _rope("yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=3.0)
_LLAMA3 = _rope("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
_TWO_BASES = {
    "rope_parameters": {
        _FULL: {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e5},
        _SLIDING: {"rope_type": "default", "rope_theta": 1e3},
    }
}

# name: transformers' prefix, and what the configuration has beside the common shape
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("Mistral", {**_HEAD, **_WINDOW}),
    "gemma2": ("Gemma2", {**_GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3Text", {**_GEMMA, **_TWO_BASES, "layer_types": [_SLIDING, _FULL, _SLIDING]}),
    "phi3": ("Phi3", {"sliding_window": 7, "original_max_position_embeddings": 8, **_LONGROPE}),
    "olmo2": ("Olmo2", {}),
    "granite": ("Granite", _MULTIPLIERS),
    "glm4": ("Glm4", _HEAD),
    "cohere2": ("Cohere2", {**_HEAD, **_WINDOW, "num_hidden_layers": 4, "layer_types": [_SLIDING] * 3 + [_FULL]}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 4}),
    "stablelm": ("StableLm", {"use_qkv_bias": True}),
    "stablelm in parallel": ("StableLm", {"use_parallel_residual": True, "qk_layernorm": True}),
    "gpt_neox": ("GPTNeoX", {}),
    "gpt2": ("GPT2", _GPT2),
    "starcoder2": ("Starcoder2", _WINDOW),
    "mixtral": ("Mixtral", _FOUR_EXPERTS),
    "qwen3_moe": (
        "Qwen3Moe",
        {**_HEAD, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True},
    ),
    "qwen3_moe with a dense block": (
        "Qwen3Moe",
        {**_HEAD, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "mlp_only_layers": [1]},
    ),
    "qwen2_moe": (
        "Qwen2Moe",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 48,
        },
    ),
    "olmoe": ("Olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "olmoe clipped": ("Olmoe", {"num_experts": 4, "num_experts_per_tok": 2, "clip_qkv": 0.7}),
    "granitemoe": ("GraniteMoe", {**_FOUR_EXPERTS, **_MULTIPLIERS}),
    "glm4_moe": (
        "Glm4Moe",
        {
            **_HEAD,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 1.7,
            "use_qk_norm": True,
            "n_shared_experts": 2,
        },
    ),
    "gpt_oss": (
        "GptOss",
        {
            **_HEAD,
            **_WINDOW,
            **_FOUR_EXPERTS,
            "swiglu_limit": 1.5,
            **_rope(
                "yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=32.0, beta_slow=1.0, truncate=False
            ),
        },
    ),
    "apertus": ("Apertus", _LLAMA3),
    "qwen3 with yarn": ("Qwen3", {**_HEAD, **_YARN}),
    "llama with llama3 scaling": ("Llama", _LLAMA3),
    "llama with linear scaling": ("Llama", _rope("linear", factor=4.0)),
    "llama with dynamic scaling": ("Llama", {"max_position_embeddings": 12, **_rope("dynamic", factor=4.0)}),
}
# What GGUF cannot say of a family is as llama.cpp has it.
AS_GGUF_SAYS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "starcoder2": {"sliding_window": None},
    "gemma2": {"query_pre_attn_scalar": 16},
    "gemma3": {"query_pre_attn_scalar": 16},
    "gpt_oss": {"swiglu_limit": 7.0},
    "qwen3_moe with a dense block": {"norm_topk_prob": True},
}
_CLASSES = {"Gemma3Text": "Gemma3ForCausalLM", "GPT2": "GPT2LMHeadModel"}


def tokens() -> torch.Tensor:
    """int64 [24]."""
    return torch.randint(0, 256, (N_TOKENS,), generator=torch.Generator().manual_seed(3))


def family_model(kind: str, **changes: Any) -> Any:
    """A fresh causal LM of that kind, its weights the same at each call: gains far from 1, biases that matter."""
    prefix, settings = KINDS[kind]
    shape = {} if prefix == "GPT2" else _SHAPE
    config = getattr(transformers, f"{prefix}Config")(
        **{**shape, **settings, **changes, "attn_implementation": "eager"}
    )
    model = getattr(transformers, _CLASSES.get(prefix, f"{prefix}ForCausalLM"))(config)
    generator = torch.Generator().manual_seed(1)
    corrections = [(name, buffer) for name, buffer in model.named_buffers() if "correction" in name]
    for name, parameter in (*model.named_parameters(), *corrections):
        _fill(name, parameter.data, generator, around_one=not prefix.startswith("Gemma"))
    return model.eval().requires_grad_(False)


def _fill(name: str, value: torch.Tensor, generator: torch.Generator, around_one: bool) -> None:
    is_norm = "norm" in name or ".ln_" in name
    if is_norm and not name.endswith("bias"):
        low, high = (0.5, 2.0) if around_one else (-0.5, 1.0)  # Gemma's gains are less one
        value.uniform_(low, high, generator=generator)
    elif value.ndim == 1 or "bias" in name:
        value.uniform_(-0.5, 0.5, generator=generator)
    else:
        is_table = any(word in name for word in ("embed", "wte", "wpe")) and "out" not in name
        value.normal_(generator=generator).mul_(1.0 if is_table else value.shape[-1] ** -0.5)
