"""llama.cpp's trace: every stage, and in float32 weights the mathematics of the variant `reference`."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from corpus import models
from corpus.models import KINDS, N_BLOCKS, loadable_gguf, tiny_model
from corpus.vocabulary import N_TOKENS
from hypothesis import given, settings
from hypothesis import strategies as st

from opdiff.__main__ import main
from opdiff.compare.measure import Deviation, deviation
from opdiff.exporters.bound import BoundCheckpoint
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import shared_weights
from opdiff.exporters.runtimes.llama_cpp import _n_context
from opdiff.exporters.tapping import collected
from opdiff.exporters.variants.registry import parse_variant
from opdiff.graphs.axes import to_canonical
from opdiff.graphs.decoder_config import RopeScaling
from opdiff.graphs.errors import InputError
from opdiff.graphs.schedule.steps import parse_schedule
from opdiff.graphs.stages import AFTER_BLOCKS, BEFORE_BLOCKS, IN_BLOCK, graph_order, tap_name
from opdiff.graphs.trace import Trace, load_trace

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed; it is compiled, so it is an extra")

FLOOR = 1e-10  # NMSE; the worst that was measured is 8e-12, at the probabilities of 300 tokens in 3 blocks
PARIS = (504, 3575, 282, 4649, 314)  # "The capital of France is"


def opdiff(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def traced(model: object, tokens: tuple[int, ...], out: Path, schedule: str = "whole") -> Trace:
    how = ("--runtime", "llama.cpp", "--tokens", ",".join(map(str, tokens)), "--schedule", schedule)
    done = opdiff("trace", model, *how, "--out", out)
    assert done.exit_code == 0, done.stderr
    return load_trace(out)


def tiny(kind: str, folder: Path, quantisation: str = "F32") -> Path:
    return loadable_gguf(tiny_model(kind, vocab_size=N_TOKENS), folder / "model.gguf", quantisation)


def tokens_of(n: int) -> tuple[int, ...]:
    return tuple(int(token) for token in np.random.default_rng(n).integers(0, 256, n))


def deviations(variant: str, model: Path, trace: Trace) -> dict[str, Deviation]:
    """Each tap of llama.cpp's against the variant's, run by torch."""
    checkpoint = open_checkpoint(str(model))
    weights = shared_weights(checkpoint, model.with_name("weights.safetensors"), with_q8_0=False)
    module = parse_variant(variant).build(BoundCheckpoint(checkpoint.config, weights))
    with collected() as taps, torch.no_grad():
        module(torch.tensor(trace.tokens))
    assert set(taps) == set(trace.taps)
    found = {}
    for name, tap in sorted(taps.items(), key=lambda item: graph_order(item[0])):
        ours = to_canonical(trace.values[name], trace.taps[name].axes)
        found[name] = deviation(to_canonical(tap.value.numpy(), tap.axes), ours, name.endswith("attn_scores"))
        assert found[name].status == "compared", name
    return found


@pytest.mark.parametrize(
    ("kind", "n_tokens"), [("qwen3", 5), ("qwen3", 1), ("qwen3", 300), ("qwen2", 7), ("llama", 10)]
)
def test_in_float32_every_stage_is_the_references(kind, n_tokens, tmp_path):
    """300 tokens are more than one stretch of the padded KV cache; one token is a shape of its own."""
    model = tiny(kind, tmp_path)
    found = deviations("reference", model, traced(model, tokens_of(n_tokens), tmp_path / "t.safetensors"))
    stages = [s for s in IN_BLOCK if KINDS[kind].architecture == "qwen3" or s not in ("q_norm", "k_norm")]
    assert len(found) == len(BEFORE_BLOCKS) + N_BLOCKS * len(stages) + len(AFTER_BLOCKS)
    assert {name: d.nmse for name, d in found.items() if d.nmse is None or d.nmse > FLOOR} == {}


@pytest.mark.parametrize("schedule", ["batch:2", "batch:3", "batch:2,each", "batch:3,chunks:4"])
def test_among_other_prompts_every_stage_is_the_references(schedule, tmp_path):
    """The others hold the same tokens in another order, so that no row but ours gives these values."""
    model = tiny("qwen3", tmp_path)
    trace = traced(model, tokens_of(7), tmp_path / "t.safetensors", schedule)
    found = deviations("reference", model, trace)
    assert {name: d.nmse for name, d in found.items() if d.nmse is None or d.nmse > FLOOR} == {}
    for block in range(N_BLOCKS):
        np.testing.assert_allclose(
            trace.values[f"blk.{block}.attn_probs"].sum(-1), 1, rtol=1e-6
        )  # no key of another row


def test_another_runtimes_stages_are_not_llama_cpps(tmp_path):
    """The same check on `dsl`, whose RoPE is another: it fails from the rotation on, and not before."""
    model = tiny("qwen3", tmp_path)
    found = deviations("dsl:qk_norm_eps=metadata", model, traced(model, tokens_of(5), tmp_path / "t.safetensors"))
    wrong = [name for name, d in found.items() if d.nmse is None or d.nmse > FLOOR]
    assert wrong[:2] == ["blk.0.q_rope", "blk.0.k_rope"]
    assert wrong[-1] == "logits"


def test_quantised_weights_round_the_activations_too(tmp_path):
    """llama.cpp's own arithmetic is what is recorded: in Q8_0 its products are not those of float32 activations."""
    model = tiny("qwen3_square", tmp_path, "Q8_0")
    found = deviations("reference", model, traced(model, tokens_of(5), tmp_path / "t.safetensors"))
    assert found["blk.0.attn_norm"].nmse is not None
    assert found["blk.0.attn_norm"].nmse < FLOOR
    assert found["blk.0.q_proj"].nmse is not None
    assert 1e-6 < found["blk.0.q_proj"].nmse < 1e-3


def test_scores_are_what_softmax_reads(tmp_path):
    trace = traced(tiny("qwen3", tmp_path), tokens_of(6), tmp_path / "t.safetensors")
    for block in range(N_BLOCKS):
        scores, probs = (trace.values[tap_name(stage, block)] for stage in ("attn_scores", "attn_probs"))
        assert np.array_equal(np.isneginf(scores), np.broadcast_to(~np.tri(6, dtype=bool), scores.shape))
        exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
        np.testing.assert_allclose(exponentials / exponentials.sum(axis=-1, keepdims=True), probs, atol=1e-6)


def test_smollm2_lets_out_every_stage_of_every_block_and_says_paris(tmp_path):
    trace = traced("smollm2", PARIS, tmp_path / "t.safetensors")
    stages = [stage for stage in IN_BLOCK if stage not in ("q_norm", "k_norm")]
    assert set(trace.taps) == {
        *BEFORE_BLOCKS,
        *(tap_name(stage, block) for block in range(30) for stage in stages),
        *AFTER_BLOCKS,
    }
    assert trace.values["logits"].shape == (5, 49152)
    assert trace.values["logits"][-1].argmax() == 7042  # " Paris"
    assert trace.runtime.startswith("llama.cpp (llama-cpp-python ")
    assert trace.facts["checkpoint"] == open_checkpoint("smollm2").sha256
    assert (trace.taps["blk.3.q_rope"].node.name, trace.taps["blk.3.q_rope"].node.op_type) == ("Qcur-3", "ROPE")


def refused(done: Result, out: Path, *words: str) -> None:
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("opdiff: ")
    for word in words:
        assert word in line
    assert not list(out.parent.glob("*safetensors*"))


def test_padding_is_refused(tmp_path):
    model, out = tiny("qwen3", tmp_path), tmp_path / "t.safetensors"
    how = ("--runtime", "llama.cpp", "--tokens", "1,5,3", "--schedule", "pad-left:2,batch:2", "--out", out)
    refused(opdiff("trace", model, *how), out, "llama.cpp knows no padding")


def test_rows_that_would_change_the_rotation_are_refused():
    """llama.cpp chooses longrope's factors by the context, in which all rows stand."""
    scaling = RopeScaling("longrope", short_factors=(1.0,), long_factors=(2.0,), original_context=16)
    assert _n_context(scaling, 8, 16, parse_schedule("batch:2")) == 16
    assert _n_context(scaling, 20, 8, parse_schedule("batch:2")) == 17
    with pytest.raises(InputError, match="schedule batch:3: for a context of 24 tokens"):
        _n_context(scaling, 8, 24, parse_schedule("batch:3"))


def test_what_llama_cpp_dies_of_is_one_line(tmp_path, monkeypatch):
    """Two equal tokens break an assertion of llama.cpp's, which ends its process."""

    def all_alike(writer, n_tokens):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(["a"] * n_tokens)
        writer.add_token_merges(["a a"])

    monkeypatch.setattr(models, "write_vocabulary", all_alike)
    model, out = tiny("qwen3", tmp_path), tmp_path / "t.safetensors"
    done = opdiff("trace", model, "--runtime", "llama.cpp", "--tokens", "1", "--out", out)
    refused(done, out, "model.gguf", "GGML_ASSERT", "--runtime hf")


def test_what_llama_cpp_cannot_load_is_one_line_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "write_vocabulary", lambda writer, n: writer.add_tokenizer_model("nonsense"))
    model, out = tiny("qwen3", tmp_path), tmp_path / "t.safetensors"
    done = opdiff("trace", model, "--runtime", "llama.cpp", "--tokens", "1", "--out", out)
    refused(done, out, "model.gguf", "unknown tokenizer: 'nonsense'")


@given(
    st.lists(st.integers(1, 3), min_size=4, max_size=4),
    st.permutations(range(4)),
    st.sampled_from([(0, np.float32), (1, np.float16)]),
)
@settings(max_examples=40, deadline=None)
def test_memory_is_read_by_its_strides(shape, order, kind):
    """A tensor as ggml would have it, whose dimensions stand in memory in any order."""
    from opdiff.exporters.runtimes.ggml import Node, _Tensor

    number, dtype = kind
    stored = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    view = stored.transpose(order)
    tensor = _Tensor(type=number, data=stored.ctypes.data, name=b"t")
    tensor.ne[:], tensor.nb[:] = view.shape[::-1], view.strides[::-1]
    values = Node(ctypes.addressof(tensor)).values(4)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, view)


def test_the_process_that_runs_llama_cpp_imports_no_torch():
    code = "import opdiff.exporters.runtimes.llama_cpp_child, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
