"""Activations that are rounded before a matmul are named, alone and beside other faults, from formulas written out here."""

from dataclasses import replace

import numpy as np
import pytest

from opdiff.compare.conventions import CannotEvaluate, Settings, evaluate
from opdiff.compare.conventions.evaluate import Memo
from opdiff.compare.conventions.fit import Question
from opdiff.compare.conventions.linear import activations

STAGES = {
    "q_proj": ("blk.1.attn_norm", "blk.1.attn_q.weight"),
    "k_proj": ("blk.1.attn_norm", "blk.1.attn_k.weight"),
    "v_proj": ("blk.1.attn_norm", "blk.1.attn_v.weight"),
    "o_proj": ("blk.1.attn_context", "blk.1.attn_output.weight"),
    "ffn_gate": ("blk.1.ffn_norm", "blk.1.ffn_gate.weight"),
    "ffn_up": ("blk.1.ffn_norm", "blk.1.ffn_up.weight"),
    "ffn_down": ("blk.1.ffn_act", "blk.1.ffn_down.weight"),
    "logits": ("final_norm", "output.weight"),
}


def parts(tiny, stage):
    """A matmul's rows [T, in] in float32, and its weight [out, in] in float64."""
    source, tensor = STAGES[stage]
    x = tiny.values[source].reshape(len(tiny.tokens), -1).astype(np.float32)
    return x, tiny.weights[tensor].astype(np.float64)


def quants(block):
    """A block's whole numbers, number by number, ties to even; and its largest size, float32."""
    largest = np.abs(block).max()
    inverse = np.float32(127) / largest
    return np.array([round(float(number * inverse)) for number in block]), largest


def q8_0(block):
    numbers, largest = quants(block)
    return numbers * float(np.float16(largest / np.float32(127)))


def q8_k(block):
    numbers, largest = quants(block)
    return numbers.astype(np.float32) * (np.float32(1) / (np.float32(127) / largest))


def in_blocks(x, length, rounded):
    """[T, in] float64, each block of so many numbers rounded."""
    return np.array([np.concatenate([rounded(b) for b in row.reshape(-1, length)]) for row in x])


def by_q8_1(x, weight, mins):
    """Block by block what a matmul of Q4_1 or Q5_1 with Q8_1 gives: d_w d_a (q_w . q_a) + m_w s."""
    y = np.zeros((len(x), len(weight)))
    for t, row in enumerate(x):
        for n, block in enumerate(row.reshape(-1, 32)):
            numbers, largest = quants(block)
            step = largest / np.float32(127)
            stored_sum = float(np.float16(step * np.float32(numbers.sum())))
            above = weight[:, 32 * n : 32 * n + 32] - mins[:, n, None]
            y[t] += above @ (numbers * float(np.float16(step))) + mins[:, n] * stored_sum
    return y


ROUNDINGS = {
    "q8_0": lambda x: in_blocks(x, 32, q8_0),
    "q8_k": lambda x: in_blocks(x, 256, q8_k),
    "float16": lambda x: x.astype(np.float16).astype(np.float64),
    "bfloat16": lambda x: in_blocks(x, 1, lambda one: np.frombuffer(b"\0\0" + bfloat16(one), np.float32)),
}


def bfloat16(one):
    """The upper half of a float32's bytes, rounded to nearest, ties to even."""
    bits = int(one.view(np.uint32)[0])
    upper, lower = bits >> 16, bits & 0xFFFF
    return (upper + (lower > 0x8000 or (lower == 0x8000 and upper % 2))).to_bytes(2, "little")


@pytest.fixture(scope="module")
def with_mins(square):
    """The same with minima of the weights' blocks, as a checkpoint in Q4_1 has them."""
    weights = dict(square.weights)
    for name, weight in square.weights.items():
        if weight.ndim == 2:
            weights[f"{name}.mins"] = weight.reshape(len(weight), -1, 32).min(axis=-1)
    return replace(square, weights=weights)


@pytest.mark.parametrize("kind", ["q8_0", "float16", "bfloat16"])
@pytest.mark.parametrize("stage", list(STAGES))
def test_rounded_activations_are_named_with_their_type(stage, kind, with_mins, square, names):
    for tiny in (square, with_mins):
        x, w = parts(tiny, stage)
        assert names(tiny, stage, ROUNDINGS[kind](x) @ w.T) == [{"linear.activations": kind}]


@pytest.mark.parametrize("stage", ["k_proj", "o_proj", "ffn_down", "logits"])
def test_blocks_of_256_are_told_from_blocks_of_32(stage, wide, names):
    x, w = parts(wide, stage)
    for kind in ("q8_0", "q8_k"):
        assert names(wide, stage, ROUNDINGS[kind](x) @ w.T) == [{"linear.activations": kind}]


@pytest.mark.parametrize("stage", list(STAGES))
def test_q8_1_is_named_where_the_weight_has_minima_and_only_there(stage, with_mins, square, names):
    x, w = parts(with_mins, stage)
    y = by_q8_1(x, w, with_mins.weights[STAGES[stage][1] + ".mins"].astype(np.float64))
    assert names(with_mins, stage, y) == [{"linear.activations": "q8_1"}]
    assert names(square, stage, y) == []


@pytest.mark.parametrize("shape", [(64,), (64, 2), (32, 1), (64, 1, 1)])
def test_minima_that_are_not_one_for_each_block_are_not_used(shape, with_mins):
    case = with_mins.case("ffn_up")
    spoilt = replace(case, weights={**case.weights, "blk.1.ffn_up.weight.mins": np.zeros(shape, np.float32)})
    q8_1 = Settings({"linear.activations": "q8_1"})
    evaluate(case, case.target, q8_1)
    with pytest.raises(CannotEvaluate, match=r"blk\.1\.ffn_up\.weight\.mins: .*each 32 of \(64, 32\)"):
        evaluate(spoilt, case.target, q8_1)


def test_a_minimum_stays_with_its_row_where_rows_are_permuted(with_mins, names):
    x, w = parts(with_mins, "k_proj")
    y = by_q8_1(x, w, with_mins.weights["blk.1.attn_k.weight.mins"].astype(np.float64))
    permuted = y.reshape(-1, 4, 2, 4).swapaxes(2, 3)
    assert names(with_mins, "k_proj", permuted) == [{"linear.rows": "interleaved", "linear.activations": "q8_1"}]


def test_a_transposed_weight_and_rounded_activations_are_both_named(with_mins, square, names):
    x, w = parts(square, "o_proj")
    both = {"linear.layout": "transposed", "linear.activations": "q8_0"}
    assert names(square, "o_proj", ROUNDINGS["q8_0"](x) @ w) == [both]
    y = by_q8_1(x, w, with_mins.weights["blk.1.attn_output.weight.mins"].astype(np.float64))
    start = Settings({"linear.layout": "transposed"})
    assert names(with_mins, "o_proj", y, start=start) == [{"linear.layout": "out_in", "linear.activations": "q8_1"}]


def test_another_blocks_weight_and_rounded_activations_are_both_named(square, names):
    x, _ = parts(square, "o_proj")
    other = square.weights["blk.2.attn_output.weight"].astype(np.float64)
    expected = {"linear.activations": "q8_0", "linear.tensor": "attn_output <- blk.2.attn_output"}
    assert names(square, "o_proj", ROUNDINGS["q8_0"](x) @ other.T) == [expected]


@pytest.mark.parametrize("stage", ["ffn_up", "logits"])
def test_weights_and_activations_rounded_alike_are_both_named(stage, square, names):
    x, w = parts(square, stage)
    rounded = w.astype(np.float16).astype(np.float64)
    both = {"linear.weight": "float16", "linear.activations": "float16"}
    assert names(square, stage, ROUNDINGS["float16"](x) @ rounded.T) == [both]
    assert names(square, stage, x.astype(np.float64) @ rounded.T, met=1e-6) == [{"linear.weight": "float16"}]


def test_logits_scaled_and_of_rounded_activations_are_named(square, names):
    x, w = parts(square, "logits")
    expected = {"logits.scale": 0.25, "linear.activations": "q8_0"}
    assert names(square, "logits", 0.25 * (ROUNDINGS["q8_0"](x) @ w.T)) == [expected]


def test_activations_of_a_tensor_that_is_rounded_no_more_than_float32_does_are_exact(square, names):
    x, w = parts(square, "ffn_up")
    assert names(square, "ffn_up", x.astype(np.float64) @ w.T, met=1e-6) == [{}]


@pytest.mark.parametrize(
    ("kind", "stage", "possible"),
    [
        ("qwen3", "v_proj", set()),
        ("qwen3", "o_proj", {"q8_0"}),
        ("qwen3", "ffn_down", set()),
        ("square", "ffn_down", {"q8_0"}),
        ("wide", "ffn_down", {"q8_0", "q8_k"}),
        ("wide", "o_proj", {"q8_0", "q8_k"}),
    ],
)
def test_only_blocks_that_divide_the_rows_are_tried_and_only_near_the_output(kind, stage, possible, request):
    tiny = request.getfixturevalue(kind)
    case = tiny.case(stage)
    right = tiny.values[case.target]
    for output, expected in ((1.05 * right, {"float16", "bfloat16", *possible}), (2 * right, set())):
        assert set(activations.alternatives(Question(case, output, Settings(), Memo()))) == expected
