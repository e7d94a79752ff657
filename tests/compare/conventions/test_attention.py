"""Every way in which attention can differ is named, from formulas written out here."""

import numpy as np
import pytest

T, H, D = 6, 4, 8
BEHIND = np.arange(T)[:, None] - np.arange(T)[None, :]


def raw(tiny, k_of=lambda k: k.repeat(2, axis=1)):
    """q times k, [H, T, K], neither scaled nor masked."""
    return np.einsum("thd,khd->htk", tiny.values["blk.1.q_rope"], k_of(tiny.values["blk.1.k_rope"]))


def masked(scores, seen=BEHIND >= 0):
    return np.where(seen, scores, -np.inf)


SCALES = {
    "1": 1.0,
    "1/head_dim": 1 / 8,
    "1/sqrt(width)": 24**-0.5,
    "1/sqrt(n_heads)": 0.5,
    "1/sqrt(n_heads*head_dim)": 32**-0.5,
    "1/sqrt(width/n_heads)": 6**-0.5,
    "sqrt(head_dim)": 8**0.5,
}


@pytest.mark.parametrize("name", list(SCALES))
def test_another_scale_is_named(name, qwen3, names):
    assert names(qwen3, "attn_scores", masked(raw(qwen3) * SCALES[name])) == [{"attention.scale": name}]


@pytest.mark.parametrize("value", [0.25, 0.1234567, -0.3])
def test_a_scale_without_a_name_is_solved(value, qwen3, names):
    found = names(qwen3, "attn_scores", masked(raw(qwen3) * value))
    assert found == [{"attention.scale": pytest.approx(value, rel=1e-12)}]


MASKS = {"missing": BEHIND >= -T, "sees_next": BEHIND >= -1, "not_self": BEHIND >= 1, "reversed": BEHIND <= 0}


@pytest.mark.parametrize("name", list(MASKS))
def test_another_mask_is_named(name, qwen3, names):
    output = masked(raw(qwen3) * D**-0.5, MASKS[name])
    assert names(qwen3, "attn_scores", output) == [{"attention.mask": name}]


@pytest.mark.parametrize("large", [-1e9, float(np.finfo(np.float32).min)])
def test_a_mask_of_large_finite_numbers_is_a_mask(large, qwen3, names):
    assert names(qwen3, "attn_scores", np.where(BEHIND >= 0, raw(qwen3) * D**-0.5, large)) == [{}]
    output = np.where(BEHIND >= -1, raw(qwen3) * D**-0.5, large)
    assert names(qwen3, "attn_scores", output) == [{"attention.mask": "sees_next"}]


@pytest.mark.parametrize("width", [1, 2, 4, 5])
def test_a_sliding_window_is_named_with_its_width(width, qwen3, names):
    output = masked(raw(qwen3) * D**-0.5, (BEHIND >= 0) & (width > BEHIND))
    assert names(qwen3, "attn_scores", output) == [{"attention.window": width}]


def test_a_window_is_found_behind_the_softmax_too(qwen3, names):
    scores = masked(raw(qwen3) * D**-0.5, (BEHIND >= 0) & (BEHIND < 3))
    probs = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    assert names(qwen3, "attn_probs", probs, without=("attn_scores",)) == [{"attention.window": 3}]
    context = np.einsum("htk,khd->thd", probs, qwen3.values["blk.1.v_proj"].repeat(2, axis=1))
    coarse = ("attn_scores", "attn_probs")
    assert names(qwen3, "attn_context", context, without=coarse) == [{"attention.window": 3}]


@pytest.mark.parametrize("cap", [50.0, 30.0, 20.0, 3.0])
def test_a_softcap_is_named(cap, qwen3, names):
    output = masked(cap * np.tanh(raw(qwen3) * D**-0.5 / cap))
    assert names(qwen3, "attn_scores", output) == [{"attention.softcap": cap}]


def test_tiled_kv_heads_are_named_for_k_and_for_v(qwen3, names):
    scores = masked(raw(qwen3, lambda k: np.tile(k, (1, 2, 1))) * D**-0.5)
    assert names(qwen3, "attn_scores", scores) == [{"attention.kv_heads": "tiled"}]
    v = np.tile(qwen3.values["blk.1.v_proj"], (1, 2, 1))
    context = np.einsum("htk,khd->thd", qwen3.values["blk.1.attn_probs"], v)
    assert names(qwen3, "attn_context", context) == [{"attention.kv_heads": "tiled"}]


def test_tiled_k_heads_alone_are_told_from_tiled_v_heads_in_a_region_that_holds_both(qwen3, names):
    scores = masked(raw(qwen3, lambda k: np.tile(k, (1, 2, 1))) * D**-0.5)
    probs = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    context = np.einsum("htk,khd->thd", probs, qwen3.values["blk.1.v_proj"].repeat(2, axis=1))
    coarse = ("attn_scores", "attn_probs")
    assert names(qwen3, "attn_context", context, without=coarse) == [{"attention.kv_heads": "k_tiled"}]


def softmaxes(scores):
    taken = np.exp(scores)
    return {
        "queries": taken / taken.sum(1, keepdims=True),
        "heads": taken / np.where(taken.sum(0) == 0, np.inf, taken.sum(0)) + np.where(taken.sum(0) == 0, 1 / H, 0),
        "plus_one": taken / (1 + taken.sum(2, keepdims=True)),
        "missing": scores,
    }


@pytest.mark.parametrize("name", ["queries", "plus_one", "missing"])
def test_another_softmax_is_named(name, qwen3, names):
    output = softmaxes(qwen3.values["blk.1.attn_scores"])[name]
    assert names(qwen3, "attn_probs", output) == [{"attention.softmax": name}]


def test_a_softmax_over_the_heads_is_named(qwen3, names):
    """Keys that no head sees have no softmax over the heads: taken as uniform, as large finite masks leave it."""
    output = softmaxes(qwen3.values["blk.1.attn_scores"])["heads"]
    assert names(qwen3, "attn_probs", output) == [{"attention.softmax": "heads"}]


def test_a_wrong_scale_and_a_wrong_mask_are_both_named(qwen3, names):
    output = masked(raw(qwen3) * 0.2, BEHIND >= -1)
    assert names(qwen3, "attn_scores", output) == [{"attention.scale": 0.2, "attention.mask": "sees_next"}]
    output = masked(7.0 * np.tanh(raw(qwen3) / 7.0))
    assert names(qwen3, "attn_scores", output) == [{"attention.scale": "1", "attention.softcap": 7.0}]


def test_with_as_many_kv_heads_as_heads_tiling_is_no_fault(square, names):
    assert names(square, "attn_scores", square.values["blk.1.attn_scores"]) == [{}]


def test_a_query_that_sees_nothing_gives_no_nan(qwen3):
    from opdiff.compare.conventions import Settings, evaluate

    case = qwen3.case("attn_probs", without=("attn_scores",))
    probs = evaluate(case, case.target, Settings({"attention.mask": "not_self"}))
    assert np.isfinite(probs).all()
    np.testing.assert_allclose(probs[:, 0], 1 / T)
