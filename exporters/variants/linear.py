"""Linear weights as a variant holds them: as stored, or in Q8_0 behind a DequantizeLinear."""

from __future__ import annotations

from typing import Literal

import onnxscript
import torch
from onnxscript import opset21 as op
from torch import Tensor, nn

from ...graphs.errors import InputError
from ..bound import BoundCheckpoint
from ..tapping import tap

Weights = Literal["as_stored", "q8_0"]
BLOCK = 32


@torch.library.custom_op("opdiff::dequantize_q8_0", mutates_args=())
def dequantize_q8_0(quants: Tensor, scales: Tensor) -> Tensor:
    """Quants int8 `[out, in]` times their block's scale, float32 `[out, in / 32]`: float32 `[out, in]`."""
    return quants.to(torch.float32) * scales.repeat_interleave(BLOCK, dim=1)


@dequantize_q8_0.register_fake
def _(quants: Tensor, scales: Tensor) -> Tensor:
    return torch.empty(quants.shape, dtype=torch.float32)


def dequantize_q8_0_to_onnx(quants: onnxscript.INT8, scales: onnxscript.FLOAT) -> onnxscript.FLOAT:
    """The same in ONNX: one node, blocked along the input axis."""
    return op.DequantizeLinear(quants, scales, axis=1, block_size=BLOCK)


ONNX_TRANSLATIONS = {torch.ops.opdiff.dequantize_q8_0.default: dequantize_q8_0_to_onnx}


class StoredWeight(nn.Module):
    """A weight as the checkpoint stores it; what comes out is float32."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self) -> Tensor:
        return self.weight.float()


class Q8Weight(nn.Module):
    """A weight that stands as Q8_0 and is dequantised where it is used; what comes out is a tap."""

    def __init__(self, name: str, quants: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.name = name
        self.register_buffer("quants", quants)
        self.register_buffer("scales", scales)

    def forward(self) -> Tensor:
        return tap(self.name, dequantize_q8_0(self.quants, self.scales), axes="out in")


def linear_weight(checkpoint: BoundCheckpoint, name: str, weights: Weights) -> nn.Module:
    """The module that gives the linear weight `name`, `[out, in]`."""
    if weights == "q8_0":
        return Q8Weight(name, *checkpoint.q8_0(name))
    return StoredWeight(checkpoint.stored(name))


def head_name(checkpoint: BoundCheckpoint) -> str:
    """The name of the output head's weight: the embedding's where the head is tied."""
    return "token_embd.weight" if checkpoint.config.tied_head else "output.weight"


def head_weight(checkpoint: BoundCheckpoint, weights: Weights) -> nn.Module:
    """The output head's weight `[vocabulary, width]`; in Q8_0 its tap is `output.weight`, tied to the embedding or not."""
    if weights == "q8_0":
        return Q8Weight("output.weight", *checkpoint.q8_0(head_name(checkpoint)))
    return StoredWeight(checkpoint.stored(head_name(checkpoint)))


def gain(checkpoint: BoundCheckpoint, name: str) -> nn.Parameter:
    """A norm's gain, `[width]` or `[head_dim]`, as it is stored: cast it to float32 where it is used."""
    return nn.Parameter(checkpoint.stored(name), requires_grad=False)


def embedding(checkpoint: BoundCheckpoint, name: str = "token_embd") -> nn.Parameter:
    """The embedding `[vocabulary, width]`, as it is stored: cast the rows that are looked up to float32."""
    return nn.Parameter(checkpoint.stored(name + ".weight"), requires_grad=False)


def optional_bias(checkpoint: BoundCheckpoint, name: str) -> nn.Parameter | None:
    """A bias `[out]`, where the checkpoint has one, as it is stored: cast it to float32 where it is used."""
    return nn.Parameter(checkpoint.stored(name), requires_grad=False) if name in checkpoint else None


def refuse_other_head_dim(runtime: str, checkpoint: BoundCheckpoint, way_out: str) -> None:
    """Raise where a runtime that takes width / heads for the head dim would read the checkpoint wrongly.

    Raises:
        InputError: the checkpoint's head dim is another.
    """
    config = checkpoint.config
    if config.head_dim * config.n_heads != config.width:
        raise InputError(
            f"variant {runtime}: this runtime takes width / heads = {config.width}/{config.n_heads} as its head dim, "
            f"but the checkpoint's head dim is {config.head_dim}, so the runtime cannot run it; {way_out}"
        )


def refuse_other_choices(runtime: str, checkpoint: BoundCheckpoint) -> None:
    """Raise where a runtime that knows Llama, Qwen2 and Qwen3 alone would read the checkpoint wrongly.

    Raises:
        InputError: the checkpoint's decoder has a choice that they have not.
    """
    config = checkpoint.config
    if not config.is_plain:
        name, value = next(config.other_choices())
        raise InputError(
            f"variant {runtime}: this runtime has no {name} (here {value!r:.60}), so it cannot run this {config.architecture}; "
            "use the variant reference or hf"
        )
