"""The corpus itself: a fault spoils the regions that it says, and no other; a benign change spoils none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from corpus.benign import BENIGN
from corpus.double import DoublePrecision
from corpus.faults import FAULTS, pairs
from corpus.models import N_BLOCKS, TOKENS, tiny_model
from corpus.registry import Fault
from opdiff.exporters.variants import hf

ROUNDING = 1e-12  # float64; the smallest fault, an eps, is five orders above it
BLOCKS = (0, 1, N_BLOCKS - 1)
CASES = [(name, block) for name, fault in FAULTS.items() for block in (BLOCKS if fault.in_block else (0,))]


def in_float64(model: Any, monkeypatch: pytest.MonkeyPatch, feed: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Every tap of a forward pass; where `feed` has the tap, its value goes on instead of the model's own."""
    found: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor, axes: str) -> Tensor:
        assert len(axes.split()) == value.ndim, name
        found[name] = value.clone()
        if feed is None or name not in feed:  # a part that only the patched model has
            return value
        # The residual path reads attn_residual too, and from before the hook: there the tensor itself is overwritten.
        return value.copy_(feed[name]) if name.endswith("attn_residual") else feed[name].clone()

    module = hf.tapped(model.double())
    monkeypatch.setattr(hf, "tap", tap)
    with DoublePrecision(), torch.no_grad():
        module(torch.tensor(TOKENS))
    monkeypatch.undo()
    return found


def differing(ours: dict[str, Tensor], right: dict[str, Tensor]) -> list[str]:
    """The taps that are further apart than rounding, in the order of the pass."""
    return [name for name, value in ours.items() if name in right and distance(value, right[name]) > ROUNDING]


def distance(ours: Tensor, right: Tensor) -> float:
    """The largest difference, in units of the largest value that is not masked."""
    seen = (right > -1e30) | (ours > -1e30)
    return float(((ours - right).abs()[seen]).max() / right[seen].abs().clamp(max=1e30).max().clamp(min=1e-300))


@pytest.fixture(scope="session")
def right() -> dict[str, dict[str, Tensor]]:
    """The taps of each unpatched kind of model."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        kinds = {fault.model for fault in FAULTS.values()} | {change.model for change in BENIGN.values()}
        return {kind: in_float64(tiny_model(kind), monkeypatch) for kind in kinds}


def patched(fault: Fault, block: int) -> Any:
    model = tiny_model(fault.model)
    fault.apply(model, block)
    return model


@pytest.mark.parametrize(("name", "block"), CASES)
def test_fault_spoils_the_regions_that_it_names_and_no_other(name, block, right, monkeypatch):
    fault = FAULTS[name]
    local = in_float64(patched(fault, block), monkeypatch, feed=right[fault.model])
    assert set(differing(local, right[fault.model])) == fault.taps(block)


@pytest.mark.parametrize(("name", "block"), CASES)
def test_fault_shows_first_where_it_is_and_reaches_the_logits(name, block, right, monkeypatch):
    fault = FAULTS[name]
    found = differing(in_float64(patched(fault, block), monkeypatch), right[fault.model])
    assert found[0] in fault.taps(block)
    assert found[-1] == "logits"


@pytest.mark.parametrize("blocks", [(1, 1), (0, 2)])
@pytest.mark.parametrize(("first", "second"), pairs(20), ids=lambda fault: fault.name)
def test_two_faults_in_one_model_spoil_the_regions_of_both(first, second, blocks, right, monkeypatch):
    model = tiny_model(first.model)
    first.apply(model, blocks[0])
    second.apply(model, blocks[1])
    local = in_float64(model, monkeypatch, feed=right[first.model])
    assert set(differing(local, right[first.model])) == first.taps(blocks[0]) | second.taps(blocks[1])


@pytest.mark.parametrize("name", BENIGN)
def test_benign_change_leaves_the_logits_as_they_are(name, right, monkeypatch):
    change = BENIGN[name]
    model = tiny_model(change.model)
    change.apply(model)
    logits = in_float64(model, monkeypatch)["logits"]
    for row in logits:
        assert (row - right[change.model]["logits"][0]).abs().max() < 1e-10


@pytest.mark.parametrize("kind", ["qwen3", "qwen3_square", "qwen2", "llama"])
def test_activations_are_healthy(kind, right):
    for name, value in right[kind].items():
        seen = value[value > -1e30]
        assert 1e-3 < seen.abs().mean() < 1e3, name
