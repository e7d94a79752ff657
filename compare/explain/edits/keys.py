"""What a line says, without what is of one place alone: the same mistake elsewhere then has the same words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ....graphs.regions import Region
from ....graphs.stages import STEP, split_tap_name
from ....graphs.stream import Stream

STREAM = "the residual stream"
NUMBER = r"-?(?:\d[\d.]*(?:e[-+]?\d+)?|inf|nan)"


def key_of(text: str, tap: str, regions: Sequence[Region], stream: Stream) -> str:
    """A line's key: the tap that the regions read, the block, the weights' names, shapes and sizes are left out."""
    block = split_tap_name(tap)[0]
    reads = [{name for name in region.inputs if name != "tokens"} for region in regions]
    common = sorted(reads[0]) if all(names == reads[0] for names in reads) else []
    if len(common) == 1:
        text = without(text, short_name(common[0], block), "x")
    if block is not None:
        text = without(text, stream.before(block), STREAM)
    labels = {label for region in regions for label in region.weight_names}
    for label in sorted(labels, key=len, reverse=True):
        text = without(text, short_name(label, block), "the weight")
    text = re.sub(r"\bblk\.\d+\.", "", text)
    text = re.sub(rf"\b{STEP}\.\d+\.", "", text)  # a value without a stage: only its operator is the same elsewhere
    text = re.sub(r"[\w.]+\.(?:weight|bias)\b", "the weight", text)
    text = re.sub(r"\b[qkv]_(proj|norm|rope)\b", r"qkv_\1", text)
    text = re.sub(r", x = .*", "", text)
    text = re.sub(r"\b[A-Z]=\d+(, )?", "", text)  # sizes that an operator is told
    text = re.sub(r"\bconstant \[[^]]*\]", "a constant", text)
    text = re.sub(rf"\[{NUMBER}(, {NUMBER})+(, \.\.\.)?\]( of shape \[[^]]*\])?", "a constant", text)
    return re.sub(r"\[(?:part )?-?\d[^\[\]]*\]", "[part]", text)  # which part of a value a block or a head takes


def short_name(label: str, block: int | None) -> str:
    """A tap's or weight's name, without the region's own block."""
    return label if block is None else label.removeprefix(f"blk.{block}.")


def without(text: str, name: str, word: str) -> str:
    """The text with a word in the place of a name."""
    return re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w.])", word, text)
