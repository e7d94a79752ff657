"""Qwen 2 and 3, and their mixtures of experts."""

from typing import Any

from ..fields import Fields, unsupported
from ..metadata import Metadata
from .family import DecoderFamily, Settings
from .routing import experts_from_hf, routed_from_gguf


def _windows(read: Fields) -> Settings:
    return {
        "windows": read.windows(
            in_use=read.flag("use_sliding_window", False),
            first=0 if read.get("max_window_layers") in (None, 0) else read.count("max_window_layers"),
        )
    }


def _qwen3(read: Fields) -> Settings:
    return {**_windows(read), "biases": ("attn_output",) * read.flag("attention_bias", False)}


def _blocks_with_experts(read: Fields) -> tuple[bool, ...]:
    dense, step = read.get("mlp_only_layers") or [], read.count("decoder_sparse_step", 1)
    if not isinstance(dense, list):
        raise unsupported("blocks that are no list", "mlp_only_layers", dense)
    blocks = tuple((n + 1) % step == 0 and n not in dense for n in range(read.count("num_hidden_layers")))
    return () if all(blocks) else blocks


def _routed(read: Fields, **shared: Any) -> Settings:
    width, normalised = read.count("moe_intermediate_size"), read.flag("norm_topk_prob", False)
    experts = experts_from_hf(read, width, normalised=normalised, **shared)
    return {"experts": experts, "expert_blocks": _blocks_with_experts(read)}


def _qwen3_moe(read: Fields) -> Settings:
    return {**_qwen3(read), **_routed(read)}


def _qwen2_moe(read: Fields) -> Settings:
    shared_width = read.count("shared_expert_intermediate_size")
    return {**_windows(read), **_routed(read, shared_width=shared_width, shared_gate=True)}


def _qwen3_moe_from_gguf(read: Metadata) -> Settings:
    return routed_from_gguf(read, normalised=True)


def _qwen2_moe_from_gguf(read: Metadata) -> Settings:
    return routed_from_gguf(read, shared_gate=True)


QWEN3 = DecoderFamily("qwen3", ("qwen3",), {"qk_norm": True}, _qwen3, may_have_biases=("attn_output",), head_dim=128)
QWEN2 = DecoderFamily("qwen2", ("qwen2",), {"attention_bias": True}, _windows)
QWEN3_MOE = DecoderFamily(
    "qwen3moe", ("qwen3_moe",), {"qk_norm": True}, _qwen3_moe, _qwen3_moe_from_gguf, may_have_biases=("attn_output",)
)
QWEN2_MOE = DecoderFamily("qwen2moe", ("qwen2_moe",), {"attention_bias": True}, _qwen2_moe, _qwen2_moe_from_gguf)
