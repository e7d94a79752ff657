"""Products with weights: a few rows of the weight at a time, so that no whole copy of it is ever made."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
from onnx_text import FLAT, artifact_regions, save_text

from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.errors import InputError
from opdiff.graphs.regions import Region
from opdiff.graphs.run import Runner

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
LAYOUTS = {
    "x @ W": ("y = MatMul(x, f)", lambda x, w: x @ w),
    "x @ W.T": ("t = Transpose<perm = [1, 0]>(f) y = MatMul(x, t)", lambda x, w: x @ w.T),
    "Gemm": ("y = Gemm<transB = 1>(x, f)", lambda x, w: x @ w.T),
    "Gemm with a bias": ("y = Gemm<transB = 1>(x, f, b)", lambda x, w: x @ w.T + 0.5),
}


def region(folder: Path, weight: np.ndarray, body: str) -> Region:
    """The region of `y`, which multiplies `x` with the weight in float32, `f`."""
    n, m = weight.shape
    text = f"""g (int64[T] tokens) => (float[T,{n}] x, float[T,{m}] y) <float[{m}] b = {{{", ".join(["0.5"] * m)}}}> {{
      one = Constant<value_ints = [-1, 1]>() wide = Constant<value_ints = [1, {n}]>()
      t0 = Cast<to = 1>(tokens) t1 = Reshape(t0, one) x = Tile(t1, wide)
      f = Cast<to = 1>(w) {body}
    }}"""
    path = save_text(folder / "g.onnx", text, {"x": FLAT, "y": FLAT}, {"w": weight})
    return artifact_regions(load_artifact(path))["y"]


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_product_with_a_weight_in_half_precision_is_numpys(layout, dtype, precision, tmp_path):
    random = np.random.default_rng(0)
    body, expected = LAYOUTS[layout]
    weight = random.standard_normal((8, 8)).astype(dtype)
    x = random.standard_normal((5, 8)).astype(precision)
    found = Runner().run(region(tmp_path, weight, body), [x], precision)
    assert found.dtype == precision
    near = 1e-5 if precision == "float32" else 1e-14
    np.testing.assert_allclose(found, expected(x, weight.astype(precision)), rtol=near, atol=near)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_weight_is_fed_few_rows_at_a_time(precision, tmp_path):
    """16384 x 4096 in bfloat16 are 268 MB in float32; a program that casts all of it needs those."""
    if not Path("/proc/self/status").exists():
        pytest.skip("anonymous memory is read from /proc")
    weight = np.ones((16384, 4096), BFLOAT16)
    x = np.ones((1, 4096), precision)
    text = """g (int64[T] tokens) => (float[T,4096] x, float[T,16384] y) {
      one = Constant<value_ints = [-1, 1]>() wide = Constant<value_ints = [1, 4096]>()
      t0 = Cast<to = 1>(tokens) t1 = Reshape(t0, one) x = Tile(t1, wide)
      f = Cast<to = 1>(w) t = Transpose<perm = [1, 0]>(f) y = MatMul(x, t)
    }"""
    path = save_text(tmp_path / "g.onnx", text, {"x": FLAT, "y": FLAT}, {"w": weight})
    del weight
    product, runner = artifact_regions(load_artifact(path))["y"], Runner()
    whole = 16384 * 4096 * np.dtype(precision).itemsize
    assert grown(lambda: runner.run(product, [x], precision)) < whole / 8
    if precision == "float32":
        feeds = {"tokens": np.array([1])}
        assert grown(lambda: ort.InferenceSession(str(path)).run(["y"], feeds)) > whole / 2  # the measurement sees it


def grown(run: Callable[[], object]) -> int:
    """By how many bytes anonymous memory grows, at most, while something runs."""
    before, peak, done = _anonymous_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, _anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return peak - before


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def test_runs_that_want_one_weight_share_its_products(tmp_path):
    """Three runs of other inputs and lengths: the weight is read once, and each gets what it would get alone."""
    random = np.random.default_rng(0)
    product = region(tmp_path, random.standard_normal((8, 8)).astype(np.float16), LAYOUTS["Gemm with a bias"][0])
    inputs = [random.standard_normal((n, 8)) for n in (1, 3, 2)]
    alone, together = Runner(), Runner()
    expected = [alone.run(product, [x], "float64") for x in inputs]
    found = together.together([together.running(product, [x], "float64") for x in inputs])
    assert (alone.n_weights_read, together.n_weights_read) == (3, 1)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)
def test_small_differences_of_runs_are_good_to_seven_digits(dtype, tmp_path):
    """The first run may be rounded as in float32; what the others have other than it, or than the second, may not."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((64, 64)).astype(dtype)
    product = region(tmp_path, weight, LAYOUTS["x @ W.T"][0])
    base, step = random.standard_normal((5, 64)), random.standard_normal((5, 64))
    inputs = [base, base + step, base + 1e-10 * step, base + step + 1e-12 * base, base]
    inputs += [base - 2 * step, base - 2 * step + 1e-9 * base]
    runner = Runner()
    found = runner.together([runner.running(product, [x], "float64") for x in inputs], by_difference=True)
    assert runner.n_weights_read == 1
    exact = [x @ weight.astype(np.float64).T for x in inputs]
    for n, other in ((1, 0), (2, 0), (3, 1), (6, 5)):
        ours, right = found[n] - found[other], exact[n] - exact[other]
        rounded = 1e-15 * np.abs(exact[n]).max()  # of the values themselves
        assert np.abs(ours - right).max() <= 1e-6 * np.abs(right).max() + 10 * rounded
    np.testing.assert_array_equal(found[4], found[0])
    np.testing.assert_allclose(found[0], exact[0], rtol=1e-4, atol=1e-4)


def test_runs_whose_difference_cannot_be_said_are_multiplied_in_double_precision(tmp_path):
    """Of other lengths, with numbers that float32 does not hold, or one by one: each gets what it would get alone."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((8, 8)).astype(np.float16)
    product, runner = region(tmp_path, weight, LAYOUTS["x @ W.T"][0]), Runner()
    x = random.standard_normal((2, 8))
    infinite = np.where(np.arange(8) == 3, np.inf, x)
    for inputs in ([x, x[:1]], [x, 1e200 * x], [1e200 * x, x], [infinite, x, infinite], [x]):
        found = runner.together([runner.running(product, [one], "float64") for one in inputs], by_difference=True)
        for one, y in zip(inputs, found, strict=True):
            np.testing.assert_allclose(y, runner.run(product, [one], "float64"), rtol=1e-13)


def test_weights_that_are_no_longer_there_are_not_remembered():
    """Two weights at the same place in memory, one after the other: each has its own product."""
    runner, x = Runner(), np.ones((1, 64))
    for n in range(20):
        np.testing.assert_array_equal(runner.multiply(x, np.full((64, 64), n, np.float32)), np.full((1, 64), 64.0 * n))


def test_run_that_fails_does_not_stop_the_others(tmp_path):
    product = region(tmp_path, np.ones((8, 8), np.float16), LAYOUTS["x @ W"][0])
    runner, x = Runner(), np.ones((2, 8))

    def failing():
        yield from ()
        raise InputError("no")

    failed, found = runner.together([failing(), runner.running(product, [x], "float64")])
    assert isinstance(failed, InputError)
    np.testing.assert_array_equal(found, x @ np.ones((8, 8)))
    with pytest.raises(InputError, match="no"):
        runner.finish(failing())
