"""The whole verdict on a tiny Qwen3 that llama.cpp and HF really run, and what is refused before anything is exported."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from corpus.models import loadable_gguf, tiny_model
from corpus.vocabulary import N_TOKENS

from opdiff.__main__ import main


def model(folder: Path, quantisation: str = "F32", kind: str = "qwen3_in_32s", n_blocks: int = 1) -> Path:
    return loadable_gguf(tiny_model(kind, n_blocks, N_TOKENS), folder / "model.gguf", quantisation)


def verdict(path: object, candidates: list[object], *more: object) -> Result:
    named = [word for one in candidates for word in ("--candidate", one)]
    return CliRunner().invoke(main, [str(word) for word in ("verdict", path, *named, *more)])


def judged(folder: Path, path: Path, candidates: list[object], *more: object) -> tuple[Result, dict[str, Any]]:
    done = verdict(path, candidates, "--json", folder / "v.json", *more)
    assert all(re.fullmatch(r"opdiff: .+ \(\d+ s\)", line) for line in done.stderr.splitlines()), done.stderr
    return done, json.loads((folder / "v.json").read_text())


def tallies(found: dict[str, Any], side: str) -> dict[str, dict[str, Any]]:
    return {one["reference"]: one for one in found["tallies"] if one["side"] == side}


def causes(found: dict[str, Any], side: str) -> dict[str, set[str]]:
    (standing,) = [one for one in found["standings"] if one["name"] == side]
    return {one["convention"]: {tap.split(".")[2] for tap in one["taps"]} for one in standing["causes"]["root_causes"]}


LAYOUT = {"linear.layout": {"q_proj", "o_proj"}}
PAIRING_AND_EPS = {"rope.pairing": {"q_rope", "k_rope"}, "qk_norm.eps": {"q_norm", "k_norm"}}
BOTH = ("--against", "llama.cpp", "--against", "hf")


def test_in_float32_the_reference_decodes_as_both_and_the_wrong_ones_have_their_causes(tmp_path):
    pytest.importorskip("llama_cpp")
    candidates = ["reference", "dsl", "legacy"]
    done, found = judged(tmp_path, model(tmp_path, n_blocks=3), candidates, *BOTH, "--no-q8")
    assert done.exit_code == 1
    for one in tallies(found, "reference").values():
        assert (one["n_agree"], one["n_steps"]) == (24, 24)
        assert one["kl_max"] < 1e-10
    assert causes(found, "legacy") == LAYOUT
    assert causes(found, "dsl") == PAIRING_AND_EPS
    assert all(one["causes"]["text"].startswith("complete: ") for one in found["standings"] if not one["passes"])
    assert [line.split()[:2] for line in done.stdout.splitlines()[:3]] == [
        ["match:", "reference"],
        ["fail:", "dsl"],
        ["fail:", "legacy"],
    ]
    assert found["quantised"] == []


def test_in_q8_0_llama_cpps_rounded_activations_part_it_from_hf_and_only_near_ties_are_excused(tmp_path):
    """The reference is HF's mathematics, and with activations=ggml llama.cpp's; each has the other's tokens but for near-ties."""
    pytest.importorskip("llama_cpp")
    like_ggml = "reference:activations=ggml"
    path = model(tmp_path, "Q8_0", n_blocks=3)
    done, found = judged(tmp_path, path, ["reference", like_ggml], *BOTH, "--no-q8")
    assert done.exit_code == 0
    (parting,) = tallies(found, "hf").values()
    exact, rounded = tallies(found, "reference"), tallies(found, like_ggml)
    assert exact["hf"]["n_agree"] == 24
    assert exact["llama.cpp"]["n_near_ties"] == parting["n_flips"]  # at how many steps, the processor's kernels decide
    for one in (exact["llama.cpp"], *rounded.values()):
        assert one["n_agree"] + one["n_near_ties"] == 24
    assert exact["hf"]["kl_max"] < 1e-10 < rounded["llama.cpp"]["kl_max"] < parting["kl_max"] / 10


@pytest.mark.parametrize(("quantisation", "low", "high"), [("F32", 1e-5, 1), ("Q8_0", 0, 0)])
def test_q8_0s_own_share_is_measured_and_does_not_decide(quantisation, low, high, tmp_path):
    """Weights that are stored in Q8_0 are left as they are."""
    path = model(tmp_path, quantisation)
    done, found = judged(tmp_path, path, ["reference"], "--against", "hf", "--steps", "1")
    assert done.exit_code == 0
    (tally,) = found["quantised"]
    assert (tally["side"], tally["n_steps"]) == ("reference in Q8_0", 3)
    assert low <= tally["kl_max"] <= high
    assert "What quantisation does by itself" in done.stdout


def test_model_that_cannot_be_q8_0_is_judged_with_a_note(tmp_path):
    path = model(tmp_path, kind="qwen3")
    done, found = judged(tmp_path, path, ["reference"], "--against", "hf", "--steps", "1")
    assert done.exit_code == 0
    assert found["quantised"] == []
    assert "Note: Q8_0 was not checked: " in done.stdout


def test_graphs_are_candidates_and_a_folder_keeps_them(tmp_path):
    """The variant hf, judged by the runtime hf, is told from it; its graph, given by its path, is judged the same."""
    path, kept = model(tmp_path), tmp_path / "kept"
    one_step = ("--against", "hf", "--steps", "1", "--no-q8")
    done, found = judged(tmp_path, path, ["hf"], *one_step, "--out", kept)
    assert done.exit_code == 0
    assert {one["name"] for one in found["standings"]} == {"variant hf", "reference"}
    assert {file.name for file in kept.glob("*.onnx")} == {"hf.onnx", "reference.onnx"}
    done, found = judged(tmp_path, path, [kept / "hf.onnx", kept / "hf.onnx"], *one_step)
    assert done.exit_code == 0
    assert [one["name"] for one in found["standings"]] == [str(kept / "hf.onnx"), "reference"]


def test_prompts_as_tokens_need_no_tokenizer(tmp_path):
    (tmp_path / "p.json").write_text('[{"tokens": [1, 5, 3]}]')
    done, found = judged(
        tmp_path, Path("seed"), ["reference"], "--against", "hf", "--prompts", tmp_path / "p.json", "--no-q8"
    )
    assert done.exit_code == 0, done.stdout
    assert found["prompts"][0]["continuation"] is None
    assert "'tokens 1,5,3' (3 tokens) goes on " in done.stdout


@pytest.mark.parametrize(
    ("candidates", "more", "words"),
    [
        (["nonsense"], ("--against", "hf"), "variant nonsense: unknown"),
        (["dsl:rope=up"], ("--against", "hf"), "rope=up is unknown"),
        (["dsl"], ("--against", "hf", "--prompts", "none.json"), "none.json: cannot be read"),
        (["dsl"], ("--against", "hf", "--steps", "60"), "more than the model's context of 64"),
        (["dsl"], ("--against", "hf", "--json", "no/v.json"), "no/v.json: there is no such folder"),
        (["none.onnx"], ("--against", "hf", "--no-q8"), "none.onnx"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_one_line_and_status_2(candidates, more, words, tmp_path):
    done = verdict(model(tmp_path), candidates, "--json", tmp_path / "v.json", *more)
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("opdiff: ")
    assert words in line
    assert not (tmp_path / "v.json").exists()


def test_model_without_a_tokenizer_asks_for_tokens():
    done = verdict("seed", ["dsl"], "--against", "hf")
    assert done.exit_code == 2
    assert "give the prompts as tokens" in done.stderr
