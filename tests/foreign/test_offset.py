"""Graphs by other hands that take position_ids are compared at positions from an offset on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import made_once
from families.models import family_model
from torch import Tensor, nn

from opdiff.api import compare
from opdiff.graphs.errors import InputError

TOKENS = (1, 5, 3, 9, 40, 77, 200, 13)


class WithPositions(nn.Module):
    """Logits of tokens at the positions that are given."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits


def written(path: Path, **changes: Any) -> None:
    """A Phi-3 whose longrope is of an original context of 8 tokens, as torch exports it."""
    model = family_model("phi3", num_hidden_layers=1, sliding_window=None, **changes)
    inputs = torch.tensor([TOKENS]), torch.arange(len(TOKENS))[None]
    torch.onnx.export(WithPositions(model), inputs, path, dynamo=True, verbose=False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory, worker_id) -> Path:
    """right.onnx, and faulty.onnx, which has the short list of factors for the long one."""

    def make(folder: Path) -> None:
        short = [1.1, 1.2, 1.3, 1.4]
        rope = dict(rope_type="longrope", rope_theta=1e3, partial_rotary_factor=0.5)
        written(folder / "right.onnx")
        written(folder / "faulty.onnx", rope_parameters={**rope, "short_factor": short, "long_factor": short})

    return made_once(tmp_path_factory, worker_id, "offset", make)


def test_a_fault_behind_the_original_context_shows_with_an_offset_only(pair: Path):
    a, b = pair / "right.onnx", pair / "faulty.onnx"
    assert compare(a, b, tokens=TOKENS).parity
    far = compare(a, b, tokens=TOKENS, position_offset=1000)
    assert [one.tap for one in far.divergences] == ["blk.0.q_rope", "blk.0.k_rope"]
    assert far.closed.complete
    assert far.first_position == 1000


def test_positions_that_are_given_too_are_refused(pair: Path):
    given = {"position_ids": np.arange(len(TOKENS))[None]}
    with pytest.raises(InputError, match=r"right\.onnx: position_ids is given; leave it out of --inputs"):
        compare(pair / "right.onnx", pair / "faulty.onnx", tokens=TOKENS, position_offset=5, inputs=given)


def test_a_graph_without_the_input_is_refused(pair: Path, exports: Path):
    with pytest.raises(InputError, match=r"eager\.onnx: has no input position_ids"):
        compare(exports / "eager.onnx", pair / "right.onnx", tokens=TOKENS, position_offset=5)
