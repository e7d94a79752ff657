"""Families of decoders as settings of one: each is HF's model to rounding, read from a folder or from GGUF, and llama.cpp's too."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.converter import family_gguf
from families.models import AS_GGUF_SAYS, KINDS, N_TOKENS, family_model, tokens

from opdiff.compare.measure import deviation
from opdiff.exporters.bound import BoundCheckpoint
from opdiff.exporters.checkpoints import Checkpoint, DecoderConfig, open_checkpoint
from opdiff.exporters.checkpoints.families import FAMILIES
from opdiff.exporters.export import export, shared_weights
from opdiff.exporters.tapping import Tapped, collected
from opdiff.exporters.variants import hf
from opdiff.exporters.variants.reference import reference
from opdiff.exporters.variants.registry import parse_variant
from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.axes import same_shape, to_canonical
from opdiff.graphs.decoder_config import Experts, RopeScaling
from opdiff.graphs.errors import InputError
from opdiff.graphs.stages import IN_BLOCK, OF_SOME, is_stage, split_tap_name

FLOOR = 1e-10  # NMSE of float32 against float32
GELU_FLOOR = 1e-6  # llama.cpp looks its gelu up in a table of float16; measured: 2e-7
WITHOUT_GGUF = {"llama with dynamic scaling"}
PAIRED = ("llama", "granite", "granitemoe", "smollm3")


@cache
def model(kind: str) -> Any:
    return family_model(kind)


def bound(checkpoint: Checkpoint, folder: Path) -> BoundCheckpoint:
    return BoundCheckpoint(checkpoint.config, shared_weights(checkpoint, folder / "shared.safetensors", False))


def opened(kind: str, folder: Path) -> Checkpoint:
    model(kind).save_pretrained(folder / "hf")
    return open_checkpoint(str(folder / "hf"))


def tapped(module: torch.nn.Module) -> dict[str, Tapped]:
    with torch.no_grad(), collected() as taps:
        module(tokens())
    return taps


def nmse(tap: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    """The mean square of the difference over that of the value."""
    found = deviation(*same_shape(ours, theirs), tap.endswith("attn_scores"))
    assert found.status == "compared", tap
    return np.inf if found.nmse is None else found.nmse


def canonical(tap: Tapped) -> np.ndarray:
    return to_canonical(np.asarray(tap.value), tap.axes)


def in_gguf_order(tap: str, value: np.ndarray, config: DecoderConfig) -> np.ndarray:
    """q and k of HF, whose channels of a pair GGUF has side by side."""
    if config.architecture not in PAIRED or split_tap_name(tap)[1] not in ("q_proj", "k_proj", "q_rope", "k_rope"):
        return value
    heads = value.reshape(N_TOKENS, -1, 2, config.head_dim // 2)
    return heads.swapaxes(2, 3).reshape(N_TOKENS, -1, config.head_dim)


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_of_a_family_is_hfs_own(kind, tmp_path):
    checkpoint = opened(kind, tmp_path)
    ours, theirs = tapped(reference(bound(checkpoint, tmp_path))), tapped(hf.tapped(model(kind)))
    shared = [name for name in ours if name in theirs]
    absent = {split_tap_name(name)[1] for name in set(ours) - set(theirs)}
    assert absent <= {"ffn_gate", "ffn_up", "shared_out", "attn_scores"}  # HF has no tensor of its own for these
    assert all(is_stage(name) for name in ours)
    far = {}
    for name in shared:
        of_hf = in_gguf_order(name, canonical(theirs[name]), checkpoint.config)
        ours_now = canonical(ours[name])
        if split_tap_name(name)[1] in ("expert_choice", "router_weights"):  # HF's order among the chosen is open
            of_hf, ours_now = np.sort(of_hf, axis=-1), np.sort(ours_now, axis=-1)
        far |= {name: error} if (error := nmse(name, ours_now, of_hf)) > FLOOR else {}
    assert far == {}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WITHOUT_GGUF])
def test_a_gguf_file_is_read_as_the_folder_that_it_was_converted_from(kind, tmp_path):
    torch_model = family_model(kind, **AS_GGUF_SAYS.get(kind, {}))
    gguf = open_checkpoint(str(family_gguf(torch_model, tmp_path / "model.gguf")))
    folder = open_checkpoint(str(tmp_path / "model.hf"))
    tables = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
    assert set(folder.names) == set(gguf.names) - tables
    for name in folder.names:
        np.testing.assert_array_equal(gguf.tensor(name), folder.tensor(name), err_msg=name)
        assert gguf.shape(name) == folder.shape(name)
    with torch.no_grad():
        found = reference(bound(gguf, tmp_path))(tokens()).numpy()
        expected = torch_model(input_ids=tokens()[None], use_cache=False).logits[0].numpy()
    assert nmse("logits", found, expected) < FLOOR


LLAMA_CPP_HAS_NOT = {
    "qwen3_moe with a dense block": "its qwen3moe has experts in every block",
    "olmoe": "its olmoe has as many KV heads as heads",
    "olmoe clipped": "its olmoe does not clip",
    "llama with dynamic scaling": "it has no dynamic scaling",
}
OF_GELU = ("gemma2", "gemma3", "gpt_neox", "gpt2", "starcoder2")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in LLAMA_CPP_HAS_NOT])
def test_every_stage_of_a_family_is_llama_cpps_own(kind, tmp_path):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed; it is compiled, so it is an extra")
    from opdiff.exporters.runtimes.llama_cpp import write_trace
    from opdiff.graphs.trace import load_trace

    changes = {**AS_GGUF_SAYS.get(kind, {}), **({"sliding_window": None} if kind == "phi3" else {})}
    checkpoint = open_checkpoint(str(family_gguf(family_model(kind, **changes), tmp_path / "model.gguf")))
    if kind == "gpt_oss":  # llama.cpp rounds yarn's bounds to whole channels, HF's gpt-oss does not
        config = checkpoint.config
        checkpoint.config = replace(config, rope_scaling=replace(config.rope_scaling, truncated=True))
    write_trace(checkpoint, tokens().tolist(), tmp_path / "t.safetensors")
    trace, ours = load_trace(tmp_path / "t.safetensors"), tapped(reference(bound(checkpoint, tmp_path)))
    absent = {split_tap_name(name)[1] for name in set(ours) - set(trace.taps)}
    assert absent == ({"attn_residual"} if kind == "phi3" else set())  # which has no name there
    floor = GELU_FLOOR if kind in OF_GELU else FLOOR
    far = {}
    for name in (name for name in ours if name in trace.taps):
        theirs = to_canonical(trace.values[name], trace.taps[name].axes)
        far |= {name: error} if (error := nmse(name, canonical(ours[name]), theirs)) > floor else {}
    assert far == {}


@pytest.mark.parametrize("kind", ["gemma2", "glm4_moe", "gpt2"])
def test_an_exported_family_computes_what_hf_does(kind, tmp_path):
    """Blocks that differ, experts that are chosen, positions that are learned."""
    import onnxruntime

    (path,) = export(opened(kind, tmp_path), [parse_variant("reference")], tmp_path / "out", link=False)
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"tokens": tokens().numpy()}), strict=True))
    expected = model(kind)(input_ids=tokens()[None], use_cache=False).logits[0].numpy()
    assert nmse("logits", found["logits"], expected) < FLOOR
    assert load_artifact(path).config["architecture"]


def test_a_cache_hides_what_lies_before_the_window(tmp_path):
    """Fed token by token, the graph sees no more than its window does in one pass."""
    import onnxruntime

    checkpoint = opened("mistral", tmp_path)
    (path,) = export(checkpoint, [parse_variant("reference")], tmp_path / "out", link=False, cache=True)
    session = onnxruntime.InferenceSession(str(path))
    config = checkpoint.config
    empty = np.zeros((0, config.n_kv_heads, config.head_dim), np.float32)
    kept = {one.name: empty for one in session.get_inputs() if one.name.startswith("past_")}
    outputs, rows = [output.name for output in session.get_outputs()], []
    for token in tokens().numpy():
        step = dict(zip(outputs, session.run(None, {"tokens": token[None], **kept}), strict=True))
        kept = {name: step[name.replace("past_", "present_")] for name in kept}
        rows.append(step["logits"])
    expected = model("mistral")(input_ids=tokens()[None], use_cache=False).logits[0].numpy()
    assert nmse("logits", np.concatenate(rows), expected) < FLOOR


@pytest.mark.parametrize("variant", ["dsl", "legacy"])
def test_a_runtime_of_llamas_refuses_another_family_in_one_line(variant, tmp_path):
    checkpoint = bound(opened("gemma2", tmp_path), tmp_path)
    with pytest.raises(InputError, match=rf"^variant {variant}: this runtime has no norm_place .*gemma2[^\n]*$"):
        parse_variant(variant).build(checkpoint)


@pytest.mark.parametrize("kind", ["gemma2", "apertus"])
def test_blocks_that_differ_are_not_instantiated_from_two(kind, tmp_path):
    checkpoint = bound(opened(kind, tmp_path), tmp_path)
    assert not parse_variant("reference").has_uniform_blocks(checkpoint)
    equal = bound(opened("mistral", tmp_path / "other"), tmp_path / "other")
    assert parse_variant("reference").has_uniform_blocks(equal)


# The configuration

PLAIN = DecoderConfig("llama", 4, 64, 4, 2, 16, 96, 288, 64, 1e4, 1e-5, True, False, False)


def test_every_setting_survives_json():
    config = replace(
        PLAIN,
        windows=(6, None, 6, None),
        rotates=(True, False, True, True),
        rope_scaling=RopeScaling("longrope", 8.0, 8, short_factors=(1.0, 1.5), long_factors=(2.0, 3.0)),
        experts=Experts(8, 2, 32, score="sigmoid", groups=4, chosen_groups=2, shared_width=64),
        expert_blocks=(False, True, True, True),
        biases=("attn_output",),
        logit_softcap=30.0,
    )
    assert DecoderConfig.from_json(config.to_json()) == config


def test_a_configuration_of_before_there_were_settings_is_a_llamas():
    import json

    written = json.loads(PLAIN.to_json())
    names = list(DecoderConfig.__dataclass_fields__)[:14]
    before = DecoderConfig.from_json(json.dumps({name: written[name] for name in names}))
    assert before == PLAIN
    assert before.is_plain
    assert before.pairing == "interleaved"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": (6,)}, "windows tells of 1 of 4 blocks"),
        ({"windows": (0, 0, 0, 0)}, r"windows is \(0, 0, 0, 0\), which cannot be"),
        ({"norm_kind": "group"}, "norm_kind is 'group', which cannot be"),
        ({"rotary_dim": 18}, "rotary_dim 18 of head_dim 16 is more than there is"),
        ({"logit_softcap": -1.0}, "logit_softcap is -1.0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(PLAIN, **changes)


@pytest.mark.parametrize("arguments", [(4, 5, 32), (4, 0, 32)])
def test_experts_that_cannot_be_are_refused(arguments):
    with pytest.raises(InputError, match=r"^config: [^\n]*$"):
        Experts(*arguments)


def test_families_are_known_by_one_name_each():
    assert len({family.architecture for family in FAMILIES}) == len(FAMILIES)
    types = [name for family in FAMILIES for name in family.model_types]
    assert len(set(types)) == len(types)


def test_the_stages_of_some_families_have_axes_and_an_order():
    from opdiff.graphs.stages import default_axes, graph_order, tap_name

    assert not set(OF_SOME) & set(IN_BLOCK)
    ordered = [
        "o_proj",
        "attn_post_norm",
        "attn_residual",
        "ffn_norm",
        "router_logits",
        "expert_choice",
        "router_weights",
    ]
    ordered += ["expert_out", "shared_out", "ffn_post_norm", "ffn_residual"]
    names = [tap_name(stage, 1) for stage in ordered]
    assert sorted(names, key=graph_order) == names
    assert sorted(["blk.0.attn_norm", "position_embed", "embed"], key=graph_order) == [
        "embed",
        "position_embed",
        "blk.0.attn_norm",
    ]
    assert default_axes("router_logits", 2) == (("token", "expert"),)
    assert default_axes("expert_choice", 2) == (("token", "choice"),)
