"""GPT-NeoX and Pythia: parallel sublayers behind two LayerNorms, RoPE over a quarter of a head, biases everywhere."""

from ..fields import Fields
from ..metadata import Metadata
from .family import DecoderFamily, HfTensors, Settings

_ALWAYS = ("attn_norm", "ffn_norm", "output_norm", "ffn_up", "ffn_down")
_PARALLEL = {True: "two_norms", False: "no"}


def _from_hf(read: Fields) -> Settings:
    has_biases = read.flag("attention_bias", True)
    head_dim = read.count("hidden_size") // read.count("num_attention_heads")
    share = read.rotated_share(read.number("rotary_pct", 0.25))
    return {
        "tied_head": read.flag("tie_word_embeddings", False),
        "n_kv_heads": read.count("num_attention_heads"),
        "parallel": _PARALLEL[read.flag("use_parallel_residual", True)],
        "attention_bias": has_biases,
        "biases": (*_ALWAYS, *(("attn_output",) * has_biases)),
        "activation": read.activation(default="gelu"),
        "rotary_dim": int(head_dim * share),
        "rope_base": read.rope_base(read.number("rotary_emb_base", 10_000.0)),
    }


def _from_gguf(read: Metadata) -> Settings:
    return {"parallel": _PARALLEL[read.flag("use_parallel_residual", True)]}


GPT_NEOX = DecoderFamily(
    "gptneox",
    ("gpt_neox",),
    {"norm_kind": "layer_norm", "gated": False, "activation": "gelu"},
    _from_hf,
    _from_gguf,
    may_have_biases=(*_ALWAYS, "attn_output"),
    hf_names={"rms_norm_eps": "layer_norm_eps"},
    hf_tensors=HfTensors(qkv_by_head=True),
    is_partly_rotated=True,
)
