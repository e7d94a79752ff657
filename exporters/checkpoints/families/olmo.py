"""OLMo 2, whose norms come after a sublayer, and OLMoE; both norm q and k over the whole projection."""

from ..fields import Fields
from ..metadata import Metadata
from .family import DecoderFamily, Settings
from .routing import experts_from_hf, routed_from_gguf

_QK: Settings = {"qk_norm": True, "qk_norm_over": "projection"}


def _biases(read: Fields) -> Settings:
    return {"biases": ("attn_output",) * read.flag("attention_bias", False)}


def _olmoe_from_hf(read: Fields) -> Settings:
    experts = experts_from_hf(read, read.count("intermediate_size"), normalised=read.flag("norm_topk_prob", False))
    return {**_biases(read), "experts": experts, "clip_qkv": read.optional_number("clip_qkv")}


def _olmoe_from_gguf(read: Metadata) -> Settings:
    return {**routed_from_gguf(read), "clip_qkv": read.optional_number("attention.clamp_kqv")}


OLMO2 = DecoderFamily("olmo2", ("olmo2",), {**_QK, "norm_place": "after"}, _biases)
OLMOE = DecoderFamily("olmoe", ("olmoe",), _QK, _olmoe_from_hf, _olmoe_from_gguf)
