"""A trace as a side: real runtimes' values against graphs, in both places, as little of them as there is, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import exported
from corpus.models import TOKENS, loadable_gguf, tiny_model
from corpus.vocabulary import N_TOKENS

from opdiff.__main__ import main
from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result
from opdiff.exporters.runtimes.command import run_trace
from opdiff.graphs.errors import InputError
from opdiff.graphs.trace import Trace, load_trace, save_trace

RUNTIMES = ["hf", "llama.cpp"]
PARIS = "504,3575,282,4649,314"  # "The capital of France is"


def opdiff(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def needs(runtime: str) -> None:
    pytest.importorskip("llama_cpp" if runtime == "llama.cpp" else "transformers")


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory) -> Path:
    """A tiny Qwen3 in float32 whose attn_q and attn_output are square, by right and wrong variants; traces by request."""
    folder = tmp_path_factory.mktemp("qwen3")
    model = loadable_gguf(tiny_model("qwen3_square", vocab_size=N_TOKENS), folder / "model.gguf")
    exported(str(model), ("reference", "legacy"), folder, length=len(TOKENS))
    exported(str(model), ("dsl",), folder)  # for any number of tokens
    return folder


def traced(folder: Path, runtime: str) -> Path:
    needs(runtime)
    path = folder / f"{runtime}.safetensors"
    if not path.exists():
        run_trace(str(folder / "model.gguf"), runtime, None, ",".join(map(str, TOKENS)), path)
    return path


def causes(result: Result, mirrored: bool = False) -> set[tuple]:
    """Convention, values and places; mirrored: as they are with the sides exchanged."""
    return {
        (c.convention, *((c.b_value, c.a_value) if mirrored else (c.a_value, c.b_value)), c.taps)
        for c in result.root_causes
    }


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_reference_has_no_region_at_fault(qwen3, runtime):
    result = compare(qwen3 / "reference.onnx", traced(qwen3, runtime))
    assert result.parity
    assert {row.verdict for row in result.rows} <= {"same", "rounding"}
    assert len(result.rows) == len(load_trace(traced(qwen3, runtime)).taps)


@pytest.mark.parametrize("variant", ["dsl", "legacy"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_wrong_variant_has_the_root_causes_that_it_has_against_the_reference(qwen3, runtime, variant):
    graph, trace = qwen3 / f"{variant}.onnx", traced(qwen3, runtime)
    expected = causes(compare(qwen3 / "reference.onnx", graph, TOKENS))
    assert expected
    as_a = compare(trace, graph)
    assert causes(as_a) == expected
    assert causes(compare(graph, trace), mirrored=True) == expected
    assert as_a.closed.complete
    assert "every region was run on the trace's own values" in as_a.closed.text


def test_reference_says_who_is_right_as_a_graph_and_as_a_trace(qwen3):
    trace = traced(qwen3, "hf")
    by_graph = compare(trace, qwen3 / "dsl.onnx", reference_path=qwen3 / "reference.onnx")
    assert {c.reference_agrees_with for c in by_graph.root_causes} == {"a"}
    by_trace = compare(qwen3 / "dsl.onnx", qwen3 / "reference.onnx", TOKENS, trace)
    assert {c.reference_agrees_with for c in by_trace.root_causes} == {"b"}
    assert by_trace.verdict == "by the reference, reference is right and dsl is not"


def test_effects_are_not_known_and_that_is_said(qwen3):
    result = compare(traced(qwen3, "hf"), qwen3 / "legacy.onnx")
    assert {divergence.effect for divergence in result.divergences} == {None}
    assert any("a trace cannot run on" in note for note in result.notes)


def rewritten(trace: Trace, path: Path, keep=lambda name: True, dtype=np.float32, tokens=True) -> Path:
    pairs = [(trace.taps[name], value.astype(dtype)) for name, value in trace.values.items() if keep(name)]
    save_trace(path, "mine", trace.tokens if tokens else None, pairs, {})
    return path


def test_runtime_that_lets_out_little_is_compared_over_what_lies_between(qwen3, tmp_path):
    whole = load_trace(traced(qwen3, "hf"))
    few = rewritten(whole, tmp_path / "few.safetensors", lambda name: name in ("blk.0.ffn_residual", "logits"))
    assert compare(qwen3 / "reference.onnx", few).parity
    wrong = compare(qwen3 / "legacy.onnx", few)
    assert [d.tap for d in wrong.divergences] == ["blk.0.ffn_residual", "logits"]
    assert len(wrong.only_a) == len(whole.taps) - 2


def test_values_in_float16_are_compared_to_what_float16_resolves(qwen3, tmp_path):
    half = rewritten(load_trace(traced(qwen3, "hf")), tmp_path / "half.safetensors", dtype=np.float16)
    assert compare(qwen3 / "reference.onnx", half).parity
    wrong = compare(qwen3 / "legacy.onnx", half)
    assert {d.stage for d in wrong.divergences} >= {"q_proj", "o_proj"}
    assert all(cause.convention == "linear.layout" for cause in wrong.root_causes)


def test_name_map_tells_a_foreign_runtimes_tensors(qwen3, tmp_path):
    trace = load_trace(traced(qwen3, "hf"))
    theirs = {name.replace("blk.", "layer_"): value[0] for name, value in trace.values.items()}  # without its batch
    np.savez(tmp_path / "mine.npz", ids=np.array(TOKENS), scratch=np.zeros(3), **theirs)
    stages = {tap.stage: tap.axes[1:] for name, tap in trace.taps.items() if name.startswith("blk.")}
    named = [f'"layer_{{N}}.{stage}" = "blk.{{N}}.{stage}"' for stage in stages]
    turned = [f'{stage} = "{" ".join(axes)}"' for stage, axes in stages.items() if axes[0] == "head"]
    assert turned
    names = tmp_path / "names.toml"
    names.write_text("\n".join(["[names]", '"ids" = "tokens"', *named, "[axes]", *turned]))
    done = opdiff("compare", qwen3 / "reference.onnx", tmp_path / "mine.npz", "--names", names)
    assert done.exit_code == 0, done.stderr
    assert "1 tensors of B are no stages, and were left out: scratch" in done.stdout
    wrong = opdiff(
        "compare", tmp_path / "mine.npz", qwen3 / "dsl.onnx", "--names", names, "--json", tmp_path / "r.json"
    )
    assert wrong.exit_code == 1
    found = {cause["convention"] for cause in json.loads((tmp_path / "r.json").read_text())["root_causes"]}
    assert found == {"rope.pairing", "qk_norm.eps"}


def test_stage_that_is_not_what_the_runtime_went_on_with_is_named(qwen3, tmp_path):
    """A buffer that was reused before it was written: what reads it agrees, and it is said all the same."""
    trace = load_trace(traced(qwen3, "hf"))
    values = {name: value * (1.01 if name == "blk.1.ffn_up" else 1) for name, value in trace.values.items()}
    pairs = [(trace.taps[name], value) for name, value in values.items()]
    save_trace(tmp_path / "mine.safetensors", "mine", trace.tokens, pairs, {})
    done = opdiff("compare", qwen3 / "reference.onnx", tmp_path / "mine.safetensors")
    assert done.exit_code == 0
    assert "but for ffn_up and ffn_act in block 1, which differ and agree in what reads them" in done.stdout
    assert "what the trace holds there is not what its runtime went on with" in done.stdout


def test_graphs_of_models_of_other_sizes_are_refused(qwen3, seed):
    with pytest.raises(InputError, match="of different models"):
        compare(qwen3 / "reference.onnx", seed / "reference.onnx", TOKENS)


def test_two_traces_are_refused_with_the_way_out(qwen3):
    trace = traced(qwen3, "hf")
    with pytest.raises(InputError, match=r"both are traces.*--variant reference"):
        compare(trace, trace)


def test_tokens_that_are_not_the_traces_are_refused(qwen3, tmp_path):
    trace = traced(qwen3, "hf")
    with pytest.raises(
        InputError, match=r"hf\.safetensors: its tokens are 1,5,3,17,42,5,\.\.\. \(10\), where --tokens has 1,2"
    ):
        compare(qwen3 / "dsl.onnx", trace, [1, 2])
    unsaid = rewritten(load_trace(trace), tmp_path / "unsaid.safetensors", tokens=False)
    with pytest.raises(InputError, match="no tokens: give the input"):
        compare(qwen3 / "dsl.onnx", unsaid)
    with pytest.raises(InputError, match="it is of 10 tokens, where 2 are given"):
        compare(qwen3 / "dsl.onnx", unsaid, [1, 2])
    assert compare(qwen3 / "reference.onnx", unsaid, TOKENS).parity


def test_graphs_alone_want_tokens(qwen3):
    done = opdiff("compare", qwen3 / "dsl.onnx", qwen3 / "legacy.onnx")
    assert (done.exit_code, done.stderr) == (2, "opdiff: no tokens: give the input, as in --tokens 1,5,3\n")


@pytest.mark.parametrize(("runtime", "variant"), [("hf", "reference"), ("llama.cpp", "reference.activations=ggml")])
def test_smollm2_has_no_region_at_fault_in_30_blocks(smollm2, runtime, variant, tmp_path):
    needs(runtime)
    trace = Path(run_trace("smollm2", runtime, None, PARIS, tmp_path / "t.safetensors"))
    result = compare(smollm2 / f"{variant}.onnx", trace)
    assert result.parity, [cause.text for cause in result.root_causes]
    assert {row.block for row in result.rows} == {None, *range(30)}
    if runtime == "hf":  # whose heads' channels stand in another order than in the GGUF
        assert any("q_proj, k_proj, q_rope and k_rope in blocks 0 to 29" in note for note in result.notes)
        few = load_trace(trace)
        sparse = rewritten(few, tmp_path / "few.safetensors", lambda name: name[-6:] not in ("scores", "_probs"))
        without = compare(smollm2 / f"{variant}.onnx", sparse)  # as of a runtime with fused attention
        assert (without.parity, without.cancelling) == (True, ())
        wrong = compare(trace, smollm2 / "legacy.onnx", reference_path=smollm2 / "reference.onnx")
        expected = compare(smollm2 / "reference.onnx", smollm2 / "legacy.onnx", result.tokens)
        assert causes(wrong) == causes(expected)
        assert {c.reference_agrees_with for c in wrong.root_causes} == {"a"}
