"""Steps in half precision round, and overflow, in every program, whatever onnxruntime would make of their casts."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx_text import FLAT, HEADER, artifact_regions, region_of, run_of, save_text

from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.half_steps import EXACT, half_type, with_half_steps
from opdiff.graphs.run import Runner

HALVES = {10: np.float16, 16: ml_dtypes.bfloat16}


def added_twice(kind: int) -> str:
    """x + x + x, with each sum in half precision."""
    return f"""
    g (float[T,2] x) => (float[T,2] y)
    {{
      half = Cast<to = {kind}>(x)
      twice = Add(half, half)
      thrice = Add(twice, half)
      y = Cast<to = 1>(thrice)
    }}
    """


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("kind", HALVES)
def test_every_step_rounds(tmp_path, kind, precision):
    x = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    half = x.astype(HALVES[kind])
    right = (half + half + half).astype(np.float32)
    assert not np.array_equal(right, 3 * x)
    assert np.array_equal(run_of(region_of(tmp_path, added_twice(kind), "y", y=FLAT), x, precision=precision), right)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_sum_that_passes_65504_is_inf(tmp_path, precision):
    x = np.array([[30000.0, 20000.0]], np.float32)
    y = run_of(region_of(tmp_path, added_twice(10), "y", y=FLAT), x, precision=precision)
    assert np.array_equal(y, [[np.inf, 60000.0]])
    y = run_of(region_of(tmp_path, added_twice(16), "y", y=FLAT), x, precision=precision)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("kind", HALVES)
def test_a_bare_pair_of_casts_rounds(tmp_path, kind, precision):
    text = f"g (float[T,2] x) => (float[T,2] y) {{ half = Cast<to = {kind}>(x) back = Cast<to = 1>(half) y = Add(back, back) }}"
    x = np.array([[1.0001, 70000.0]], np.float32)
    with np.errstate(over="ignore"):
        right = 2 * x.astype(HALVES[kind]).astype(np.float32)
    assert np.array_equal(run_of(region_of(tmp_path, text, "y", y=FLAT), x, precision=precision), right)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("kind", HALVES)
def test_a_product_with_a_weight_in_half_precision_rounds_behind_it(tmp_path, kind, precision):
    text = f"""
    g (float[T,4] x) => (float[T,3] y)
    {{
      half = Cast<to = {kind}>(x)
      turned = Transpose<perm = [1, 0]>(w)
      product = MatMul(half, turned)
      moved = Reshape(product, shape)
      y = Cast<to = 1>(moved)
    }}
    """.replace("moved = Reshape(product, shape)", "moved = Identity(product)")
    random = np.random.default_rng(0)
    x, w = (random.standard_normal(shape).astype(np.float32) for shape in ((2, 4), (3, 4)))
    w = w.astype(HALVES[kind])
    region = artifact_regions(load_artifact(save_text(tmp_path / "g.onnx", text, {"y": FLAT}, {"w": w})))["y"]
    exact = x.astype(HALVES[kind]).astype(np.float64) @ w.astype(np.float64).T
    assert np.array_equal(run_of(region, x, precision=precision), exact.astype(HALVES[kind]).astype(np.float32))


def test_a_tap_in_half_precision_is_read_and_made_as_float32(tmp_path):
    text = "g (float16[T,2] x) => (float16[T,2] y) { y = Add(x, x) }"
    region = region_of(tmp_path, text, "y", y=FLAT)
    for x in (np.float32([[1.5, 40000.0]]), np.float16([[1.5, 40000.0]])):
        assert np.array_equal(run_of(region, x, precision="float32"), [[3.0, np.inf]])


def test_what_a_value_was_before_it_was_rounded_is_there_too(tmp_path):
    region = region_of(tmp_path, added_twice(10), "y", y=FLAT)
    inside = Runner().run_all(region, [np.float32([[30000.0, 1.0]])])
    name = region.program.model.graph.node[2].output[0]
    assert half_type(region.program.model, name) == "float16"
    assert (inside[name].tolist(), inside[name + EXACT].tolist()) == ([[np.inf, 3.0]], [[90000.0, 3.0]])


@pytest.mark.parametrize(
    "body",
    [
        "wide = Cast<to = 1>(w) turned = Transpose<perm = [1, 0]>(wide) out = MatMul(x, turned)",
        "turned = Transpose<perm = [1, 0]>(w) wide = Cast<to = 1>(turned) out = MatMul(x, wide)",
        "rows = Gather(w, tokens) wide = Cast<to = 1>(rows) out = Add(x, wide)",
        "c = Constant<value = float16[4] {1, 2, 3, 4}>() wide = Cast<to = 1>(c) out = Add(x, wide)",
    ],
)
def test_a_program_that_only_reads_weights_in_half_precision_stays_as_it_is(body):
    text = f"g (float[T,4] x, int64[T] tokens, float16[4,4] w) => (float[T,4] out) {{ {body} }}"
    assert with_half_steps(onnx.parser.parse_model(HEADER + text), 2) is None
