"""The linear layers of a block, by their GGUF names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ...bound import BoundCheckpoint
from ..activations import Activations, product
from ..linear import Weights, linear_weight, optional_bias


class Layers(nn.Module):
    """A module that has some of a block's linear layers."""

    name: str

    def add_linear(
        self, checkpoint: BoundCheckpoint, parts: Sequence[str], weights: Weights, activations: Activations
    ) -> None:
        """Give the module these layers: `attn_q`, `ffn_up`."""
        for part in parts:
            self.add_module(part, linear_weight(checkpoint, f"{self.name}{part}.weight", weights))
            setattr(self, part + "_product", product(checkpoint, f"{self.name}{part}.weight", weights, activations))
            self.register_parameter(part + "_bias", optional_bias(checkpoint, f"{self.name}{part}.bias"))

    def linear(self, x: Tensor, part: str) -> Tensor:
        weight, bias = self.get_submodule(part)(), getattr(self, part + "_bias")
        return getattr(self, part + "_product")(x, weight, None if bias is None else bias.float())
