"""gpt-oss: attention sinks, windows in every other block, experts with a clamped activation and biases, yarn."""

from dataclasses import replace

from ..fields import Fields
from ..metadata import Metadata
from .family import DecoderFamily, HfTensors, Settings
from .routing import experts_from_hf, routed_from_gguf

_EVERY = 2
_ROUTER = {"score": "softmax_of_chosen", "biases": True}


def _from_hf(read: Fields) -> Settings:
    limits = {"swiglu_limit": read.number("swiglu_limit", 7.0), "swiglu_alpha": read.number("swiglu_alpha", 1.702)}
    return {
        "windows": read.windows(every=_EVERY),
        "experts": experts_from_hf(read, read.count("intermediate_size"), **_ROUTER, **limits),
        "biases": ("attn_output",) * read.flag("attention_bias", True),
        "attention_bias": read.flag("attention_bias", True),
    }


def _from_gguf(read: Metadata) -> Settings:
    """Its yarn does not round to whole channels; the metadata do not say so."""
    scaling = read.rope_scaling()
    return {
        "windows": read.windows(_EVERY, read.count("block_count")),
        **routed_from_gguf(read, **_ROUTER, swiglu_limit=7.0),
        "rope_scaling": scaling if scaling is None else replace(scaling, truncated=False),
    }


GPT_OSS = DecoderFamily(
    "gpt-oss",
    ("gpt_oss",),
    {"sinks": True},
    _from_hf,
    _from_gguf,
    may_have_biases=("attn_output",),
    head_dim=64,
    gguf_names={"post_attention_norm": "ffn_norm"},
    hf_tensors=HfTensors(
        experts_in_out=True,
        renamed={
            "mlp.experts.gate_up_proj": "ffn_gate_up_exps",
            "mlp.experts.down_proj": "ffn_down_exps",
            "self_attn.sinks": "attn_sinks",
            "post_attention_layernorm": "ffn_norm",
        },
    ),
)
