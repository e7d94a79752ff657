"""Double precision: a promoted region is numpy's float64, and what is about float32 by its nature stays so."""

from __future__ import annotations

import math

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest
from onnx_text import region_of, run_of

from opdiff.graphs.constants import Exact, constant_fingerprints, fingerprint
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
