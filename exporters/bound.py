"""A checkpoint whose tensors stand in a mapped weight file, as torch sees it: what a variant is built from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..graphs.errors import InputError
from ..graphs.weights import WeightFile
from .checkpoints import DecoderConfig

QUANTS, SCALES, MINS = ".q8_0.quants", ".q8_0.scales", ".mins"
STORAGE = "storage"  # the weight file's fact: how the checkpoint stores each of its tensors


class BoundCheckpoint:
    """Configuration and canonical tensors; every tensor shares its memory with the mapped weight file.

    Indexing by a canonical name (`blk.0.attn_q.weight`) gives a float32 tensor, `[out, in]` for a linear weight.
    """

    def __init__(self, config: DecoderConfig, weights: WeightFile) -> None:
        self.config = config
        self._weights = weights
        self._tensors: dict[str, Tensor] = {}
        self._storage: dict[str, str] = json.loads(weights.metadata.get(STORAGE, "{}"))

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name.

        Raises:
            InputError: the checkpoint has none of that name.
        """
        if name not in self._weights:
            raise InputError(f"{self._weights.path}: no tensor {name}; the variant asks for one that is not there")
        if name not in self._tensors:
            self._tensors[name] = torch.from_numpy(self._weights[name])
        return self._tensors[name]

    def q8_0(self, name: str) -> tuple[Tensor, Tensor]:
        """The weight in Q8_0: quants int8 `[out, in]` and scales float32 `[out, in / 32]`."""
        return self[name + QUANTS], self[name + SCALES]

    def mins(self, name: str) -> Tensor:
        """What Q4_1 or Q5_1 adds to each block of 32 of the weight: float32 `[out, in / 32]`."""
        return self[name + MINS]

    def storage(self, name: str) -> str:
        """How the checkpoint stores the tensor: "F32", "Q4_1", ..."""
        return self._storage[name]

    def stores_blocks_alike(self) -> bool:
        """Whether every block's tensors are stored in the same types as the first block's."""
        first = {name: re.sub(r"^blk\.\d+\.", "blk.0.", name) for name in self._storage}
        return all(stored == self._storage.get(first[name]) for name, stored in self._storage.items())

    def first_blocks(self, n_blocks: int) -> BoundCheckpoint:
        """The same checkpoint, cut after `n_blocks` blocks: a pattern for the blocks that follow."""
        return BoundCheckpoint(replace(self.config, n_blocks=n_blocks), self._weights)
