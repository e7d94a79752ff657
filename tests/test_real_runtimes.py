"""The case's own acceptance against real runtimes, on a Qwen3 with a trained model's vocabulary: verdict, traces and causes.

The checkpoint is made with transformers and written as GGUF in F32 and in Q8_0, which llama.cpp and HF both run.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from corpus.models import loadable_gguf, tiny_model

from opdiff.__main__ import main
from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import export
from opdiff.exporters.runtimes.command import run_trace
from opdiff.exporters.variants.registry import parse_variant

pytest.importorskip("llama_cpp")

VARIANTS = ("reference", "reference:activations=ggml", "dsl", "legacy")
PROMPT = "fun fibonacci(n: Int): Int {"
N_TOKENS = 49152  # SmolLM2's, whose vocabulary it has
BLOCKS = range(3)


@pytest.fixture(scope="module", params=["F32", "Q8_0"])
def folder(request, tmp_path_factory) -> Path:
    """model.gguf, its variants, and a trace by each runtime; the folder is named as the weights are stored."""
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_model("qwen3_in_32s", vocab_size=N_TOKENS)
    path = loadable_gguf(model, folder / "model.gguf", request.param, open_checkpoint("smollm2").path)
    export(open_checkpoint(str(path)), [parse_variant(text) for text in VARIANTS], folder)
    for runtime in ("hf", "llama.cpp"):
        run_trace(str(path), runtime, PROMPT, None, folder / f"{runtime}.safetensors")
    return folder


def is_quantised(folder: Path) -> bool:
    return folder.name.startswith("Q8_0")


def right(folder: Path, runtime: str) -> Path:
    """The graph of the mathematics that a runtime computes."""
    rounds = runtime == "llama.cpp" and is_quantised(folder)
    return folder / ("reference.activations=ggml.onnx" if rounds else "reference.onnx")


def causes(result: Result) -> set[tuple]:
    return {(cause.convention, cause.a_value, cause.b_value, cause.taps) for cause in result.root_causes}


@pytest.mark.parametrize("runtime", ["hf", "llama.cpp"])
def test_right_graph_has_no_region_at_fault_against_the_runtimes_trace(folder, runtime):
    result = compare(folder / f"{runtime}.safetensors", right(folder, runtime))
    assert result.parity, [cause.text for cause in result.root_causes]
    assert len(result.rows) == 1 + 19 * len(BLOCKS) + 2


@pytest.mark.parametrize("variant", ["dsl", "legacy"])
@pytest.mark.parametrize("runtime", ["hf", "llama.cpp"])
def test_wrong_variant_has_the_same_root_causes_against_a_trace_as_against_the_right_graph(folder, runtime, variant):
    trace, wrong = folder / f"{runtime}.safetensors", folder / f"{variant}.onnx"
    by_trace = compare(trace, wrong, reference_path=right(folder, runtime))
    assert causes(by_trace) == causes(compare(right(folder, runtime), wrong, by_trace.tokens))
    expected = {"dsl": {"rope.pairing", "qk_norm.eps"}, "legacy": {"linear.layout"}}[variant]
    rounds = {"linear.activations"} if runtime == "llama.cpp" and is_quantised(folder) else set()
    assert {cause.convention for cause in by_trace.root_causes} == expected | rounds
    assert {cause.reference_agrees_with for cause in by_trace.root_causes} == {"a"}
    assert by_trace.closed.complete


@pytest.mark.parametrize("runtime", ["hf", "llama.cpp"])
def test_trace_as_the_reference_says_who_is_right_in_each_cause(folder, runtime):
    """With quantised weights llama.cpp does neither's products, and still has one's layout."""
    trace = folder / f"{runtime}.safetensors"
    result = compare(folder / "legacy.onnx", folder / "dsl.onnx", None, trace)
    agreed = {cause.convention: cause.reference_agrees_with for cause in result.root_causes}
    assert agreed == {"linear.layout": "b", "rope.pairing": "a", "qk_norm.eps": "a"}
    alone = compare(folder / "legacy.onnx", trace, reference_path=trace)
    assert {cause.reference_agrees_with for cause in alone.root_causes} == {"b"}


def test_verdict_passes_the_reference_and_fails_the_others_for_their_causes(folder, tmp_path):
    arguments = ["verdict", str(folder / "model.gguf"), "--against", "llama.cpp", "--against", "hf"]
    graphs = [folder / f"{variant.replace(':', '.')}.onnx" for variant in VARIANTS]
    arguments += [word for graph in graphs for word in ("--candidate", str(graph))]
    done = CliRunner().invoke(main, [*arguments, "--no-q8", "--json", str(tmp_path / "v.json")])
    assert done.exit_code == 1, done.stderr
    found = json.loads((tmp_path / "v.json").read_text())
    standings = {Path(one["name"]).stem: one for one in found["standings"] if one["is_named"]}
    passing = {name for name, one in standings.items() if one["passes"]}  # rounded activations flip with hf's kernels
    assert {"reference"} <= passing <= {"reference", "reference.activations=ggml"}
    named = {name: {c["convention"] for c in standings[name]["causes"]["root_causes"]} for name in VARIANTS[2:]}
    assert named == {"dsl": {"rope.pairing", "qk_norm.eps"}, "legacy": {"linear.layout"}}
    assert [len(prompt["steps"]) for prompt in found["prompts"]] == [8, 8, 8]
    agreed = {t["side"]: t for t in found["tallies"] if t["reference"] == "hf"}
    assert agreed["reference"]["n_agree"] == agreed["reference"]["n_steps"] == 24
    assert agreed["reference"]["kl_max"] < 1e-9
