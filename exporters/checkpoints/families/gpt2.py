"""GPT-2: learned positions, LayerNorms, biases everywhere, matrices that HF stores [in, out]."""

from ..fields import Fields
from .family import DecoderFamily, HfTensors, Settings

_BIASES = ("attn_norm", "ffn_norm", "output_norm", "attn_output", "ffn_up", "ffn_down")


def _from_hf(read: Fields) -> Settings:
    read.refuse("scale_attn_weights", "attention without a scale", None, True)
    read.refuse("scale_attn_by_inverse_layer_idx", "a scale that differs by layer", None, False)
    return {
        "biases": _BIASES,
        "attention_bias": True,
        "n_kv_heads": read.count(
            "num_attention_heads"
        ),  # whatever else its config.json may say of other families' keys
        "ffn_width": read.count("intermediate_size", 4 * read.count("hidden_size")),
        "activation": read.activation("activation_function", "gelu_new"),
        "tied_head": read.flag("tie_word_embeddings", True),
    }


GPT2 = DecoderFamily(
    "gpt2",
    ("gpt2",),
    {"norm_kind": "layer_norm", "gated": False, "activation": "gelu_tanh", "positions": "learned"},
    _from_hf,
    may_have_biases=_BIASES,
    hf_names={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
        "rms_norm_eps": "layer_norm_epsilon",
    },
    hf_tensors=HfTensors(transposed=True),
)
