"""The KV cache of the variants that are written here: it grows by the rows of each step."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tapping import keeps_cache, past, tap

AXES = {0: "slot head channel", 1: "head slot channel"}


def with_cache(name: str, new: Tensor, dim: int = 0) -> Tensor:
    """What attention reads: the rows of the steps before, then those of this step. Without a cache, the latter.

    Args:
        name: the tap, `blk.0.k_cache`.
        new: [T, KV, D], or [KV, T, D] with `dim` 1.
    """
    if not keeps_cache():
        return new
    before = past(name, new.narrow(dim, 0, 0))
    return tap(name, torch.cat((before, new), dim), axes=AXES[dim])


def n_past(empty: Tensor, dim: int = 0) -> int:
    """How many tokens the steps before had; `empty` is block 0's key cache as it begins."""
    return past("blk.0.k_cache", empty).shape[dim] if keeps_cache() else 0
