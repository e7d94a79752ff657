"""Phi-3 and Phi-4: fused projections, longrope, RoPE over a part of a head."""

from ..fields import Fields
from ..metadata import Metadata
from .family import DecoderFamily, Settings


def _from_hf(read: Fields) -> Settings:
    return {"windows": read.windows()}


def _from_gguf(read: Metadata) -> Settings:
    """Where llama.cpp lets the window be, the checkpoint still has it."""
    window = read.optional_count("attention.sliding_window")
    return {"windows": () if window is None else (window,) * read.count("block_count")}


PHI3 = DecoderFamily("phi3", ("phi3",), {}, _from_hf, _from_gguf, is_partly_rotated=True)
