"""StableLM 2: LayerNorms, RoPE over a quarter of a head; the largest has parallel sublayers, and a norm for each head."""

from ..fields import Fields
from ..metadata import Metadata
from .family import DecoderFamily, HfTensors, Settings

_NORMS = ("attn_norm", "ffn_norm", "output_norm")


def _from_hf(read: Fields) -> Settings:
    head_dim = read.count("hidden_size") // read.count("num_attention_heads")
    is_parallel = read.flag("use_parallel_residual", False)
    return {
        "biases": tuple(norm for norm in _NORMS if not is_parallel or norm != "ffn_norm"),
        "attention_bias": read.flag("use_qkv_bias", False),
        "rotary_dim": int(head_dim * read.rotated_share(0.25)),
        "parallel": "one_norm" if is_parallel else "no",
        "qk_norm": read.flag("qk_layernorm", False),
    }


def _from_gguf(read: Metadata) -> Settings:
    """llama.cpp goes by the second norm, whatever the metadata say."""
    return {"parallel": "no" if read.has("ffn_norm.weight") else "one_norm"}


STABLELM = DecoderFamily(
    "stablelm",
    ("stablelm",),
    {"norm_kind": "layer_norm", "qk_norm_over": "each_head"},
    _from_hf,
    _from_gguf,
    may_have_biases=_NORMS,
    hf_names={"rms_norm_eps": "layer_norm_eps"},
    hf_tensors=HfTensors(
        renamed={"self_attn.q_layernorm.norms": "attn_q_norm", "self_attn.k_layernorm.norms": "attn_k_norm"}
    ),
    is_partly_rotated=True,
)
