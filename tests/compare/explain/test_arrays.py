"""What one array is to another: each law is found where it holds, and no sentence is ever false."""

from __future__ import annotations

import re
import time

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from opdiff.compare.explain.arrays import Relation, compare_arrays, differing_part, shown, told_apart
from opdiff.compare.explain.arrays.digits import spans

RNG = np.random.default_rng(0)
A = RNG.standard_normal((256, 128)).astype(np.float32)
NOISE = RNG.standard_normal(A.shape).astype(np.float32)
AXES = ("out", "in")
BF16 = ml_dtypes.bfloat16


def grouped(x: np.ndarray) -> np.ndarray:
    return x.reshape(256, 4, 32)


def flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(A.shape).astype(np.float32)


SCALE = RNG.uniform(0.01, 0.03, (256, 4, 1)).astype(np.float32)
CODES = RNG.integers(0, 16, (256, 4, 32))
ZERO = RNG.integers(3, 12, (256, 4, 1))
QUANTISED = flat((CODES - ZERO) * SCALE)


def rounded(x: np.ndarray, levels: int, axis) -> np.ndarray:
    step = np.abs(x).max(axis, keepdims=True) / levels
    return flat(np.round(x / step) * step)


def changed(index, value) -> np.ndarray:
    b = A.copy()
    b[index] = value
    return b


ORDER = np.random.default_rng(3).permutation(256)
EIGHTS = A.reshape(8, 32, 128)
LAWS = {
    "equal to A's": A.copy(),
    "A's with the sign turned": -A,
    "A's times 0.5": A * 0.5,
    "A's times 1.00001": A * np.float32(1.00001),
    "A's plus 0.25": A + np.float32(0.25),
    "A's minus 0.3": A - np.float32(0.3),
    "1 + A's": 1 + A,
    "A's times 3, plus 1": A * 3 + 1,
    "1/A's": 1 / A,
    "1 - A's": 1 - A,
    "A's squared": A * A,
    "-exp(A's)": -np.exp(A),
    "the absolute value of A's": np.abs(A),
    "A's, rounded to bfloat16": A.astype(BF16),
    "A's, rounded to float16": A.astype(np.float16).astype(np.float32),
    "A's, rounded to float8_e4m3fn": A.astype(ml_dtypes.float8_e4m3fn),
    "A's, rounded to float8_e5m2": A.astype(ml_dtypes.float8_e5m2),
    "1 + A's, rounded to bfloat16": (1 + A).astype(BF16),
    "A's, cut to bfloat16 (the lower bits dropped, not rounded)": (A.view(np.uint32) & np.uint32(0xFFFF0000)).view(
        np.float32
    ),
    "A's, clipped to ±1": np.clip(A, -1, 1),
    "A's, clipped to -1 .. 0.5": np.clip(A, -1, 0.5),
    "A's, with what is above 1 set to it": np.minimum(A, 1),
    "A's, with what is negative set to 0": np.maximum(A, 0),
    "zero everywhere": A * 0,
    "2 everywhere": np.full_like(A, 2),
    "A's, transposed": A.T,
    "A's, transposed and then read in the old shape (out of order)": np.ascontiguousarray(A.T).reshape(A.shape),
    "A's, read as [in, out] and then transposed (out of order)": A.reshape(128, 256).T,
    "A's, rolled by 2 along in": np.roll(A, 2, 1),
    "A's, rolled by -1 along out": np.roll(A, -1, 0),
    "A's, moved by -2 along out; the last 2 of 256 are new": np.concatenate([A[2:], NOISE[:2]]),
    "A's, moved by 1 along in; the first 1 of 128 are new": np.concatenate([NOISE[:, :1], A[:, :-1]], 1),
    f"A's, permuted along out: {', '.join(map(str, ORDER[:8]))}, ... (256 in all)": A[ORDER],
    "A's, permuted along in: within each 2, the two exchanged (1, 0)": flat(A.reshape(256, 64, 2)[..., ::-1]),
    "A's, permuted along in: within each 32, the halves interleaved (0, 16, 1, 17, 2, 18, 3, 19, ...)": flat(
        A.reshape(256, 4, 2, 16).swapaxes(2, 3)
    ),
    "A's, permuted along in: within each 32, the even ones first (0, 2, 4, 6, 8, 10, 12, 14, ...)": flat(
        A.reshape(256, 4, 16, 2).swapaxes(2, 3)
    ),
    "A's, permuted along out: all of it, in reverse (255, 254, 253, 252, 251, 250, 249, 248, ...)": A[::-1],
    "A's, but blocks 1 and 2 of 32 out each are exchanged": flat(EIGHTS[[0, 2, 1, 3, 4, 5, 6, 7]]),
    "A's, blocks of 32 permuted along out: 3, 0, 2, 1, 7, 5, 6, 4": flat(EIGHTS[[3, 0, 2, 1, 7, 5, 6, 4]]),
    "A's, but out 16 .. 31 of 256 hold A's out 32 .. 47": changed(np.s_[16:32], A[32:48]),
    "A's, but in 100 .. 127 of 128 hold A's in 99": A[:, np.minimum(np.arange(128), 99)],
    "A's, but 3 and 200 of out are exchanged": A[[200 if i == 3 else 3 if i == 200 else i for i in range(256)]],
    "A's, times one factor per out (": A * RNG.uniform(0.5, 2, (256, 1)).astype(np.float32),
    "A's, times one factor per in (": A * RNG.uniform(0.5, 2, 128).astype(np.float32),
    "A's, plus one constant per in (": A + RNG.uniform(0.5, 2, 128).astype(np.float32),
    "A's, minus one constant per group of 32 along in (0.01": flat(grouped(A) - SCALE),
    "A's, times one factor per group of 32 along in (0.01": flat(grouped(A) * SCALE),
    "A's, times one factor per block of 128 x 128 (2 .. 5)": flat(
        A.reshape(2, 128, 1, 128) * np.array([2, 5]).reshape(2, 1, 1, 1)
    ),
    "A's, rounded to at most 256 levels per group of 32 along in": rounded(grouped(A), 127, -1),
    "A's, rounded to at most 16 levels per group of 32 along in": rounded(grouped(A), 7, -1),
    "A's, rounded to at most 256 levels per out": rounded(A, 127, 1),
    "A's, rounded to at most 256 levels with one step for all": rounded(A, 127, None),
    "equal to A's but for out 32 .. 63 of 256; there it is A's with the sign turned": changed(np.s_[32:64], -A[32:64]),
    "equal to A's but for out every 2nd from 0 of 256; there it is A's times 2": changed(np.s_[::2], 2 * A[::2]),
    "equal to A's but for out 16 .. 31 of each 32 of 256; there it is zero everywhere": flat(
        EIGHTS * (np.arange(32) < 16)[:, None]
    ),
    "equal to A's but for out 0 .. 63 of 256 and in 32 .. 63 of 128; there it is 1 + A's": changed(
        np.s_[:64, 32:64], A[:64, 32:64] + 1
    ).astype(np.float32),
    "equal to A's but for out 0 .. 99 of 256; there it is other numbers: all 12800 differ": changed(
        np.s_[:100], NOISE[:100]
    ),
    "A's, but ": np.where(NOISE < 0, 0, A),
    "A's with the sign turned in ": np.where(NOISE < 0, -A, A),
    "A's entries in another order (": RNG.permutation(A.ravel()).reshape(A.shape),
    "A's but for 2 of 32768 entries: [3, 4]: 7 where A has ": changed(([3, 9], [4, 100]), [7, 1]),
    "other numbers: all 32768 differ, by up to ": NOISE,
}


@pytest.mark.parametrize("text", LAWS)
def test_law_is_found(text):
    found = compare_arrays(A, LAWS[text], AXES)
    exact = not text.endswith(("(", " ", "differ", "(0.01"))
    assert found.text == text if exact else found.text.startswith(text), found.text
    assert found.telling == (not text.startswith(("A's but for", "other numbers")) and "other numbers" not in text)


@pytest.mark.parametrize("text", [text for text in LAWS if "other numbers" not in text and "but for 2" not in text])
@pytest.mark.parametrize("where", [(40, 40)])
def test_no_law_is_told_of_an_array_in_which_one_entry_breaks_it(text, where):
    b = np.array(LAWS[text], np.float32)
    b[tuple(i % n for i, n in zip(where, b.shape, strict=True))] = 77.75
    found = compare_arrays(A, b, AXES)
    assert "77.75" in found.text or not found.telling, found.text


@pytest.mark.parametrize(
    ("codes", "text"),
    [
        (
            CODES - ZERO - 1,
            "A's, minus one constant per group of 32 along in (0.01002 .. 0.02996), which is one step of A's own",
        ),
        (CODES - np.where(ZERO < 4, 15, ZERO), ", which is 12 steps of A's own grid; in "),
        (
            CODES - ZERO - (NOISE.reshape(CODES.shape) < -0.5),
            "entries are lower by one step, the same step in each group of 32 along in",
        ),
        (
            RNG.permuted(CODES, axis=-1) - ZERO,
            "entries are off by whole steps (-15 .. 15), the same step in each group of 32",
        ),
    ],
)
def test_wrong_zero_point_is_told_in_steps(codes, text):
    assert text in compare_arrays(QUANTISED, flat(codes * SCALE), AXES).text


@pytest.mark.parametrize("dtype", [BF16, np.int32, ml_dtypes.float8_e4m3fn])
def test_steps_of_the_type_itself_are_no_law(dtype):
    a, b = (np.random.default_rng(i).uniform(1, 2, (64, 64)) * (20 if dtype is np.int32 else 1) for i in (1, 2))
    assert "step" not in compare_arrays(a.astype(dtype), b.astype(dtype)).text


def test_codes_one_too_low_are_told():
    b = CODES.reshape(A.shape) - (NOISE > 0)
    n = int((NOISE > 0).sum())
    said = compare_arrays(CODES.reshape(A.shape), b).text
    assert said == f"A's, but {n} of 32768 entries are lower by one step, the same step for all (1)"


def test_gains_of_one_have_no_law_by_group():
    b = np.random.default_rng(0).uniform(0.5, 2, 4096).astype(np.float32)
    assert not compare_arrays(np.ones(4096, np.float32), b).telling


@pytest.mark.parametrize("shape", [(40,), (64, 32), (4, 16, 32), (2, 3, 16, 8)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, BF16, np.int64])
def test_unrelated_arrays_have_no_law(shape, dtype):
    for seed in range(10):
        a, b = (np.random.default_rng([seed, i]).standard_normal(shape) * 100 for i in range(2))
        found = compare_arrays(a.astype(dtype), b.astype(dtype))
        assert not found.telling, found.text


def test_quantisation_and_a_step_lower_are_told_against_the_original():
    step = np.abs(grouped(A)).max(-1, keepdims=True) / 7
    b = flat((np.round(grouped(A) / step) - 1) * step)
    assert (
        compare_arrays(A, b, AXES).text
        == "A's, rounded to at most 16 levels per group of 32 along in, and then one step lower"
    )


def test_float8_with_a_scale_per_row_is_told():
    scale = np.abs(A).max(1, keepdims=True) / 448
    b = (A / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
    assert compare_arrays(A, b, AXES).text == "A's, rounded to float8_e4m3fn with one scale per out"


@pytest.mark.parametrize(
    ("b", "text"),
    [
        (A + 2 * A[:, :1] + 1e-3 * NOISE, "nearly A's, plus one constant per out: "),
        (A * (2 + A[:1]) + 1e-3 * NOISE, "nearly A's, times one factor per in: "),
        (A + 3 + 1e-3 * NOISE, "nearly A's, plus a constant: "),
    ],
)
def test_law_that_leaves_little_is_told_as_nearly_it(b, text):
    relation = compare_arrays(A, b.astype(np.float32), AXES)
    assert relation.telling
    assert relation.text.startswith(text)
    assert not compare_arrays(A, (A + NOISE).astype(np.float32), AXES).text.startswith("nearly")


def test_finer_numbers_are_told():
    found = compare_arrays(A.astype(BF16), A, AXES)
    assert found.text == "what A's is rounded from: rounded to bfloat16, it is A's"


def test_key_is_the_same_for_the_same_fault_of_other_weights():
    def key(seed: int, fault) -> str:
        return compare_arrays(*fault(np.random.default_rng(seed)), AXES).key

    def offset(rng):
        a = rng.standard_normal((64, 64)).astype(np.float32)
        return a, (a.reshape(64, 2, 32) - rng.uniform(0.1, 0.2, (64, 2, 1))).reshape(64, 64).astype(np.float32)

    def noise(rng):
        return rng.standard_normal((64, 64)), rng.standard_normal((64, 64))

    def rows(rng):
        a = rng.standard_normal((64, 64)).astype(np.float32)
        b = a.copy()
        b[rng.permutation(64)[:20]] *= -1
        return a, b

    for fault in (offset, noise, rows):
        assert key(1, fault) == key(2, fault)
    assert key(1, offset) == "offset per group of 32 along in, minus"


def test_constant_factor_and_roll_stay_in_the_key():
    assert compare_arrays(A, A * 0.5).key != compare_arrays(A, A * 0.25).key
    assert compare_arrays(A, np.roll(A, 2, 0)).key != compare_arrays(A, np.roll(A, 3, 0)).key


def test_other_shapes_are_told():
    assert compare_arrays(A, A.reshape(8, 32, 128)).text == "A's, reshaped from [256, 128] to [8, 32, 128]"
    assert compare_arrays(A, A[:64], AXES).text == "out 0 .. 63 of A's 256 only"
    assert compare_arrays(A, A[::2], AXES).text == "every 2 of A's 256 out only, from 0"
    assert compare_arrays(A, np.repeat(A, 2, 0), AXES).text == "A's, each of out 2 times"
    assert compare_arrays(A, np.tile(A, (2, 1)), AXES).text == "A's, all of it 2 times along out"
    assert compare_arrays(A, np.pad(A, ((0, 8), (0, 0))), AXES).text == "A's, with 8 more of out after it (zero)"
    assert (
        compare_arrays(A, A.T * 2, AXES).text
        == "transposed ([128, 256] where A has [256, 128]), and so it is A's times 2"
    )
    assert compare_arrays(A, NOISE[:7]).text == "of another shape: [7, 128] where A has [256, 128]"


def test_another_tensor_is_named_and_loaded_only_if_nothing_simpler_holds():
    loaded = []

    def load(name, array):
        return lambda: loaded.append(name) or array

    others = {"x": load("x", A[:5]), "y": load("y", A), "blk.2.w": load("blk.2.w", NOISE.T.copy())}
    assert compare_arrays(A, -A, AXES, others).text == "A's with the sign turned"
    assert not loaded
    assert compare_arrays(A, NOISE, AXES, others).text == "the numbers of blk.2.w, transposed"
    assert loaded == ["x", "y", "blk.2.w"]


def test_bytes_and_booleans_are_told():
    packed = RNG.integers(0, 256, (8, 16), np.uint8)
    assert "lower and the upper four bits" in compare_arrays(packed, (packed << 4) | (packed >> 4)).text
    assert "8 apart" in compare_arrays(packed, packed ^ 0x88).text
    assert compare_arrays(A > 0, A <= 0).text == "A's, negated"


def test_whole_numbers_must_be_the_same():
    a = np.arange(10**7, 10**7 + 20)
    assert compare_arrays(a, a + 1).text == "1 + A's"
    big = np.full(3, 2**62)
    assert (
        compare_arrays(big, big + np.array([0, 1, 0])).text
        == "[1]: 4611686018427387905 where A has 4611686018427387904"
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_in_the_last_digits_is_no_law(dtype):
    found = compare_arrays(A.astype(dtype), np.nextafter(A, np.float32(9)).astype(dtype))
    assert found.text.startswith(
        "A's but for rounding in the last digits: 32768 of 32768 differ by up to 1e-07 of their size"
    )


def test_nan_and_inf_are_told_and_stop_nothing():
    b = A.copy()
    b[5, 5] = np.nan
    b[9:200:3, ::2] = np.inf
    assert "1 is NaN" in compare_arrays(A, b).text
    assert "the others are equal" in compare_arrays(A, b).text
    assert compare_arrays(b, b.copy()).text == "equal to A's"
    assert compare_arrays(b, -b).text == "A's with the sign turned"
    assert compare_arrays(b, b[::-1]).text.startswith("A's, permuted along axis 0: all of it, in reverse")
    assert compare_arrays(np.zeros(9), np.full(9, np.inf)).text == "inf everywhere, where A has 0 everywhere"


@pytest.mark.parametrize("dtype", [np.float32, BF16])
def test_no_law_is_found_fast(dtype):
    a, b = (np.random.default_rng(seed).standard_normal((4096, 1024), np.float32).astype(dtype) for seed in (1, 2))
    compare_arrays(a[:64], b[:64])
    start = time.process_time()
    assert not compare_arrays(a, b, AXES).telling
    assert time.process_time() - start < 1.0


SMALL = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.0, 3.0]),
    st.floats(-4, 4, width=32),
    st.sampled_from([np.inf, -np.inf, np.nan, 1e-30, 1e30, -0.0]),
)
SHAPES = st.one_of(npst.array_shapes(min_dims=0, max_dims=3, max_side=5), st.sampled_from([(16,), (4, 8), (2, 32)]))
NUMBER = r"(-?(?:\d[\d.]*(?:e[+-]\d+)?|inf))"
FUNCTIONS = {
    "1/A's": lambda x: 1 / x,
    "-1/A's": lambda x: -1 / x,
    "1 - A's": lambda x: 1 - x,
    "1 + A's": lambda x: 1 + x,
    "A's squared": lambda x: x * x,
    "the square root of A's": np.sqrt,
    "1 over the square root of A's": lambda x: 1 / np.sqrt(x),
    "the absolute value of A's": np.abs,
    "minus the absolute value of A's": lambda x: -np.abs(x),
    "exp(A's)": np.exp,
    "-exp(A's)": lambda x: -np.exp(x),
    "exp(-A's)": lambda x: np.exp(-x),
    "log(A's)": np.log,
    "log(-A's)": lambda x: np.log(-x),
    "A's with the sign turned": lambda x: -x,
    "A's, with what is negative set to 0": lambda x: np.maximum(x, 0),
    "A's, with what is positive set to 0": lambda x: np.minimum(x, 0),
}
SENTENCES = (
    (rf"A's times {NUMBER}", lambda x, m: x * float(m[1])),
    (rf"A's plus {NUMBER}", lambda x, m: x + float(m[1])),
    (rf"A's minus {NUMBER}", lambda x, m: x - float(m[1])),
    (rf"A's times {NUMBER}, plus {NUMBER}", lambda x, m: x * float(m[1]) + float(m[2])),
    (rf"A's times {NUMBER}, minus {NUMBER}", lambda x, m: x * float(m[1]) - float(m[2])),
    (rf"A's, clipped to ±{NUMBER}", lambda x, m: np.clip(x, -float(m[1]), float(m[1]))),
    (rf"A's, clipped to {NUMBER} \.\. {NUMBER}", lambda x, m: np.clip(x, float(m[1]), float(m[2]))),
    (rf"A's, with what is above {NUMBER} set to it", lambda x, m: np.minimum(x, float(m[1]))),
    (rf"A's, with what is below {NUMBER} set to it", lambda x, m: np.maximum(x, float(m[1]))),
    (rf"{NUMBER} everywhere(?:, where A has .*)?", lambda x, m: np.full_like(x, float(m[1]))),
    (r"zero everywhere", lambda x, m: np.zeros_like(x)),
    (r"A's, rolled by (-?\d+) along axis (\d)", lambda x, m: np.roll(x, int(m[1]), int(m[2]))),
    (r"A's, transposed over axis (\d) and axis (\d)", lambda x, m: np.swapaxes(x, int(m[1]), int(m[2]))),
)


def made(a: np.ndarray, text: str) -> np.ndarray | None:
    """What a sentence says that B's array is, if it is one that can be read back."""
    with np.errstate(all="ignore"):
        if text in FUNCTIONS:
            return FUNCTIONS[text](a)
        for pattern, make in SENTENCES:
            match = re.fullmatch(pattern, text)
            if match:
                return make(a, match)
    return None


def check(a: np.ndarray, b: np.ndarray, found: Relation) -> None:
    said = made(a, found.text)
    if said is not None:
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(said, b, rtol=1e-5, atol=1e-5 * np.nanmax(np.abs(a[np.isfinite(a)]), initial=0))
        assert not np.array_equal(a, b, equal_nan=True) or "equal" in found.text
    if "in another order" in found.text or ("permuted" in found.text and "equal" not in found.text):
        np.testing.assert_array_equal(np.sort(a, axis=None), np.sort(b, axis=None))
    if found.text.startswith("equal to A's but for"):
        assert not np.array_equal(a, b, equal_nan=True)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_sentence_about_small_arrays_is_false(data):
    shape = data.draw(SHAPES)
    a = data.draw(npst.arrays(np.float64, shape, elements=SMALL))
    b = data.draw(
        st.one_of(npst.arrays(np.float64, shape, elements=SMALL), st.just(a), st.just(a[..., ::-1] if shape else a))
    )
    b = b.copy()
    check(a, b, compare_arrays(a, b))


@given(
    st.sampled_from(sorted(FUNCTIONS)),
    npst.array_shapes(min_dims=1, max_dims=4, min_side=2, max_side=6),
    st.integers(0, 99),
)
@settings(max_examples=100, deadline=None)
def test_no_law_survives_one_entry_that_breaks_it(name, shape, seed):
    a = np.random.default_rng(seed).standard_normal(shape)
    with np.errstate(all="ignore"):
        b = FUNCTIONS[name](a)
    where = tuple(0 for _ in shape)
    assume(a.size > 3)
    b[where] = 77.7
    assert compare_arrays(a, b).text != name


@pytest.mark.parametrize("dtype", [np.float16, BF16, ml_dtypes.float8_e4m3fn, np.int8, np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3,), (4, 5), (2, 3, 4), (2, 2, 3, 4)])
def test_any_type_and_rank_is_answered(dtype, shape):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 2 if dtype is np.bool_ else 9, shape).astype(dtype) for _ in range(2))
    assert compare_arrays(a, a.copy()).key == "equal" if 0 in shape else "equal to A's"
    assert compare_arrays(a, b).text
    assert compare_arrays(a, b.astype(np.float32)).text


@given(st.sets(st.integers(0, 47), min_size=1))
def test_indices_in_words_are_those_indices(indices):
    text = spans(sorted(indices), 48)
    every, periodic = re.fullmatch(r"every (\d+)\w\w from (\d+)", text), re.fullmatch(r"(.*) of each (\d+)", text)
    if "..." in text.replace(" .. ", ""):
        return
    if every:
        read = set(range(int(every[2]), 48, int(every[1])))
    else:
        runs = [
            re.fullmatch(r"(\d+)(?: \.\. (\d+))?", part) for part in (periodic[1] if periodic else text).split(", ")
        ]
        read = {i for run in runs if run for i in range(int(run[1]), int(run[2] or run[1]) + 1)}
        if periodic:
            read = {i + start for i in read for start in range(0, 48, int(periodic[2]))}
    assert read == indices


def test_two_numbers_are_told_apart_with_few_digits():
    assert told_apart(1e-6, 1e-5) == ("1e-06", "1e-05")
    assert told_apart(0.09999999999999999, 0.316) == ("0.1", "0.316")
    assert told_apart(0.17677669, 0.42044821) == ("0.1768", "0.4204")
    assert told_apart(151936, 151937) == ("151936", "151937")
    assert told_apart(1.0, 1.0000001) == ("1", "1.0000001")
    assert told_apart(-np.inf, -4) == ("-inf", "-4")


@given(st.floats(width=32, allow_nan=False), st.floats(width=32, allow_nan=False))
def test_different_numbers_never_read_the_same(a, b):
    left, right = told_apart(a, b)
    assert (left == right) == (a == b)


def test_constants_are_shown_as_a_reader_wants_them():
    assert shown(np.float32(0.1)) == "0.1"
    assert shown(np.arange(5)) == "[0, 1, 2, 3, 4]"
    assert shown(np.zeros((2, 2))) == "[0, 0, 0, 0] of shape [2, 2]"
    assert shown(np.arange(64).reshape(8, 8)) == "[0, 1, 2, 3, 4, 5, ...] of shape [8, 8]"


def test_constants_are_printed_as_far_as_they_differ():
    a = np.arange(64) / 8
    b = a.copy()
    b[[9, 40]] += 1e-4
    assert differing_part(a, b) == ("[9]: 1.125, [40]: 5", "[9]: 1.1251, [40]: 5.0001")
    assert differing_part(a, a[:7])[0].endswith("of shape [64]")
    assert differing_part(np.zeros(3), np.zeros(3, np.float32)) == ("[0, 0, 0] in float64", "[0, 0, 0] in float32")


@given(npst.arrays(np.float32, npst.array_shapes(max_side=4), elements=st.floats(width=32, allow_nan=False)), st.data())
@settings(deadline=None)
def test_unequal_constants_never_read_the_same(a, data):
    b = data.draw(npst.arrays(np.float32, a.shape, elements=st.floats(width=32, allow_nan=False)))
    left, right = differing_part(a, b)
    assert (left == right) == np.array_equal(a, b)
