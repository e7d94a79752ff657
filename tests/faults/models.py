"""What the commands work on: a variant with weights of its own, and a module, in files that a test writes anew."""

from __future__ import annotations

from pathlib import Path

from onnx_text import DECODER, save_decoder

_VARIANT = """
import torch
from torch import nn
from opdiff import tap


class Mine(nn.Module):
    def __init__(self, checkpoint):
        super().__init__()
        self.embedding = nn.Parameter(checkpoint["token_embd.weight"], requires_grad=False)
        self.own = nn.Parameter(torch.full((32, 600), {number}), requires_grad=False)

    def forward(self, tokens):
        x = tap("embed", self.embedding[tokens], axes="token channel")
        return tap("logits", x @ self.own @ self.own.T @ self.embedding.T, axes="token vocab")
"""

_MODULE = """
import torch


def mine():
    layer = torch.nn.Linear(160, 160)
    torch.nn.init.constant_(layer.weight, {number})
    return layer, torch.full((2, 160), {number})
"""


def write_sources(folder: Path, number: float) -> None:
    """`variant.py:Mine` and `module.py:mine`, whose weights are this number."""
    (folder / "variant.py").write_text(_VARIANT.format(number=number))
    (folder / "module.py").write_text(_MODULE.format(number=number))


def save_pair(folder: Path) -> tuple[Path, Path]:
    """Two graphs of one weight file that part at an activation."""
    return save_decoder(folder / "a.onnx"), save_decoder(
        folder / "b.onnx", text=DECODER.replace("Relu(up0)", "Abs(up0)")
    )
