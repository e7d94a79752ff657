"""Tiny models of many families at random weights, as HF folders: two or more blocks, and nothing of them an identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

N_TOKENS, VOCAB_SIZE = 9, 96
TOKENS = (1, 5, 3, 17, 42, 5, 88, 60, 31)
_COMMON = dict(
    num_hidden_layers=2,
    hidden_size=32,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    vocab_size=VOCAB_SIZE,
    max_position_embeddings=64,
    pad_token_id=None,
    bos_token_id=1,
    eos_token_id=2,
)
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.25, 1.5, 2.0],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 4,
}
_MOE: dict[str, Any] = dict(num_experts_per_tok=2, moe_intermediate_size=24)
_SLIDING = dict(sliding_window=4, layer_types=["sliding_attention", "full_attention"])
_MIXERS = dict(mamba_d_state=8, mamba_d_conv=4, mamba_expand=2, mamba_n_heads=4, mamba_d_head=16, mamba_n_groups=1)
_BLOOM = dict(hidden_size=32, n_layer=2, n_head=4, vocab_size=VOCAB_SIZE, pad_token_id=None)

# name -> (model_type of transformers, what its configuration has beside `_COMMON`)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("mistral", dict(sliding_window=4)),
    "gemma2": ("gemma2", dict(head_dim=8, query_pre_attn_scalar=16, final_logit_softcapping=5.0, **_SLIDING)),
    "gemma3": ("gemma3_text", dict(head_dim=8, query_pre_attn_scalar=16, **_SLIDING)),
    "phi3": ("phi3", dict(rope_parameters=_LONGROPE)),
    "olmo2": ("olmo2", {}),
    "granite": (
        "granite",
        dict(embedding_multiplier=3.0, attention_multiplier=0.3, residual_multiplier=0.4, logits_scaling=5.0),
    ),
    "glm4": ("glm4", dict(head_dim=8)),
    "cohere2": ("cohere2", dict(head_dim=8, **_SLIDING)),
    "smollm3": ("smollm3", dict(no_rope_layers=[1, 0])),
    "stablelm": ("stablelm", dict(qk_layernorm=True, use_parallel_residual=False)),
    "gpt_neox": ("gpt_neox", {}),
    "gpt2": ("gpt2", dict(n_embd=32, n_layer=2, n_head=4, n_positions=64, n_inner=48)),
    "starcoder2": ("starcoder2", dict(sliding_window=4)),
    "mixtral": ("mixtral", dict(num_local_experts=4, num_experts_per_tok=2)),
    "qwen3_moe": ("qwen3_moe", dict(num_experts=4, head_dim=8, **_MOE)),
    "olmoe": ("olmoe", dict(num_experts=4, **_MOE)),
    "granitemoe": ("granitemoe", dict(num_local_experts=4, num_experts_per_tok=2)),
    "gpt_oss": (
        "gpt_oss",
        dict(num_local_experts=4, num_experts_per_tok=2, head_dim=8, rope_parameters=_YARN, **_SLIDING),
    ),
    "qwen3_yarn": ("qwen3", dict(head_dim=8, rope_parameters=_YARN)),
    "llama3": ("llama", dict(head_dim=8, rope_parameters=_LLAMA3)),
    "mamba": ("mamba", dict(state_size=8)),
    "mamba2": ("mamba2", dict(state_size=8, num_heads=8, head_dim=8, n_groups=1, chunk_size=4)),
    "falcon_h1": ("falcon_h1", dict(mamba_d_ssm=64, head_dim=8, mamba_chunk_size=4, **_MIXERS)),
    "bamba": ("bamba", dict(attn_layer_indices=[1], mamba_chunk_size=4, **_MIXERS)),
    "jamba": (
        "jamba",
        dict(
            attn_layer_period=2,
            attn_layer_offset=1,
            expert_layer_period=2,
            expert_layer_offset=1,
            num_experts=4,
            num_experts_per_tok=2,
            mamba_d_state=8,
            mamba_dt_rank=4,
            use_mamba_kernels=False,
        ),
    ),
    "opt": ("opt", dict(ffn_dim=48, word_embed_proj_dim=32, pad_token_id=1)),
    "bloom": ("bloom", _BLOOM),
    "falcon": ("falcon", dict(new_decoder_architecture=True, num_kv_heads=2, bias=True)),
    "phi": ("phi", {}),
    "deepseek_v3": (
        "deepseek_v3",
        dict(
            n_routed_experts=8,
            num_experts_per_tok=2,
            n_shared_experts=1,
            n_group=2,
            topk_group=1,
            first_k_dense_replace=1,
            moe_intermediate_size=24,
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=8,
            num_key_value_heads=4,
        ),
    ),
    "nemotron": ("nemotron", dict(head_dim=8, norm_eps=1e-5)),
    "rwkv": ("rwkv", dict(attention_hidden_size=32, context_length=64)),
}


def tiny_hf(name: str) -> Any:
    """A fresh causal LM of the family, the same at each call."""
    import transformers

    kind, own = FAMILIES[name]
    config = transformers.AutoConfig.for_model(kind, **{**_COMMON, **own})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    generator = torch.Generator().manual_seed(8)
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and (isinstance(tensor, torch.nn.Parameter) or "bias" in key):
            _fill(key, tensor.data, generator)
    return model.eval().requires_grad_(False)


def _fill(key: str, tensor: Tensor, generator: torch.Generator) -> None:
    """Weights that keep activations near 1 in size, gains and biases that matter."""
    if "A_log" in key:
        tensor.uniform_(-1.0, 1.0, generator=generator)
    elif key.endswith("bias"):
        tensor.uniform_(-0.5, 0.5, generator=generator)
    elif tensor.ndim < 2:
        tensor.uniform_(0.5, 1.5, generator=generator)
    else:
        tensor.normal_(0.0, 1.0 if "embed" in key else tensor.shape[-1] ** -0.5, generator=generator)


def saved(name: str, folder: Path) -> Path:
    """The family's HF folder."""
    tiny_hf(name).save_pretrained(folder)
    return folder
