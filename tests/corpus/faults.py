"""The registry of faults: `FAULTS`, by name, and pairs of them that can stand in one model."""

from __future__ import annotations

import random

from . import attention_faults, ffn_faults, linear_faults, norm_faults, rope_faults
from .registry import FAULTS, Fault

__all__ = ["FAULTS", "Fault", "attention_faults", "ffn_faults", "linear_faults", "norm_faults", "pairs", "rope_faults"]


def pairs(count: int, seed: int = 0) -> list[tuple[Fault, Fault]]:
    """`count` pairs of faults of one kind of model that spoil different stages: both fit into one block."""
    chance = random.Random(seed)
    faults = list(FAULTS.values())
    found: list[tuple[Fault, Fault]] = []
    while len(found) < count:
        first, second = chance.sample(faults, 2)
        if first.model == second.model and not first.stages & second.stages:
            found.append((first, second))
    return found
