"""A model of transformers as the GGUF file that llama.cpp's converter makes of it, written down here from its rules.

Source: llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from corpus.vocabulary import write_vocabulary
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, ExpertGatingFuncType, GGUFWriter, RopeScalingType
from gguf.tensor_mapping import get_tensor_name_map
from safetensors.torch import load_file
from torch import Tensor

from families.models import VOCAB_SIZE

ARCHITECTURES = {
    "mistral": "llama",
    "mixtral": "llama",
    "gemma3_text": "gemma3",
    "gpt_neox": "gptneox",
    "qwen3_moe": "qwen3moe",
    "qwen2_moe": "qwen2moe",
    "glm4_moe": "glm4moe",
    "gpt_oss": "gpt-oss",
}
_PERMUTED = ("llama", "granite", "granitemoe", "smollm3")
_LAYER_NORMS = ("cohere2", "stablelm", "gptneox", "gpt2", "starcoder2")


def family_gguf(model: Any, path: Path) -> Path:
    """Write the model as a GGUF file in float32, with a vocabulary that llama.cpp loads."""
    config = model.config
    architecture = ARCHITECTURES.get(config.model_type, config.model_type)
    writer = GGUFWriter(path, architecture)
    _write_shape(writer, config, architecture)
    _write_rope(writer, config, architecture)
    folder = path.with_suffix(".hf")
    model.save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    _write_choices(writer, config, architecture, stored)
    write_vocabulary(writer, VOCAB_SIZE)
    for name, value in _tensors(stored, config, architecture):
        writer.add_tensor(name, value.contiguous().float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_shape(writer: GGUFWriter, config: Any, architecture: str) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or config.n_inner)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if architecture not in ("gptneox", "gpt2"):
        writer.add_head_count_kv(config.num_key_value_heads)
    if getattr(config, "head_dim", None) and architecture not in ("phi3", "granite", "granitemoe"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    names = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
    eps = next(getattr(config, name) for name in names if hasattr(config, name))
    (writer.add_layer_norm_eps if architecture in _LAYER_NORMS else writer.add_layer_norm_rms_eps)(eps)


def _write_rope(writer: GGUFWriter, config: Any, architecture: str) -> None:
    if architecture == "gpt2":
        return
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(rope["rope_theta"])
    if architecture == "gemma3":
        writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(rope.get("beta_slow", 1.0))
    elif rope["rope_type"] == "longrope":
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
        scale = config.max_position_embeddings / config.original_max_position_embeddings
        writer.add_rope_scaling_attn_factors(
            (1 + math.log(scale) / math.log(config.original_max_position_embeddings)) ** 0.5
        )


def _write_choices(writer: GGUFWriter, config: Any, architecture: str, tensors: dict[str, Tensor]) -> None:
    if architecture in ("gemma2", "gemma3", "cohere2", "phi3", "gpt-oss"):
        writer.add_sliding_window(config.sliding_window or 0)
    if architecture == "gemma3":
        writer.add_sliding_window_pattern(2)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if architecture.startswith("granite"):
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if architecture == "cohere2":
        writer.add_logit_scale(config.logit_scale)
    if architecture in ("gptneox", "stablelm"):
        writer.add_parallel_residual(config.use_parallel_residual)
    if architecture == "apertus":
        _write_xielu(writer, tensors)
    if getattr(config, "clip_qkv", None):
        writer.add_clamp_kqv(config.clip_qkv)
    if getattr(config, "num_experts_per_tok", None):
        _write_experts(writer, config, architecture)


def _write_xielu(writer: GGUFWriter, tensors: dict[str, Tensor]) -> None:
    """Takes the numbers of each block's activation out of the tensors. Source: ApertusModel.modify_tensors."""
    adds = {
        "alpha_p": writer.add_xielu_alpha_p,
        "alpha_n": writer.add_xielu_alpha_n,
        "beta": writer.add_xielu_beta,
        "eps": writer.add_xielu_eps,
    }
    for name, add in adds.items():
        by_block = {int(key.split(".")[2]): key for key in tensors if key.endswith(f".act_fn.{name}")}
        add([tensors.pop(by_block[n]).float().item() for n in sorted(by_block)])


def _write_experts(writer: GGUFWriter, config: Any, architecture: str) -> None:
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    writer.add_expert_count(next(getattr(config, name) for name in names if hasattr(config, name)))
    writer.add_expert_used_count(config.num_experts_per_tok)
    if architecture == "gpt-oss":
        writer.add_expert_feed_forward_length(config.intermediate_size)
    if hasattr(config, "moe_intermediate_size"):
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if architecture == "qwen2moe":
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    if architecture == "glm4moe":
        writer.add_expert_shared_count(config.n_shared_experts)
        writer.add_leading_dense_block_count(config.first_k_dense_replace)
        writer.add_expert_weights_scale(config.routed_scaling_factor)
        writer.add_expert_weights_norm(config.norm_topk_prob)
        writer.add_expert_group_count(config.n_group)
        writer.add_expert_group_used_count(config.topk_group)
        writer.add_expert_gating_func(ExpertGatingFuncType.SIGMOID)


def _tensors(stored: dict[str, Tensor], config: Any, architecture: str) -> Iterator[tuple[str, Tensor]]:
    """GGUF's tensors, by name."""
    known = get_tensor_name_map(
        next(key for key, name in MODEL_ARCH_NAMES.items() if name == architecture), config.num_hidden_layers
    )
    dense = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for hf_name, value in _stacked(stored):
        for name, part in _modified(hf_name, value, config, architecture):
            found = known.get_name(name, (".weight", ".bias")) or dense.get_name(name, (".weight", ".bias"))
            assert found is not None, name
            yield found, part
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        for length in ("long", "short"):
            yield f"rope_factors_{length}.weight", torch.tensor(rope[f"{length}_factor"])
    if rope.get("rope_type") == "llama3":
        yield "rope_freqs.weight", _llama3_factors(config, rope)


def _stacked(stored: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """What is stored for each expert, or each head, in one tensor."""
    listed: dict[str, dict[int, Tensor]] = {}
    for name, value in stored.items():
        found = re.fullmatch(r"(.*\.(?:experts|norms))\.(\d+)(\..*)", name)
        if found is None:
            yield name, value
        else:
            listed.setdefault(found[1] + found[3], {})[int(found[2])] = value
    for name, values in listed.items():
        yield (
            name.replace("q_layernorm.norms", "q_layernorm").replace("k_layernorm.norms", "k_layernorm"),
            torch.stack([values[n] for n in sorted(values)]),
        )


def _modified(name: str, value: Tensor, config: Any, architecture: str) -> Iterator[tuple[str, Tensor]]:
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        yield name, value + 1
    elif architecture in _PERMUTED and re.search(r"[qk]_proj\.", name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        halves = value.reshape(heads, 2, -1, *value.shape[1:])
        yield name, halves.swapaxes(1, 2).reshape(value.shape)
    elif architecture == "gptneox" and "query_key_value" in name:
        by_head = value.reshape(config.num_attention_heads, 3, -1, *value.shape[1:])
        yield name, torch.cat([by_head[:, i].flatten(0, 1) for i in range(3)])
    elif architecture == "gpt2" and re.search(r"(c_attn|c_proj|c_fc)\.weight", name):
        yield name, value.T
    elif "input_linear" in name:
        gate, up = value.chunk(2, dim=1)
        before = name.removesuffix(".input_linear.weight")
        yield f"{before}.experts.w1.weight", gate
        yield f"{before}.experts.w3.weight", up
    elif architecture == "gpt-oss" and "mlp.experts" in name:
        yield from _of_gpt_oss(name, value)
    elif name.endswith("shared_expert_gate.weight"):
        yield name, value.squeeze()
    elif name.endswith("e_score_correction_bias"):
        yield name.replace("e_score_correction_bias", "e_score_correction.bias"), value
    else:
        yield name + (".weight" if name.endswith("sinks") else ""), value


def _of_gpt_oss(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    kind = "bias" if name.endswith("_bias") else "weight"
    value = value if kind == "bias" else value.swapaxes(1, 2)
    before, _, part = name.removesuffix("_bias").rpartition(".")
    if part == "down_proj":
        yield f"{before}.down_proj.{kind}", value
    else:
        yield f"{before}.gate_proj.{kind}", value[:, 0::2]
        yield f"{before}.up_proj.{kind}", value[:, 1::2]


def _llama3_factors(config: Any, rope: dict[str, Any]) -> Tensor:
    """Source: LlamaModel.generate_extra_tensors."""
    dim = config.hidden_size // config.num_attention_heads
    speeds = 1.0 / rope["rope_theta"] ** (torch.arange(0, dim, 2).float() / dim)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    original, factors = rope["original_max_position_embeddings"], []
    for length in (2 * torch.pi / speeds).tolist():
        if length < original / high:
            factors.append(1.0)
        elif length > original / low:
            factors.append(rope["factor"])
        else:
            smooth = (original / length - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return torch.tensor(factors)
