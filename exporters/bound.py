"""A checkpoint whose tensors stand in a mapped weight file, as torch sees it: what a variant is built from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..graphs.constants import BFLOAT16
from ..graphs.errors import InputError
from ..graphs.weights import WeightFile
from .checkpoints import DecoderConfig
from .checkpoints.checkpoint import HfSource

QUANTS, SCALES, MINS = ".q8_0.quants", ".q8_0.scales", ".mins"
STORAGE = "storage"  # the weight file's fact: how the checkpoint stores each of its tensors


class BoundCheckpoint:
    """Configuration and canonical tensors; every stored tensor shares its memory with the mapped weight file.

    Indexing by a canonical name (`blk.0.attn_q.weight`) gives a float32 tensor, `[out, in]` for a linear weight: a copy,
    made once, of one that is stored in half precision. `stored` gives it as it is, and a module casts it where it is used.

    hf: the HF folder that it was read from, if it was.
    """

    def __init__(self, config: DecoderConfig, weights: WeightFile, hf: HfSource | None = None) -> None:
        self.config = config
        self.hf = hf
        self._weights = weights
        self._stored: dict[str, Tensor] = {}
        self._widened: dict[str, Tensor] = {}
        self._storage: dict[str, str] = json.loads(weights.metadata.get(STORAGE, "{}"))

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name; a float is a float32.

        Raises:
            InputError: the checkpoint has none of that name.
        """
        tensor = self.stored(name)
        if tensor.dtype not in (torch.float16, torch.bfloat16):
            return tensor
        if name not in self._widened:
            self._widened[name] = tensor.float()
        return self._widened[name]

    def stored(self, name: str) -> Tensor:
        """The same in the type in which it is stored: float32, float16 or bfloat16; int8 quants."""
        if name not in self._weights:
            raise InputError(f"{self._weights.path}: no tensor {name}; the variant asks for one that is not there")
        if name not in self._stored:
            self._stored[name] = to_torch(self._weights[name])
        return self._stored[name]

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor that was handed out, and every stored one, with its name."""
        yield from self._widened.items()
        yield from ((name, self.stored(name)) for name in self)

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
        return BoundCheckpoint(replace(self.config, n_blocks=n_blocks), self._weights, self.hf)


def to_torch(array: np.ndarray) -> Tensor:
    """The same memory as a tensor; bfloat16 too, which numpy's own types do not have."""
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """The same memory as an array, in C order where that needs no copy."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy()
