"""The residual stream of a graph: which tap each block reads of the block before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .regions import Region
from .stages import split_tap_name, tap_name


@dataclass(frozen=True, slots=True)
class Stream:
    """What the first block reads, and the stage that every block hands on to the next."""

    first: str = "embed"
    stage: str = "ffn_residual"

    def before(self, block: int) -> str:
        """The tap of the stream as a block reads it."""
        return tap_name(self.stage, block - 1) if block else self.first


def stream_of(regions: Iterable[Region]) -> Stream:
    """The stream that most stages read: from outside in block 0, where block 1 reads a stage of block 0."""
    inputs = {split_tap_name(region.tap): region.inputs for region in regions}
    votes = Counter[Stream]()
    for (block, stage), reads in inputs.items():
        after = inputs.get((1, stage), ()) if block == 0 else ()
        for first, second in zip(reads, after, strict=False):
            before, name = split_tap_name(second)
            if before == 0 and split_tap_name(first)[0] is None:
                votes[Stream(first, name)] += 1
    return votes.most_common(1)[0][0] if votes else Stream()
