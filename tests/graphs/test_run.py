"""Running: onnxruntime where it has the kernels, onnx.reference where it has not; one session for each program."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx_text import FLAT, artifact_regions, region_of, run_of, save_decoder, save_text

from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.errors import InputError
from opdiff.graphs.promote import promoted
from opdiff.graphs.run import Runner, Settings, execution_order, run_regions

TOKENS = np.array([1, 5, 3])


@pytest.fixture
def regions(tmp_path):
    return artifact_regions(load_artifact(save_decoder(tmp_path / "decoder.onnx")))


def celu(folder):
    text = "g (int64[T] tokens) => (float[T] x, float[T] y) { x = Cast<to = 1>(tokens) y = ThresholdedRelu(x) }"
    return region_of(folder, text, "y", x=("token",), y=("token",))


def test_operator_without_a_kernel_in_double_runs_through_the_reference(tmp_path):
    region = celu(tmp_path)
    with pytest.raises(Exception, match=r"ThresholdedRelu|NOT_IMPLEMENTED"):
        ort.InferenceSession(promoted(region.program.model, region.program.n_inputs).SerializeToString())
    found = run_of(region, np.array([0.5, 1.0 + 2**-40, 3.0]))
    np.testing.assert_array_equal(found, [0, 1.0 + 2**-40, 3.0])


def test_equal_programs_share_a_session(regions):
    runner = Runner()
    run_regions(regions, {"tokens": TOKENS}, runner)
    run_regions(regions, {"tokens": TOKENS}, runner)
    assert (runner.n_sessions, runner.n_runs) == (3, 8)


def test_value_that_is_given_is_not_run(regions):
    runner, embed = Runner(), np.ones((3, 4), np.float32)
    values = run_regions(regions, {"tokens": TOKENS, "embed": embed}, runner)
    assert values["embed"] is embed
    assert runner.n_runs == 3


def test_value_that_does_not_fit_is_refused_in_one_line(regions):
    with pytest.raises(InputError, match="cannot run on this input") as caught:
        run_regions(regions, {"tokens": np.array([1, 99])}, Runner())
    assert "\n" not in str(caught.value)


def test_weights_are_fed_from_the_map_and_never_changed(tmp_path):
    artifact = load_artifact(save_decoder(tmp_path / "decoder.onnx"))
    before = (tmp_path / "weights.safetensors").read_bytes()
    for precision in ("float32", "float64"):
        run_regions(artifact_regions(artifact), {"tokens": TOKENS}, Runner(), precision)
    assert (tmp_path / "weights.safetensors").read_bytes() == before


def test_every_value_inside_a_region_can_be_seen(regions):
    region = regions["logits"]
    inside = Runner().run_all(region, [np.ones((3, 4))])
    table = region.weights[0].array.astype(np.float64)
    np.testing.assert_allclose(inside["out"], np.ones((3, 4)) @ table.T, rtol=1e-14)
    assert any(value.shape == (4, 8) for value in inside.values())


def test_scalar_keeps_its_rank_between_regions(tmp_path):
    text = """g (int64[T] tokens) => (float x, float y, float[T] z) {
      f = Cast<to = 1>(tokens) x = ReduceSum<keepdims = 0>(f) y = Neg(x) z = Mul(f, y)
    }"""
    region = region_of(tmp_path, text, "y", x=(), y=(), z=("token",))
    assert run_of(region, np.array(3.0)).shape == ()


def test_order_of_regions_that_read_each_other_in_a_circle_is_none():
    assert execution_order({"a": ["b"], "b": ["c"], "c": ["a"]}) is None
    assert execution_order({"a": ["b"], "b": []}) == ["b", "a"]


@pytest.mark.parametrize("level", ["none", "basic", "extended", "all"])
def test_every_optimisation_level_gives_the_same_double(level, tmp_path):
    text = """g (int64[T] tokens) => (float[T,4] x, float[T,4] y) {
      shape = Constant<value_ints = [-1, 1]>() f = Cast<to = 1>(tokens) c = Reshape(f, shape) x = Concat<axis = 1>(c, c, c, c)
      s = Softmax<axis = -1>(x) t = Transpose<perm = [1, 0]>(s) u = Transpose<perm = [1, 0]>(t) y = Mul(u, x)
    }"""
    region = region_of(tmp_path, text, "y", x=FLAT, y=FLAT)
    x = np.random.default_rng(0).standard_normal((3, 4))
    powers = np.exp(x)
    expected = x * powers / powers.sum(-1, keepdims=True)
    found = Runner(Settings(optimisation=level)).run(region, [x], "float64")
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("kept", ["inside", "outside"])
def test_four_bit_product_rounds_its_activations_in_a_region_as_in_the_whole_graph(kept, tmp_path):
    """onnxruntime prepares constant weights for it, and only then follows accuracy_level."""
    random = np.random.default_rng(0)
    weights = {
        "codes": random.integers(0, 256, (8, 1, 16)).astype(np.uint8),
        "scales": random.random(8).astype(np.float32),
        "table": random.standard_normal((8, 32)).astype(np.float32),
    }
    text = """g (int64[T] tokens) => (float[T,32] embed, float[T,8] logits) {
      embed = Gather(table, tokens)
      logits = com.microsoft.MatMulNBits<K = 32, N = 8, bits = 4, block_size = 32, accuracy_level = 4>(embed, codes, scales)
    }"""
    axes = {"embed": ("token", "channel"), "logits": ("token", "vocab")}
    header = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n'
    path = save_text(tmp_path / "four_bits.onnx", text, axes, weights, header=header)
    if kept == "inside":
        onnx.save(onnx.load(path), path)
    tokens = np.arange(8)
    expected = ort.InferenceSession(str(path)).run(["logits", "embed"], {"tokens": tokens})
    regions, runner = artifact_regions(load_artifact(path)), Runner()
    found = run_regions(regions, {"tokens": tokens}, runner)
    np.testing.assert_array_equal(found["logits"], expected[0])
    double = runner.run(regions["logits"], [expected[1]], "float64")
    assert double.dtype == np.float64
    np.testing.assert_array_equal(double, expected[0].astype(np.float64))
    codes = np.stack((weights["codes"] & 15, weights["codes"] >> 4), -1).reshape(8, 32).astype(np.float64)
    exact = weights["table"] @ ((codes - 8) * weights["scales"][:, None]).T
    assert np.abs(found["logits"] - exact).max() > 1e-3  # activations were rounded to 8 bits
