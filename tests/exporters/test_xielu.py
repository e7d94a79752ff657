"""xIELU's numbers: read from a folder's tensors or from GGUF's metadata, HF's to the bit, and refused in one line where they cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.converter import family_gguf
from families.models import family_model
from safetensors.torch import load_file, save_file

from opdiff.exporters.checkpoints import DecoderConfig, open_checkpoint
from opdiff.exporters.checkpoints.gguf_config import read_config
from opdiff.exporters.checkpoints.gguf_header import read_header
from opdiff.exporters.variants.reference.feed_forward import activation_of
from opdiff.graphs.decoder_config import Xielu
from opdiff.graphs.errors import InputError

ALPHA_P = "model.layers.1.mlp.act_fn.alpha_p"


def saved(folder: Path, **config: Any) -> Path:
    """A folder of Apertus; what is None is not in its config.json."""
    family_model("apertus").save_pretrained(folder)
    path = folder / "config.json"
    fields = json.loads(path.read_text()) | config
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))
    return folder


def with_tensor(folder: Path, name: str, value: torch.Tensor | None) -> Path:
    path = folder / "model.safetensors"
    tensors = {key: one.clone() for key, one in load_file(path).items()} | {name: value}
    path.unlink()
    save_file({key: one for key, one in tensors.items() if one is not None}, path)
    return folder


def of(folder: Path) -> DecoderConfig:
    config = open_checkpoint(str(folder)).config
    assert isinstance(config, DecoderConfig)
    return config


@pytest.mark.parametrize("alphas", [(0.3, -0.4), (-5.0, 40.0), (120.0, -120.0)])
def test_xielu_is_hfs_own_to_rounding(alphas, tmp_path):
    theirs = family_model("apertus").model.layers[1].mlp.act_fn
    theirs.alpha_p.fill_(alphas[0])
    theirs.alpha_n.fill_(alphas[1])
    folder = saved(tmp_path)
    for name, value in zip(("alpha_p", "alpha_n"), alphas, strict=True):
        with_tensor(folder, ALPHA_P.replace("alpha_p", name), torch.tensor([value]))
    x = torch.cat((torch.linspace(-30, 30, 1001), torch.tensor([-1e-3, -1e-6, -1e-7, -0.0, 1e-7])))
    with torch.no_grad():
        torch.testing.assert_close(activation_of(of(folder), 1, "exact")(x), theirs(x), rtol=1e-6, atol=1e-12)


def test_numbers_stored_in_half_precision_are_what_they_stand_for(tmp_path):
    for dtype in (torch.bfloat16, torch.float16):
        value = torch.tensor([0.3], dtype=dtype)
        config = of(with_tensor(saved(tmp_path), ALPHA_P, value))
        assert np.float32(config.xielu[1].alpha_p) == value.float().item()


def test_config_with_xielu_survives_json(tmp_path):
    config = of(saved(tmp_path))
    assert len(set(config.xielu)) == 3
    assert not config.has_equal_blocks
    assert DecoderConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    "value, message",
    [
        (None, f"tensor {ALPHA_P} is missing"),
        (torch.ones(2), "has shape (2,), where one number is needed"),
        (torch.ones(0), "has shape (0,), where one number is needed"),
        (torch.tensor([float("nan")]), "alpha_p of xIELU is nan, no finite number"),
        (torch.tensor([1e300], dtype=torch.float64), "alpha_p of xIELU is 1e+300, no finite number"),
    ],
    ids=str,
)
def test_tensors_that_are_no_numbers_of_xielu_are_refused_in_one_line(value, message, tmp_path):
    folder = with_tensor(saved(tmp_path), ALPHA_P, value)
    with pytest.raises(InputError) as caught:
        open_checkpoint(str(folder))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value, message",
    [
        (None, "metadata xielu.beta is missing, not 3 numbers"),
        (0.5, "metadata xielu.beta is 0.5, not 3 numbers"),
        (("a", "b", "c"), "metadata xielu.beta is an array of 3, not 3 numbers"),
        (np.ones(2, np.float32), "metadata xielu.beta is an array of 2, not 3 numbers"),
        (np.ones(3, np.bool_), "metadata xielu.beta is an array of 3, not 3 numbers"),
        (np.array([0.5, np.inf, 0.5], np.float32), "beta of xIELU is inf, no finite number"),
    ],
    ids=str,
)
def test_metadata_that_are_no_numbers_of_xielu_are_refused_in_one_line(value, message, tmp_path):
    header = read_header(memoryview(family_gguf(family_model("apertus"), tmp_path / "model.gguf").read_bytes()))
    shapes = {name: place.shape for name, place in header.tensors.items()}
    with pytest.raises(InputError) as caught:
        read_config({**header.fields, "xielu.beta": value}, shapes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gguf_has_the_numbers_of_the_folder(tmp_path):
    gguf = open_checkpoint(str(family_gguf(family_model("apertus"), tmp_path / "model.gguf")))
    assert gguf.config.xielu == of(tmp_path / "model.hf").xielu


def test_xielu_without_its_numbers_is_refused(tmp_path):
    config = of(saved(tmp_path))
    with pytest.raises(InputError, match="the activation is xielu, and its numbers are missing"):
        replace(config, xielu=())
    with pytest.raises(InputError, match="xielu tells of 2 of 3 blocks"):
        replace(config, xielu=config.xielu[:2])
    with pytest.raises(InputError, match="eps of xIELU is 'x'"):
        Xielu(0.1, 0.1, 0.5, "x")  # type: ignore[arg-type]


def test_other_families_have_no_xielu(tmp_path):
    """transformers would make its numbers up; the folder is then as transformers reads it, without a reference."""
    family_model("mistral", hidden_act="xielu").save_pretrained(tmp_path)
    assert not isinstance(open_checkpoint(str(tmp_path)).config, DecoderConfig)


def test_apertus_may_have_another_activation_and_biases(tmp_path):
    family_model("apertus", hidden_act="silu", attention_bias=True).save_pretrained(tmp_path)
    config = of(tmp_path)
    assert (config.activation, config.xielu, config.biases) == ("silu", (), ("attn_output",))
    assert config.attention_bias


@pytest.mark.parametrize("changes", [{}, {"rope_theta": 5e5}, {"rope_scaling": {"type": "linear", "factor": 2.0}}])
def test_rope_that_config_json_leaves_out_is_transformers_own_default(changes, tmp_path):
    from transformers import AutoConfig

    folder = saved(tmp_path, rope_parameters=None, **changes)
    theirs, ours = AutoConfig.from_pretrained(folder).rope_parameters, of(folder)
    assert ours.rope_base == theirs["rope_theta"]
    assert ours.rope_scaling is not None
    assert (ours.rope_scaling.kind, ours.rope_scaling.factor) == (theirs["rope_type"], theirs["factor"])
    if not changes:
        assert ours.rope_scaling.original_context == theirs["original_max_position_embeddings"]
