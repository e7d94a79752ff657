"""The port of the demo, as a user writes one: right for a whole prompt, and wrong from its second step on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from opdiff.exporters.bound import BoundCheckpoint
from opdiff.exporters.variants.reference import Reference


class Port(Reference):
    """The reference, but for the positions, which it counts from 0 again in each step."""

    def rotary_table(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return super().rotary_table(torch.arange(positions.shape[0]))


def port(checkpoint: BoundCheckpoint) -> nn.Module:
    """The variant `port`."""
    return Port(checkpoint, "as_stored")
