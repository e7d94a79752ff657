"""Command R7B: attention and feed-forward network side by side behind one LayerNorm; full attention is not rotated."""

from ..fields import Fields
from ..metadata import Metadata
from .family import DecoderFamily, Settings

EVERY = 4


def _with_windows(windows: tuple[int | None, ...], n_blocks: int) -> Settings:
    """RoPE is where a window is."""
    return {"windows": windows, "rotates": tuple(window is not None for window in windows or (None,) * n_blocks)}


def _from_hf(read: Fields) -> Settings:
    every = read.count("sliding_window_pattern", EVERY)
    return {
        **_with_windows(read.windows(every=every), read.count("num_hidden_layers")),
        "logit_scale": read.number("logit_scale", 0.0625),
        "tied_head": read.flag("tie_word_embeddings", True),
        "biases": ("attn_output",) * read.flag("attention_bias", False),
    }


def _from_gguf(read: Metadata) -> Settings:
    n_blocks = read.count("block_count")
    return {**_with_windows(read.windows(EVERY, n_blocks), n_blocks), "logit_scale": read.number("logit_scale")}


COHERE2 = DecoderFamily(
    "cohere2",
    ("cohere2",),
    {"norm_kind": "layer_norm", "parallel": "one_norm", "interleaved": True},
    _from_hf,
    _from_gguf,
    hf_names={"rms_norm_eps": "layer_norm_eps"},
)
