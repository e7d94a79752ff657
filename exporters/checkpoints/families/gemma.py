"""Gemma 2 and 3: norms on both sides of a sublayer, gains that HF stores less one, windows in most blocks."""

from ..fields import SLIDING, Fields, unsupported
from ..metadata import Metadata
from .family import DecoderFamily, HfTensors, Settings

_SETTINGS: Settings = {"norm_place": "both", "activation": "gelu_tanh"}
_TENSORS = HfTensors(gains_without_one=True)


def _hf(read: Fields, every: int) -> Settings:
    read.refuse("use_bidirectional_attention", "attention to later tokens", None, False)
    return {
        "windows": read.windows(every=every),
        "tied_head": read.flag("tie_word_embeddings", True),
        "activation": read.activation("hidden_activation", "gelu_pytorch_tanh"),
        "embedding_scale": read.count("hidden_size") ** 0.5,
        "attention_scale": read.number("query_pre_attn_scalar", 256) ** -0.5,
        "score_softcap": read.optional_number("attn_logit_softcapping"),
        "logit_softcap": read.optional_number("final_logit_softcapping"),
    }


def _gemma2_from_hf(read: Fields) -> Settings:
    return {**_hf(read, 2)}


def _gemma3_from_hf(read: Fields) -> Settings:
    local = read.rope(SLIDING)
    base = local.get("rope_theta") if local is not read.rope() else None
    if local.get("rope_type", "default") != "default" and base is not None:
        raise unsupported("RoPE scaling in blocks with a window", "rope_type", local["rope_type"])
    base = read.number("rope_local_base_freq", 10_000.0) if base is None else base
    every = read.count("sliding_window_pattern", read.count("_sliding_window_pattern", 6))
    return {**_hf(read, every), "rope_base": read.rope_base(1_000_000.0), "local_rope_base": base}


def _gguf(read: Metadata, every: int, of_width_by_heads: int) -> Settings:
    """llama.cpp knows by its number of blocks the one size whose scores are scaled otherwise."""
    n_blocks, width, n_heads = (
        read.count("block_count"),
        read.count("embedding_length"),
        read.count("attention.head_count"),
    )
    return {
        "windows": read.windows(every, n_blocks),
        "embedding_scale": width**0.5,
        "attention_scale": (width / n_heads) ** -0.5 if n_blocks == of_width_by_heads else None,
    }


def _gemma2_from_gguf(read: Metadata) -> Settings:
    return {
        **_gguf(read, 2, 46),
        "score_softcap": read.number("attn_logit_softcapping", 50.0),
        "logit_softcap": read.number("final_logit_softcapping", 30.0),
    }


def _gemma3_from_gguf(read: Metadata) -> Settings:
    return {
        **_gguf(read, 6, 62),
        "logit_softcap": read.optional_number("final_logit_softcapping"),
        "rope_base": read.number("rope.freq_base", 1_000_000.0),
        "local_rope_base": read.number("rope.freq_base_swa", 10_000.0),
    }


GEMMA2 = DecoderFamily(
    "gemma2", ("gemma2",), _SETTINGS, _gemma2_from_hf, _gemma2_from_gguf, hf_tensors=_TENSORS, head_dim=256
)
GEMMA3 = DecoderFamily(
    "gemma3",
    ("gemma3_text",),
    {**_SETTINGS, "qk_norm": True},
    _gemma3_from_hf,
    _gemma3_from_gguf,
    hf_tensors=_TENSORS,
    head_dim=256,
)
