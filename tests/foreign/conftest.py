"""Exports that all tests of graphs by other hands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import made_once
from foreign.models import qwen3


def faulty(model: Any) -> None:
    """The eps of a norm in block 1, and another activation in block 2."""
    model.model.layers[1].input_layernorm.variance_epsilon = 1e-4
    model.model.layers[2].mlp.act_fn = torch.nn.GELU()


@pytest.fixture(scope="session")
def exports(tmp_path_factory, worker_id) -> Path:
    """eager.onnx, fused.onnx (opset 23: Attention and RMSNormalization as one node each) and faulty.onnx, fused."""

    def make(folder: Path) -> None:
        qwen3(folder / "eager.onnx")
        qwen3(folder / "fused.onnx", attention="sdpa", opset=23)
        qwen3(folder / "faulty.onnx", faulty, "sdpa", 23)

    return made_once(tmp_path_factory, worker_id, "foreign", make)
