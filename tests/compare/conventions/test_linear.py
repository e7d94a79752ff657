"""Every way in which a linear layer can differ is named, from formulas written out here."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from opdiff.compare.conventions.rounding import to_bfloat16, to_float16, to_q8_0

STAGES = {
    "q_proj": ("attn_norm", "attn_q"),
    "k_proj": ("attn_norm", "attn_k"),
    "v_proj": ("attn_norm", "attn_v"),
    "o_proj": ("attn_context", "attn_output"),
    "ffn_gate": ("ffn_norm", "ffn_gate"),
    "ffn_up": ("ffn_norm", "ffn_up"),
    "ffn_down": ("ffn_act", "ffn_down"),
}


def parts(tiny, stage, block=1):
    """A linear layer's input [T, in] and weight [out, in] in float64."""
    source, tensor = STAGES[stage]
    x = tiny.values[f"blk.{block}.{source}"].reshape(len(tiny.tokens), -1)
    return x, tiny.weights[f"blk.{block}.{tensor}.weight"].astype(np.float64)


@pytest.mark.parametrize("stage", ["q_proj", "k_proj", "v_proj", "o_proj"])
def test_a_square_weight_multiplied_untransposed_is_named(stage, square, names):
    x, w = parts(square, stage)
    assert names(square, stage, x @ w) == [{"linear.layout": "transposed"}]


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_weight_whose_buffer_is_read_as_in_out_is_named(stage, qwen3, names):
    x, w = parts(qwen3, stage)
    assert names(qwen3, stage, x @ w.reshape(w.shape[1], w.shape[0])) == [{"linear.layout": "reinterpreted"}]


def test_a_symmetric_weight_shows_no_transposition(square, names):
    x, w = parts(square, "v_proj")
    kept = square.weights["blk.1.attn_v.weight"]
    square.weights["blk.1.attn_v.weight"] = np.full_like(kept, -3)
    try:
        assert names(square, "v_proj", x @ np.full_like(w, -3)) == [{}]
    finally:
        square.weights["blk.1.attn_v.weight"] = kept


@pytest.mark.parametrize("stage", ["q_proj", "k_proj", "v_proj"])
@pytest.mark.parametrize(("value", "times"), [("missing", 0), ("twice", 2)])
def test_a_bias_that_is_missing_or_added_twice_is_named(stage, value, times, qwen2, names):
    x, w = parts(qwen2, stage)
    bias = qwen2.weights[f"blk.1.{STAGES[stage][1]}.bias"].astype(np.float64)
    assert names(qwen2, stage, x @ w.T + times * bias) == [{"linear.bias": value}]


def test_rows_permuted_as_for_a_llama_file_are_named_in_both_directions(qwen3, llama, names):
    for tiny, stage in ((qwen3, "q_proj"), (qwen3, "k_proj"), (llama, "q_proj"), (llama, "k_proj")):
        x, w = parts(tiny, stage)
        to_gguf = w.reshape(-1, 2, 4, 24).swapaxes(1, 2).reshape(w.shape)  # LlamaModel.permute, of n_heads, 2, D/2, in
        to_hf = w.reshape(-1, 4, 2, 24).swapaxes(1, 2).reshape(w.shape)
        assert names(tiny, stage, x @ to_gguf.T) == [{"linear.rows": "interleaved"}]
        assert names(tiny, stage, x @ to_hf.T) == [{"linear.rows": "split"}]


def test_permuted_rows_move_the_bias_too(qwen2, names):
    x, w = parts(qwen2, "q_proj")
    y = x @ w.T + qwen2.weights["blk.1.attn_q.bias"].astype(np.float64)
    permuted = y.reshape(6, 4, 2, 4).swapaxes(2, 3)
    assert names(qwen2, "q_proj", permuted) == [{"linear.rows": "interleaved"}]


def test_another_tensors_weight_is_named(square, qwen3, names):
    x, _ = parts(square, "k_proj")
    v = square.weights["blk.1.attn_v.weight"].astype(np.float64)
    assert names(square, "k_proj", x @ v.T) == [{"linear.tensor": "attn_k <- attn_v"}]
    x, _ = parts(qwen3, "o_proj")
    other = qwen3.weights["blk.2.attn_output.weight"].astype(np.float64)
    assert names(qwen3, "o_proj", x @ other.T) == [{"linear.tensor": "attn_output <- blk.2.attn_output"}]


def test_another_blocks_weight_is_named_with_its_bias_missing(qwen2, names):
    x, _ = parts(qwen2, "q_proj")
    other = qwen2.weights["blk.0.attn_q.weight"].astype(np.float64)
    expected = {"linear.bias": "missing", "linear.tensor": "attn_q <- blk.0.attn_q"}
    assert names(qwen2, "q_proj", x @ other.T) == [expected]


def through_gguf(weight):
    """Q8_0 and back, by the gguf package."""
    return dequantize(quantize(weight, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0)


ROUNDINGS = {
    "float16": lambda w: w.astype(np.float16),
    "bfloat16": lambda w: dequantize(quantize(w, GGMLQuantizationType.BF16), GGMLQuantizationType.BF16),
    "q8_0": through_gguf,
}


@pytest.mark.parametrize("kind", list(ROUNDINGS))
@pytest.mark.parametrize("stage", list(STAGES))
def test_a_rounded_weight_is_named(stage, kind, square, names):
    x, _ = parts(square, stage)
    stored = square.weights[f"blk.1.{STAGES[stage][1]}.weight"]
    assert names(square, stage, x @ ROUNDINGS[kind](stored).astype(np.float64).T) == [{"linear.weight": kind}]


def test_a_transposed_and_rounded_weight_is_named(square, names):
    x, _ = parts(square, "o_proj")
    stored = through_gguf(square.weights["blk.1.attn_output.weight"]).astype(np.float64)
    assert names(square, "o_proj", x @ stored) == [{"linear.layout": "transposed", "linear.weight": "q8_0"}]


def test_roundings_are_those_of_the_gguf_package():
    rng = np.random.default_rng(5)
    weight = (rng.normal(size=(40, 96)) * 10.0 ** rng.integers(-6, 4, (40, 96))).astype(np.float32)
    weight[3], weight[:, ::7] = 0, 0.5 * np.rint(weight[:, ::7])
    np.testing.assert_array_equal(to_q8_0(weight), through_gguf(weight))
    np.testing.assert_array_equal(to_bfloat16(weight), ROUNDINGS["bfloat16"](weight))
    np.testing.assert_array_equal(to_float16(weight), weight.astype(np.float16).astype(np.float32))
    odd = weight[:, :33]
    np.testing.assert_array_equal(to_q8_0(odd), odd)


def test_heads_split_without_a_transpose_are_named_at_the_tap_or_at_who_reads_it(qwen3, llama, names):
    for tiny in (qwen3, llama):
        for side, heads in (("q", 4), ("k", 2), ("v", 2)):
            x, w = parts(tiny, f"{side}_proj")
            mixed = (x @ w.T).reshape(heads, 6, 8).transpose(1, 0, 2)
            assert names(tiny, f"{side}_proj", mixed) == [{"heads.split": "untransposed"}]
    q = qwen3.values["blk.1.q_proj"].reshape(4, 6, 8).transpose(1, 0, 2)
    gain = qwen3.weights["blk.1.attn_q_norm.weight"].astype(np.float64)
    normed = q / np.sqrt((q**2).mean(-1, keepdims=True) + 1e-6) * gain
    assert names(qwen3, "q_norm", normed) == [{"heads.split": "untransposed"}]
    v = qwen3.values["blk.1.v_proj"].reshape(2, 6, 8).repeat(2, axis=0)
    context = (qwen3.values["blk.1.attn_probs"] @ v).transpose(1, 0, 2)
    assert names(qwen3, "attn_context", context) == [{"heads.split": "untransposed"}]


def test_heads_merged_without_a_transpose_are_named_at_the_tap_or_behind_it(qwen3, names):
    x, w = parts(qwen3, "o_proj")
    mixed = x.reshape(6, 4, 8).transpose(1, 0, 2).reshape(6, 32)
    assert names(qwen3, "attn_context", mixed) == [{"heads.merge": "untransposed"}]
    assert names(qwen3, "o_proj", mixed @ w.T) == [{"heads.merge": "untransposed"}]
