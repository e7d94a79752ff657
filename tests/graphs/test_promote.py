"""Double precision: a promoted region is numpy's float64, and what is about float32 by its nature stays so."""

from __future__ import annotations

import math

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest
from onnx_text import region_of, run_of

from opdiff.graphs.constants import Exact, constant_fingerprints, fingerprint
from opdiff.graphs.kernels import kept_in_single
from opdiff.graphs.promote import PERTURBATION_ULPS, promoted

X = np.random.default_rng(0).standard_normal((5, 4))
FLAT = ("token", "channel")
UNIT = 2.0**-53


def region(folder, body: str, head: str = ""):
    """The region of `y`, which reads the tap `x` [T, 4]."""
    text = f"""g (int64[T] tokens) => (float[T,4] x, float[T,4] y) {head} {{
      shape = Constant<value_ints = [-1, 1]>()
      as_float = Cast<to = 1>(tokens)
      column = Reshape(as_float, shape)
      x = Concat<axis = 1>(column, column, column, column)
      {body}
    }}"""
    return region_of(folder, text, "y", x=FLAT, y=FLAT)


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


erf = np.vectorize(math.erf)
F32 = np.float32
CASES = {
    "softmax": ("y = Softmax<axis = -1>(x)", softmax),
    "layer norm": (
        "y = LayerNormalization<axis = -1, epsilon = 1e-5>(x, one)",
        lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + np.float64(F32(1e-5))),
    ),
    "rms norm": (
        """m = Mul(x, x) a = Constant<value_ints = [-1]>() s = ReduceMean(m, a)
           e = Constant<value_float = 1e-6>() t = Add(s, e) r = Sqrt(t) y = Div(x, r)""",
        lambda x: x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float64(F32(1e-6))),
    ),
    "constants as floats": (
        "c = Constant<value_floats = [0.1, 0.2, 0.3, 0.4]>() y = Mul(x, c)",
        lambda x: x * F32([0.1, 0.2, 0.3, 0.4]).astype(np.float64),
    ),
    "inline weight": ("y = Mul(x, tenth)", lambda x: x * np.float64(F32(0.1))),
    "cast": ("i = Floor(x) h = Cast<to = 7>(i) f = Cast<to = 1>(h) y = Add(x, f)", lambda x: x + np.floor(x)),
    "masked": (
        "z = Constant<value_float = 0.0>() m = Greater(x, z) w = Constant<value_float = -inf>() y = Where(m, x, w)",
        lambda x: np.where(x > 0, x, -np.inf),
    ),
    "sine": ("s = Sin(x) c = Cos(x) y = Add(s, c)", lambda x: np.sin(x) + np.cos(x)),
    "gelu": ("y = Gelu(x)", lambda x: x * (1 + erf(x / np.sqrt(2))) / 2),
    "no kernel in double": ("y = ThresholdedRelu<alpha = 0.1>(x)", lambda x: np.where(x > np.float64(F32(0.1)), x, 0)),
    "elu without a kernel": ("y = Celu<alpha = 1.0>(x)", lambda x: np.maximum(x, 0) + np.minimum(0, np.expm1(x))),
    "made by shape": (
        "s = Shape(x) z = ConstantOfShape<value = float[1] {0.1}>(s) y = Add(x, z)",
        lambda x: x + np.float64(F32(0.1)),
    ),
}
HEAD = "<float[4] one = {1, 1, 1, 1}, float tenth = {0.1}>"


@pytest.mark.parametrize("name", CASES)
def test_region_in_double_is_numpys_float64(name, tmp_path):
    body, expected = CASES[name]
    found = run_of(region(tmp_path, body, HEAD), X)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected(X), rtol=64 * UNIT, atol=64 * UNIT)


@pytest.mark.parametrize("name", CASES)
def test_region_in_single_stays_in_single(name, tmp_path):
    body, expected = CASES[name]
    found = run_of(region(tmp_path, body, HEAD), X, precision="float32")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(X.astype(np.float32).astype(np.float64)), rtol=1e-5, atol=1e-6)


def test_half_precision_on_purpose_is_not_promoted_away(tmp_path):
    found = run_of(region(tmp_path, "h = Cast<to = 10>(x) y = Cast<to = 1>(h)"), X)
    np.testing.assert_array_equal(found, X.astype(np.float16).astype(np.float64))


def test_dequantised_weights_are_the_same_bits_in_both_precisions(tmp_path):
    random = np.random.default_rng(1)
    quants, scales = random.integers(-128, 128, (4, 4)), random.random(4).astype(np.float32)
    listed = ", ".join(map(str, quants.ravel())), ", ".join(map(str, scales))
    head = f"<int8[4,4] q = {{{listed[0]}}}, float[4] s = {{{listed[1]}}}>"
    made = region(tmp_path, "w = DequantizeLinear<axis = 0>(q, s) y = MatMul(x, w)", head)
    exact = quants.astype(np.float32) * scales[:, None]
    np.testing.assert_array_equal(run_of(made, np.eye(4)), exact.astype(np.float64))
    np.testing.assert_array_equal(run_of(made, np.eye(4), precision="float32"), exact)


ROUNDED = """<ir_version: 10, opset_import: ["" : 21, "opdiff.float32" : 1]>
g (float[T,4] i0) => (float[T,4] out) { r = opdiff.float32.ToThirds(i0) out = Mul(r, r) }
<domain: "opdiff.float32", opset_import: ["" : 21]>
ToThirds (x) => (y) { three = Constant<value = float {3.0}>() t = Div(x, three) w = Round(t) f = Div(w, three) y = Add(f, t) }
"""


def test_float32_functions_give_the_same_bits_in_both_precisions_and_what_follows_is_double():
    model = onnx.parser.parse_model(ROUNDED)
    x = np.random.default_rng(2).uniform(-40, 40, (50, 4)).astype(np.float32)
    rounded = np.rint(x / F32(3)) / F32(3) + x / F32(3)
    session = ort.InferenceSession(promoted(model, n_inputs=1).SerializeToString())
    found = session.run(["out"], {"i0": x.astype(np.float64)})[0]
    np.testing.assert_array_equal(found, rounded.astype(np.float64) ** 2)
    assert (found != np.square(rounded)).any()


def test_branches_are_promoted_with_the_rest(tmp_path):
    body = """n = Size(x) none = Constant<value_int = 0>() some = Greater(n, none)
      y = If (some) < then_branch = a () => (float[T,4] p) { c = Constant<value_float = 0.1>() p = Mul(x, c) },
                      else_branch = b () => (float[T,4] q) { q = Neg(x) } >"""
    np.testing.assert_allclose(run_of(region(tmp_path, body), X), X * np.float64(F32(0.1)), rtol=4 * UNIT)


def moved(made, exact: Exact = frozenset()) -> np.ndarray:
    """By how much, relative, the region's output moves when its constants do."""
    return run_of(made, X, perturb=exact) / run_of(made, X) - 1


def test_perturbing_moves_a_rounded_constant_by_its_last_places_and_a_short_one_not_at_all(tmp_path):
    constant = "c = Constant<value_float = {}>() y = Mul(x, c)"
    for value in (0.5, 3.0, -0.125, 1024.0):
        assert not moved(region(tmp_path, constant.format(value))).any()
    far = np.abs(moved(region(tmp_path, constant.format(0.1))))
    assert np.all(far > 0)
    assert np.all(far <= PERTURBATION_ULPS * 2.0**-24 + 4 * UNIT)


def test_perturbing_leaves_the_constants_that_are_named_as_exact(tmp_path):
    made = region(tmp_path, "y = Mul(x, tenth)", HEAD)
    assert moved(made).all()
    assert not moved(made, frozenset([fingerprint(np.array([0.1], np.float32))])).any()


CONSTANTS = {
    "inline": "y = Mul(x, tenth)",
    "value": "c = Constant<value = float {0.1}>() y = Mul(x, c)",
    "value_float": "c = Constant<value_float = 0.1>() y = Mul(x, c)",
    "value_floats": "c = Constant<value_floats = [0.1]>() y = Mul(x, c)",
}


@pytest.mark.parametrize("written", CONSTANTS)
def test_constant_is_known_however_it_is_written(written, tmp_path):
    made = region(tmp_path, CONSTANTS[written], HEAD)
    assert fingerprint(np.array([0.1], np.float32)) in constant_fingerprints(made)


def test_running_in_double_leaves_the_program_as_it_is(tmp_path):
    made = region(tmp_path, CASES["rms norm"][0])
    before = made.program.model.SerializeToString()
    run_of(made, X)
    assert made.program.model.SerializeToString() == before


CONTRIBUTED = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n'
IN_SINGLE = {
    "rotary embedding": (
        """g (float[1,2,T,4] i0, int64[1,T] i1, float[8,2] w0, float[8,2] w1) => (float[1,2,T,4] out) {
          two = Constant<value = float {2.0}>() x = Mul(i0, two)
          r = com.microsoft.RotaryEmbedding<interleaved = 1>(x, i1, w0, w1) out = Mul(r, r) }""",
        ("RotaryEmbedding",),
    ),
    "beside an operator of onnx's own that has no kernel in double": (
        """g (float[1,2,T,4] i0, int64[1,T] i1, float[8,2] w0, float[8,2] w1) => (float[1,2,T,4] out) {
          r = com.microsoft.RotaryEmbedding(i0, i1, w0, w1) e = Erf(r) out = Mul(e, e) }""",
        ("RotaryEmbedding", "Erf"),
    ),
}


@pytest.mark.parametrize("name", IN_SINGLE)
def test_operator_of_onnxruntimes_own_without_a_kernel_in_double_stays_in_single_and_what_follows_is_double(name):
    body, kept = IN_SINGLE[name]
    model = onnx.parser.parse_model(CONTRIBUTED + body)
    random = np.random.default_rng(3)
    feeds = {
        "i0": random.standard_normal((1, 2, 3, 4)).astype(np.float32),
        "i1": np.arange(3)[None],
        "w0": random.standard_normal((8, 2)).astype(np.float32),
        "w1": random.standard_normal((8, 2)).astype(np.float32),
    }
    assert kept_in_single(model) == kept
    whole = onnx.ModelProto.FromString(model.SerializeToString())
    whole.graph.output[0].name = whole.graph.node[-1].input[0]  # what is squared
    (single,) = ort.InferenceSession(whole.SerializeToString()).run(None, feeds)
    double = promoted(model, n_inputs=2)
    onnx.checker.check_model(double)
    session = ort.InferenceSession(double.SerializeToString())
    (found,) = session.run(None, {**feeds, "i0": feeds["i0"].astype(np.float64)})
    np.testing.assert_array_equal(found, single.astype(np.float64) ** 2)
    assert (found != np.square(single)).any()


def test_four_bit_product_keeps_its_float32_and_its_integers():
    model = onnx.parser.parse_model(
        CONTRIBUTED
        + """g (float[T,32] i0, uint8[8,1,16] w0, float[8] w1, uint8[8] w2) => (float[T,8] out) {
          out = com.microsoft.MatMulNBits<K = 32, N = 8, bits = 4, block_size = 32>(i0, w0, w1, w2) }"""
    )
    random = np.random.default_rng(4)
    feeds = {
        "i0": random.standard_normal((3, 32)).astype(np.float32),
        "w0": random.integers(0, 256, (8, 1, 16)).astype(np.uint8),
        "w1": random.random(8).astype(np.float32),
        "w2": random.integers(0, 16, 8).astype(np.uint8),
    }
    (single,) = ort.InferenceSession(model.SerializeToString()).run(None, feeds)
    session = ort.InferenceSession(promoted(model, n_inputs=1).SerializeToString())
    (found,) = session.run(None, {**feeds, "i0": feeds["i0"].astype(np.float64)})
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, single.astype(np.float64))
    codes = np.stack((feeds["w0"] & 15, feeds["w0"] >> 4), -1).reshape(8, 32).astype(np.float64)
    weight = (codes - feeds["w2"][:, None]) * feeds["w1"][:, None]
    np.testing.assert_allclose(found, feeds["i0"] @ weight.T, rtol=1e-4, atol=1e-4)


def test_operator_of_onnxruntimes_own_that_has_a_kernel_in_double_is_promoted():
    model = onnx.parser.parse_model(
        CONTRIBUTED + "g (float[3,4] i0, float[4,5] w0) => (float[3,5] out) { out = com.microsoft.FusedMatMul(i0, w0) }"
    )
    assert kept_in_single(model) == ()
    x, w = X[:3], np.random.default_rng(5).standard_normal((4, 5)).astype(np.float32)
    session = ort.InferenceSession(promoted(model, n_inputs=1).SerializeToString())
    np.testing.assert_allclose(session.run(None, {"i0": x, "w0": w})[0], x @ w.astype(np.float64), rtol=1e-13)


OPSET_23 = '<ir_version: 11, opset_import: ["" : 23]>\n'


def test_attention_and_rotary_embedding_of_opset_23_are_double_by_their_definitions():
    model = onnx.parser.parse_model(
        OPSET_23
        + """g (float[1,2,5,4] i0, int64[1,5] i1, float[5,2] w0, float[5,2] w1) => (float[1,2,5,4] out) {
          r = RotaryEmbedding(i0, w0, w1, i1) out = Attention<is_causal = 1>(r, r, i0) }"""
    )
    random = np.random.default_rng(6)
    x, angles = random.standard_normal((1, 2, 5, 4)), random.random((5, 2)).astype(np.float32)
    cos, sin = np.cos(angles), np.sin(angles)
    assert kept_in_single(model) == ()
    double = promoted(model, n_inputs=2)
    assert not {"Attention", "RotaryEmbedding"} & {node.op_type for node in double.graph.node}
    session = ort.InferenceSession(double.SerializeToString())
    (found,) = session.run(None, {"i0": x, "i1": np.arange(5)[None], "w0": cos, "w1": sin})
    c, s = cos.astype(np.float64), sin.astype(np.float64)
    u, v = x[..., :2], x[..., 2:]
    turned = np.concatenate((u * c - v * s, v * c + u * s), -1)
    scores = turned @ turned.swapaxes(-1, -2) / 2 + np.triu(np.full((5, 5), -np.inf), 1)
    np.testing.assert_allclose(found, softmax(scores) @ x, rtol=1e-13, atol=1e-14)
