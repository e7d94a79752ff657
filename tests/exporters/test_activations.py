"""Activations as ggml rounds them: its own bits in torch and in ONNX, and llama.cpp's matmuls to float32's rounding."""

from __future__ import annotations

import ctypes
import json
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from conftest import exported
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from onnx_text import artifact_regions
from torch import Tensor, nn

import opdiff
from opdiff.compare.conventions import activations as in_numpy
from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result
from opdiff.exporters.bound import STORAGE, BoundCheckpoint
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import export
from opdiff.exporters.to_onnx import to_onnx
from opdiff.exporters.variants.activations import PARTNER, product, to_bfloat16, to_float16, to_q8_0, to_q8_1, to_q8_k
from opdiff.exporters.variants.registry import parse_variant
from opdiff.graphs.artifact import Artifact, load_artifact
from opdiff.graphs.errors import InputError
from opdiff.graphs.regions import Region
from opdiff.graphs.run import Precision, Runner, run_regions
from opdiff.graphs.trace import Trace, load_trace
from opdiff.graphs.weights import WeightFile, write_safetensors

ROUNDINGS = {"q8_0": to_q8_0, "q8_1": to_q8_1, "q8_k": to_q8_k, "float16": to_float16, "bfloat16": to_bfloat16}
LINEAR = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "ffn_gate": "ffn_gate",
    "ffn_up": "ffn_up",
    "ffn_down": "ffn_down",
}
TYPES = (  # block by block, in the order of LINEAR
    ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "F16", "BF16"),
    ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"),
    ("Q4_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4", "Q4_K", "Q5_1"),
)
TYPE_OF = {
    f"blk.{n}.{part}": kind for n, row in enumerate(TYPES) for part, kind in zip(LINEAR.values(), row, strict=True)
}
TAPS = [f"blk.{n}.{stage}" for n in range(len(TYPES)) for stage in LINEAR] + ["logits"]
on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="ggml rounds otherwise elsewhere")


def rows() -> np.ndarray:
    """Rows of 256 of many sizes, with ties, with zeros, and with one value alone."""
    random = np.random.default_rng(0)
    wide = random.standard_normal((3000, 256)) * np.exp(random.uniform(-12, 6, (3000, 1)))
    ties = random.integers(-126, 126, (200, 256)) + 0.5
    ties[:, ::32] = 127
    alone = np.zeros((2, 256))
    alone[1, 40] = -3
    return np.concatenate([wide, ties, -ties * 2.0**-20, alone]).astype(np.float32)


def ggml_rows(function: str, x: np.ndarray, block_bytes: int, block: int) -> np.ndarray:
    """What a ggml function `(x, y, n)` writes: its blocks, uint8."""
    corpus = pytest.importorskip("corpus.quantised")
    library = corpus.ggml_library("cpu")
    library.ggml_cpu_init()
    blocks = np.empty((x.size // block, block_bytes), np.uint8)
    library[function](ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(blocks.ctypes.data), ctypes.c_int64(x.size))
    return blocks


def numbers(blocks: np.ndarray, kind: str) -> np.ndarray:
    return np.ascontiguousarray(blocks).view(kind).astype(np.float32)


@on_x86
def test_q8_0_is_the_running_librarys_bit_for_bit():
    pytest.importorskip("llama_cpp")
    x = rows()
    blocks = ggml_rows("quantize_row_q8_0", x, 34, 32)
    expected = numbers(blocks[:, 2:], "i1") * numbers(blocks[:, :2], "<f2")
    np.testing.assert_array_equal(to_q8_0(torch.from_numpy(x)).numpy(), expected.reshape(x.shape))


@on_x86
def test_q8_1_and_its_sums_are_the_running_librarys_bit_for_bit():
    pytest.importorskip("llama_cpp")
    x = rows()
    blocks = ggml_rows("quantize_row_q8_1", x, 36, 32)
    quants, step, stored_sum = (
        numbers(blocks[:, 4:], "i1"),
        numbers(blocks[:, :2], "<f2"),
        numbers(blocks[:, 2:4], "<f2"),
    )
    rounded, left_over = to_q8_1(torch.from_numpy(x))
    np.testing.assert_array_equal(rounded.numpy(), (quants * step).reshape(x.shape))
    expected = stored_sum - step * quants.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(left_over.numpy(), expected.reshape(len(x), -1))
    assert expected.any()


@on_x86
def test_q8_k_is_the_running_librarys_bit_for_bit():
    pytest.importorskip("llama_cpp")
    x = rows()
    blocks = ggml_rows("quantize_row_q8_K", x, 292, 256)
    expected = numbers(blocks[:, 4:260], "i1") * numbers(blocks[:, :4], "<f4")
    np.testing.assert_array_equal(to_q8_k(torch.from_numpy(x)).numpy(), expected)


def test_q8_0_differs_from_the_gguf_librarys_at_ties_only():
    """That library rounds ties away from zero, and multiplies by 1 / (amax / 127), as ggml's code without SIMD does."""
    x = rows()
    blocks = quantize(x, GGMLQuantizationType.Q8_0).reshape(-1, 34)
    step = numbers(blocks[:, :2], "<f2")
    theirs, ours = numbers(blocks[:, 2:], "i1"), to_q8_0(torch.from_numpy(x)).numpy().reshape(-1, 32)
    values = x.reshape(-1, 32)
    exact = values * (127 / np.maximum(np.abs(values).max(axis=1, keepdims=True), 1e-30).astype(np.float64))
    other = theirs * step != ours
    from_a_tie = np.abs(np.abs(exact - np.trunc(exact)) - 0.5)
    assert other.any()
    assert np.all(from_a_tie[other] <= 4 * 127 * 2.0**-24)
    np.testing.assert_array_equal(np.abs(theirs * step - ours)[other], np.broadcast_to(step, theirs.shape)[other])


@pytest.mark.parametrize("kind", ROUNDINGS)
def test_the_catalogues_rounding_in_numpy_is_torchs_bit_for_bit(kind):
    x = rows()
    made = ROUNDINGS[kind](torch.from_numpy(x))
    rounded, *rest = made if isinstance(made, tuple) else (made,)
    np.testing.assert_array_equal(in_numpy.ROUNDINGS[kind](x).view(np.uint32), rounded.numpy().view(np.uint32))
    for left_over in rest:
        found = in_numpy.q8_1_left_over(x)
        np.testing.assert_array_equal(found.view(np.uint32), left_over.numpy().view(np.uint32))
    assert len(rest) == (kind == "q8_1")


class Table(nn.Module):
    """Rows of a table by token, rounded."""

    def __init__(self, rows: np.ndarray, rounding: Callable[[Tensor], Tensor | tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.from_numpy(rows), requires_grad=False)
        self.rounding = rounding

    def forward(self, tokens: Tensor) -> Tensor:
        x = opdiff.tap("embed", self.rows[tokens], axes="token channel")
        made = self.rounding(x)
        if isinstance(made, tuple):
            made = torch.cat(made, dim=-1)
        return opdiff.tap("logits", made, axes="token channel")


@pytest.mark.parametrize("kind", ROUNDINGS)
def test_exported_rounding_is_torchs_bit_for_bit(kind):
    x = rows()[::60]  # small enough to stay inside the graph
    table = Table(x, ROUNDINGS[kind])
    session = ort.InferenceSession(to_onnx(table, {}).model.SerializeToString())
    found = session.run(["logits"], {"tokens": np.arange(len(x))})[0]
    np.testing.assert_array_equal(found, table(torch.arange(len(x))).numpy())
    assert (found[:, : x.shape[1]] != x).any()


@pytest.fixture(scope="module")
def stored_in_many_types(tmp_path_factory) -> Path:
    """A Qwen3 of which no two blocks are stored alike: model.gguf, reference both ways, legacy, llama.cpp's trace."""
    pytest.importorskip("llama_cpp")
    from corpus.quantised import TOKENS, write_quantised

    from opdiff.exporters.runtimes.llama_cpp import write_trace

    folder = tmp_path_factory.mktemp("many_types")
    model = write_quantised(folder / "model.gguf", lambda name: TYPE_OF.get(name, "Q8_0"), len(TYPES))
    checkpoint = open_checkpoint(str(model))
    variants = ("reference", "reference:activations=ggml", "legacy")
    export(checkpoint, [parse_variant(text) for text in variants], folder, length=len(TOKENS))
    write_trace(checkpoint, TOKENS, folder / "llama.safetensors")
    return folder


class Replay:
    """A graph's regions on llama.cpp's own values of what they read, which has its heads side by side."""

    def __init__(self, path: Path, trace: Trace) -> None:
        self.regions, self.runner = artifact_regions(load_artifact(path)), Runner()
        own = run_regions(self.regions, {"tokens": np.array(trace.tokens)}, self.runner)
        self.values = {name: value.reshape(own[name].shape) for name, value in trace.values.items()}

    def run(self, tap: str, precision: Precision = "float64") -> np.ndarray:
        region = self.regions[tap]
        return self.runner.run(region, [self.values[name] for name in region.inputs], precision)


def far(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(np.subtract(a, b, dtype=np.float64)))


@on_x86
@pytest.mark.parametrize("tap", TAPS)
def test_llama_cpps_matmul_is_met_to_float32_rounding_and_the_exact_one_is_not(tap, stored_in_many_types):
    """On one input, for each storage type. The bar lies half-way, on a log scale, from float32's rounding to the effect."""
    trace = load_trace(stored_in_many_types / "llama.safetensors")
    rounded = Replay(stored_in_many_types / "reference.activations=ggml.onnx", trace)
    exact = Replay(stored_in_many_types / "reference.onnx", trace)
    floor = far(rounded.run(tap), rounded.run(tap, "float32"))
    effect = far(exact.run(tap), exact.values[tap])
    assert far(rounded.run(tap), rounded.values[tap]) < (floor * effect) ** 0.5 < effect / 10


def causes(result: Result) -> dict[str, set[tuple[str | None, str | None]]]:
    """At each tap, B's conventions and their values."""
    found: dict[str, set[tuple[str | None, str | None]]] = {}
    for cause in result.root_causes:
        assert cause.also_fits == (), cause
        for tap in cause.taps:
            found.setdefault(tap, set()).add((cause.convention, cause.b_value))
    return found


NAMES = {"Q8_0": "q8_0", "Q8_1": "q8_1", "Q8_K": "q8_k", "F16": "float16", "BF16": "bfloat16"}
ROUNDED = {  # what llama.cpp's rounding is called at each matmul
    f"blk.{n}.{stage}": {("linear.activations", NAMES[PARTNER[kind]])}
    for n, row in enumerate(TYPES)
    for stage, kind in zip(LINEAR, row, strict=True)
} | {"logits": {("linear.activations", "q8_0")}}


@on_x86
def test_llama_cpps_rounding_is_named_at_each_matmul_with_its_type_and_nothing_else_is(stored_in_many_types):
    from corpus.quantised import TOKENS

    folder = stored_in_many_types
    against_llama_cpp = compare(folder / "reference.onnx", folder / "llama.safetensors")
    assert causes(against_llama_cpp) == ROUNDED
    assert against_llama_cpp.closed.complete
    of_its_own = compare(folder / "reference.onnx", folder / "reference.activations=ggml.onnx", TOKENS)
    assert causes(of_its_own) == ROUNDED
    assert of_its_own.closed.complete


@on_x86
def test_transposed_weights_and_llama_cpps_rounding_are_told_apart(stored_in_many_types):
    folder = stored_in_many_types
    names = ("legacy.onnx", "llama.safetensors", "reference.activations=ggml.onnx")
    a, b, reference = (folder / name for name in names)
    found = compare(a, b, reference_path=reference)
    square = {f"blk.{n}.{stage}" for n in range(len(TYPES)) for stage in ("q_proj", "o_proj")}
    expected = {
        tap: said | ({("linear.layout", "out_in")} if tap in square else set()) for tap, said in ROUNDED.items()
    }
    assert causes(found) == expected
    assert {cause.reference_agrees_with for cause in found.root_causes} == {"b"}
    assert found.closed.complete


@on_x86
def test_a_matmul_that_stays_in_float32_is_not_said_to_round(tmp_path):
    """Rows of 80 are no blocks of 32, so ffn_down is stored in F32. On either side of the comparison."""
    pytest.importorskip("llama_cpp")
    from corpus.models import N_BLOCKS, loadable_gguf, tiny_model
    from corpus.vocabulary import N_TOKENS

    from opdiff.exporters.runtimes.llama_cpp import write_trace

    model = loadable_gguf(tiny_model("qwen3_square", vocab_size=N_TOKENS), tmp_path / "model.gguf", "Q8_0")
    checkpoint = open_checkpoint(str(model))
    (reference,) = export(checkpoint, [parse_variant("reference")], tmp_path, length=4)
    write_trace(checkpoint, (1, 5, 3, 17), tmp_path / "llama.safetensors")
    stages = set(LINEAR) - {"ffn_down"}
    rounded = {f"blk.{n}.{stage}" for n in range(N_BLOCKS) for stage in stages} | {"logits"}
    found = compare(reference, tmp_path / "llama.safetensors")
    assert causes(found) == {tap: {("linear.activations", "q8_0")} for tap in rounded}
    turned = compare(tmp_path / "llama.safetensors", reference)
    assert causes(turned) == {tap: {("linear.activations", "exact")} for tap in rounded}


@on_x86
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K"])
def test_logits_of_a_quantised_run_are_met_at_most_tokens_and_by_exact_activations_at_none(kind, tmp_path):
    """A value next to a tie may fall on its other side, which moves a token here and there by a whole quant."""
    pytest.importorskip("llama_cpp")
    from corpus.quantised import TOKENS, write_quantised

    from opdiff.exporters.runtimes.llama_cpp import write_trace

    checkpoint = open_checkpoint(str(write_quantised(tmp_path / "model.gguf", lambda name: kind, n_blocks=1)))
    variants = [parse_variant("reference"), parse_variant("reference:activations=ggml")]
    paths = export(checkpoint, variants, tmp_path, length=len(TOKENS))
    write_trace(checkpoint, TOKENS, tmp_path / "llama.safetensors")
    trace = load_trace(tmp_path / "llama.safetensors")
    exact, rounded = (artifact_regions(load_artifact(path)) for path in paths)
    floor = furthest(logits(exact, TOKENS, "float64"), logits(exact, TOKENS)).max()
    effect, left = (furthest(logits(regions, TOKENS), trace.values["logits"]) for regions in (exact, rounded))
    assert np.median(left) < (floor * np.median(effect)) ** 0.5 < effect.min()


def logits(regions: dict[str, Region], tokens: tuple[int, ...], precision: Precision = "float32") -> np.ndarray:
    return run_regions(regions, {"tokens": np.array(tokens)}, Runner(), precision)["logits"]


def furthest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The largest difference at each token."""
    return np.abs(a - b).max(axis=1)


def test_minimums_are_the_least_values_of_their_blocks(stored_in_many_types):
    checkpoint = open_checkpoint(str(stored_in_many_types / "model.gguf"))
    for name in ("blk.0.attn_v.weight", "blk.0.ffn_gate.weight"):  # Q4_1, Q5_1
        least = checkpoint.tensor(name).reshape(checkpoint.shape(name)[0], -1, 32).min(axis=-1)
        np.testing.assert_array_equal(checkpoint.mins(name), least)


def rounded_regions(artifact: Artifact) -> set[str]:
    """The taps whose regions round their input to 8 bits."""
    regions = artifact_regions(artifact)
    return {tap for tap, region in regions.items() if any(op.startswith("ToQ8") for op in region.program.operators)}


@pytest.fixture(scope="module")
def seed_in_q8_0(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("seed_in_q8_0")
    variants = ("reference:weights=q8_0", "reference:weights=q8_0:activations=ggml", "reference:activations=ggml")
    exported("seed", variants, folder, length=3)
    return folder


def test_weights_in_q8_0_count_as_such_and_float32_ones_round_nothing(seed_in_q8_0):
    linear = {f"blk.0.{stage}" for stage in LINEAR} | {"logits"}
    assert rounded_regions(load_artifact(seed_in_q8_0 / "reference.weights=q8_0.activations=ggml.onnx")) == linear
    assert rounded_regions(load_artifact(seed_in_q8_0 / "reference.activations=ggml.onnx")) == set()


def test_rounded_activations_are_found_at_every_linear_layer_and_nowhere_else(seed_in_q8_0):
    exact, rounded = (seed_in_q8_0 / f"reference.weights=q8_0{end}.onnx" for end in ("", ".activations=ggml"))
    found = compare(exact, rounded, (1, 5, 3))
    assert {one.tap for one in found.divergences} == {f"blk.0.{stage}" for stage in LINEAR} | {"logits"}
    assert {row.verdict for row in found.rows if row.tap not in {one.tap for one in found.divergences}} == {"same"}
    assert all(one.floor < 1e-4 * one.error for one in found.divergences)


def test_storage_type_whose_rounding_is_not_known_is_refused(seed_in_q8_0, tmp_path):
    write_safetensors(tmp_path / "w", [], {STORAGE: json.dumps({"output.weight": "NVFP4"})})
    bound = BoundCheckpoint(open_checkpoint(str(seed_in_q8_0 / "seed.gguf")).config, WeightFile(tmp_path / "w"))
    with pytest.raises(InputError, match=r"output\.weight: stored as NVFP4, .*activations=exact"):
        product(bound, "output.weight", "as_stored", "ggml")
