"""Apertus: norms of q and k, and a plain feed-forward network with xIELU, whose numbers each block has learned."""

from collections.abc import Callable

from ....graphs.decoder_config import RopeScaling, Xielu
from ..fields import Fields
from ..metadata import Metadata
from .family import DecoderFamily, HfTensors, Settings

_BASE = 12_000_000.0
_SCALING = RopeScaling("llama3", 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0)
_NUMBERS = ("alpha_p", "alpha_n", "beta", "eps")
_IN_HF, _IN_GGUF = "mlp.act_fn.", "xielu."


def _from_hf(read: Fields) -> Settings:
    activation = read.activation(default="xielu")
    return {
        "biases": ("attn_output",) * read.flag("attention_bias", False),
        **({"rope_base": read.rope_base(_BASE)} if read.rope() else {"rope_base": _BASE, "rope_scaling": _SCALING}),
        **(_xielu(read.of_blocks, _IN_HF) if activation == "xielu" else {"activation": activation}),
    }


def _from_gguf(read: Metadata) -> Settings:
    return _xielu(read.of_blocks, _IN_GGUF)


def _xielu(of_blocks: Callable[[str], tuple[float, ...]], before: str) -> Settings:
    columns = [of_blocks(before + name) for name in _NUMBERS]
    return {"activation": "xielu", "xielu": tuple(Xielu(*row) for row in zip(*columns, strict=True))}


APERTUS = DecoderFamily(
    "apertus",
    ("apertus",),
    {"gated": False, "qk_norm": True},
    _from_hf,
    _from_gguf,
    may_have_biases=("attn_output",),
    hf_tensors=HfTensors(settings=tuple(_IN_HF + name for name in _NUMBERS)),
)
