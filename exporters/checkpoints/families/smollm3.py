"""SmolLM3: a Llama whose every fourth block is not rotated."""

from ..fields import Fields, unsupported
from ..metadata import Metadata
from .family import DecoderFamily, HfTensors, Settings

_MLP = ("ffn_gate", "ffn_up", "ffn_down")


def _from_hf(read: Fields) -> Settings:
    n_blocks, every = read.count("num_hidden_layers"), read.count("no_rope_layer_interval", 4)
    rotates = read.get("no_rope_layers") or [(n + 1) % every for n in range(n_blocks)]
    if not isinstance(rotates, list) or len(rotates) != n_blocks:
        raise unsupported("a list of another length", "no_rope_layers", rotates)
    return {
        "rotates": tuple(map(bool, rotates)),
        "rope_base": read.rope_base(2_000_000.0),
        "windows": read.windows(in_use=read.flag("use_sliding_window", False)),
        "tied_head": read.flag("tie_word_embeddings", True),
        "biases": (*(("attn_output",) * read.flag("attention_bias", False)), *(_MLP * read.flag("mlp_bias", False))),
    }


def _from_gguf(read: Metadata) -> Settings:
    return {"rotates": tuple((n + 1) % 4 != 0 for n in range(read.count("block_count")))}


SMOLLM3 = DecoderFamily(
    "smollm3",
    ("smollm3",),
    {"interleaved": True},
    _from_hf,
    _from_gguf,
    may_have_biases=("attn_output", *_MLP),
    hf_tensors=HfTensors(paired_rows=True),
)
