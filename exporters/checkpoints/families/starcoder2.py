"""StarCoder2: LayerNorms, a plain feed-forward network, biases everywhere, a window in every block."""

from ..fields import Fields
from .family import DecoderFamily, Settings

_NORMS = ("attn_norm", "ffn_norm", "output_norm")
_LINEAR = ("attn_output", "ffn_up", "ffn_down")


def _from_hf(read: Fields) -> Settings:
    has_biases = read.flag("use_bias", True)
    return {
        "windows": read.windows(),
        "attention_bias": has_biases,
        "biases": (*_NORMS, *(_LINEAR * has_biases)),
        "activation": read.activation(default="gelu_pytorch_tanh"),
        "tied_head": read.flag("tie_word_embeddings", True),
    }


STARCODER2 = DecoderFamily(
    "starcoder2",
    ("starcoder2",),
    {"norm_kind": "layer_norm", "gated": False, "activation": "gelu_tanh"},
    _from_hf,
    may_have_biases=(*_NORMS, *_LINEAR),
    hf_names={"rms_norm_eps": "norm_epsilon"},
)
