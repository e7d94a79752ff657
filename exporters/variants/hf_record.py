"""One forward pass, watched: every tensor at a place where it can be tapped, and which places hold the same one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

# Of a module its inputs and outputs; of a function that kernels may replace what it gives; of those that attention calls
# what they read and give.
OfAttention = Literal[
    "rotary_q", "rotary_k", "rotated_q", "rotated_k", "q", "k", "v", "context", "weights", "scores", "probs"
]
What = Literal["input", "output", "function"] | OfAttention


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor is seen in a forward pass.

    path: of the module, or of the one whose attention it is; a function's name stands behind it. call: how often it was called before. index: which of
    several tensors.
    """

    what: What
    path: str
    call: int = 0
    index: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """A tensor at a place. memory: of itself; copy: of what is read on in its place."""

    place: Place
    memory: tuple[object, ...]
    copy: tuple[object, ...]
    shape: tuple[int, ...]
    is_float: bool


class Recorder:
    """Records what a pass shows it. What a module gives is read on as a copy, so that it is known which module gave it."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._kept: list[tuple[Seen, Tensor, int]] = []

    def at(self, place: Place, value: Tensor) -> Tensor:
        read_on = value.clone() if place.what in ("output", "function") else value
        seen = Seen(place, memory(value), memory(read_on), tuple(value.shape), value.is_floating_point())
        self.seen.append(seen)
        self._kept += [(seen, one, _version(one)) for one in (value, read_on)]  # held, so that no memory is used twice
        return read_on

    def overwritten(self) -> frozenset[Place]:
        """The places of tensors that the model wrote to later on."""
        return frozenset(seen.place for seen, tensor, version in self._kept if _version(tensor) != version)


def _version(tensor: Tensor) -> int:
    """How often it was written to; where torch does not count, never."""
    return 0 if tensor.is_inference() else tensor._version


def memory(tensor: Tensor) -> tuple[object, ...]:
    """Equal for two tensors that are one memory in whatever shape, as long as both are there."""
    return tensor.data_ptr(), tensor.numel(), tensor.dtype


def sample(n_tokens: int, vocab_size: int) -> Tensor:
    """Tokens for a pass that is watched."""
    return torch.arange(1, n_tokens + 1) % vocab_size
