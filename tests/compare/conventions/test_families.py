"""The catalogue's decoder is the reference in every family and setting: no stage of it needs a deviation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from families.models import KINDS, family_model, tokens

from opdiff.compare.conventions import Case, Settings, evaluate
from opdiff.exporters.bound import BoundCheckpoint
from opdiff.exporters.checkpoints import DecoderConfig, open_checkpoint
from opdiff.exporters.export import shared_weights
from opdiff.exporters.tapping import collected
from opdiff.exporters.variants.reference import reference
from opdiff.graphs.axes import to_canonical
from opdiff.graphs.decoder_config import Experts
from opdiff.graphs.stages import split_tap_name
from opdiff.graphs.weights import SharedWeights

FLOOR = 1e-5  # of float32 against float64, in units of the tap's size
# What no family here has.
OTHER = {
    "ALiBi": ("llama with linear scaling", {"positions": "none", "max_alibi_bias": 8.0}),
    "learned positions from row 2 on": ("gpt2", {"position_offset": 2}),
    "no rotation in the first block": ("mistral", {"rotates": (False, True, True)}),
    "scores before the experts": ("mixtral", {"experts": Experts(4, 2, 96, normalised=True, weighted="inputs")}),
}


def _opened(kind: str, folder: Path) -> tuple[DecoderConfig, SharedWeights]:
    family_model(kind).save_pretrained(folder / "hf")
    checkpoint = open_checkpoint(str(folder / "hf"))
    return checkpoint.config, shared_weights(checkpoint, folder / "w.safetensors", with_q8_0=False)


def _far(config: DecoderConfig, weights: SharedWeights) -> dict[str, float]:
    """The stages of the reference that the catalogue computes otherwise from the stages before them."""
    with torch.no_grad(), collected() as taps:
        reference(BoundCheckpoint(config, weights))(tokens())
    values = {name: to_canonical(np.asarray(one.value), one.axes) for name, one in taps.items()}
    far = {}
    for name, value in values.items():
        block, stage = split_tap_name(name)
        case = Case(stage, block, values, weights, config, tokens().numpy())
        ours, theirs = evaluate(case, name, Settings()), np.asarray(value, np.float64)
        seen = np.isfinite(theirs)
        assert (np.isfinite(ours) == seen).all(), name
        error = np.abs(ours.reshape(theirs.shape)[seen] - theirs[seen]).max() / np.abs(theirs[seen]).max()
        far |= {name: error} if error > FLOOR else {}
    return far


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_of_a_family_is_the_references(kind, tmp_path):
    assert _far(*_opened(kind, tmp_path)) == {}


@pytest.mark.parametrize("name", OTHER)
def test_every_setting_that_no_family_has_is_the_references(name, tmp_path):
    kind, changes = OTHER[name]
    config, weights = _opened(kind, tmp_path)
    assert _far(replace(config, **{"rope_scaling": None, **changes}), weights) == {}
