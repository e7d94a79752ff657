"""Granite: a Llama with multipliers of embedding, scores, residual and logits; with experts or without."""

from ..fields import Fields
from ..metadata import Metadata
from .family import DecoderFamily, HfTensors, Settings
from .routing import experts_from_hf, routed_from_gguf

_MLP = ("ffn_gate", "ffn_up", "ffn_down")


def _from_hf(read: Fields) -> Settings:
    return {
        "embedding_scale": read.number("embedding_multiplier", 1.0),
        "attention_scale": read.number("attention_multiplier", 1.0),
        "residual_scale": read.number("residual_multiplier", 1.0),
        "logit_scale": 1.0 / read.number("logits_scaling", 1.0),
        "biases": (*(("attn_output",) * read.flag("attention_bias", False)), *(_MLP * read.flag("mlp_bias", False))),
    }


def _moe_from_hf(read: Fields) -> Settings:
    experts = experts_from_hf(read, read.count("intermediate_size"), score="softmax_of_chosen")
    return {**_from_hf(read), "experts": experts}


def _from_gguf(read: Metadata) -> Settings:
    return {
        "embedding_scale": read.optional_number("embedding_scale") or 1.0,
        "attention_scale": read.optional_number("attention.scale"),
        "residual_scale": read.optional_number("residual_scale") or 1.0,
        "logit_scale": 1.0 / (read.optional_number("logit_scale") or 1.0),
        **routed_from_gguf(read, score="softmax_of_chosen"),
    }


GRANITE = DecoderFamily(
    "granite",
    ("granite",),
    {"interleaved": True},
    _from_hf,
    _from_gguf,
    may_have_biases=("attn_output", *_MLP),
    hf_tensors=HfTensors(paired_rows=True),
)
GRANITE_MOE = DecoderFamily(
    "granitemoe",
    ("granitemoe",),
    {"interleaved": True},
    _moe_from_hf,
    _from_gguf,
    may_have_biases=("attn_output",),
    hf_tensors=HfTensors(
        paired_rows=True,
        renamed={
            "block_sparse_moe.input_linear": "ffn_gate_up_exps",
            "block_sparse_moe.output_linear": "ffn_down_exps",
        },
    ),
)
