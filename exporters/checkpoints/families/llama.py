"""Llama; Mistral, which has a window; Mixtral, which has experts. GGUF has one architecture for them."""

from ..fields import Fields
from ..metadata import Metadata
from .family import DecoderFamily, HfTensors, Settings
from .routing import experts_from_hf, routed_from_gguf

_MLP = ("ffn_gate", "ffn_up", "ffn_down")


def _from_hf(read: Fields) -> Settings:
    biases = (*(("attn_output",) * read.flag("attention_bias", False)), *(_MLP * read.flag("mlp_bias", False)))
    if read.get("model_type") == "llama":
        return {"biases": biases}
    windows = read.windows()
    if read.get("model_type") == "mistral":
        return {"windows": windows}
    return {"windows": windows, "experts": experts_from_hf(read, read.count("intermediate_size"), normalised=True)}


def _from_gguf(read: Metadata) -> Settings:
    return routed_from_gguf(read, normalised=True)


LLAMA = DecoderFamily(
    "llama",
    ("llama", "mistral", "mixtral"),
    from_hf=_from_hf,
    from_gguf=_from_gguf,
    may_have_biases=("attn_output", *_MLP),
    hf_tensors=HfTensors(paired_rows=True),
)
