"""The experts of a family, as its files tell of them."""

from dataclasses import replace
from typing import Any

from ....graphs.decoder_config import Experts
from ..fields import Fields
from ..metadata import Metadata
from .family import Settings


def experts_from_hf(read: Fields, width: int, **settings: Any) -> Experts:
    """Those of config.json, each of a width, with what the family says of its router."""
    count = read.count("num_local_experts", None if read.get("num_experts") is None else read.count("num_experts"))
    return Experts(count, read.count("num_experts_per_tok"), width, **settings)


def routed_from_gguf(read: Metadata, **settings: Any) -> Settings:
    """Those of the metadata, in the blocks whose tensors say so."""
    count = read.optional_count("expert_count")
    if count is None:
        return {}
    width = read.optional_count("expert_feed_forward_length") or read.count("feed_forward_length")
    experts = Experts(count, read.count("expert_used_count"), width, **settings)
    blocks = [f"blk.{n}." for n in range(read.count("block_count"))]
    routed = tuple(block + "ffn_gate_inp.weight" in read.tensor_shapes for block in blocks)
    shared = [read.tensor_shapes.get(block + "ffn_up_shexp.weight") for block in blocks]
    widths = [shape[0] for shape in shared if shape is not None]
    return {
        "experts": replace(experts, shared_width=widths[0]) if widths else experts,
        "expert_blocks": () if all(routed) else routed,
    }
