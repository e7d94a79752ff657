"""Every way in which a norm can differ is named, from formulas written out here."""

import numpy as np
import pytest

KINDS = ["attn_norm", "ffn_norm", "final_norm", "q_norm", "k_norm"]
INPUTS = {"attn_norm": "blk.0.ffn_residual", "ffn_norm": "blk.1.attn_residual", "final_norm": "blk.2.ffn_residual"}
INPUTS |= {"q_norm": "blk.1.q_proj", "k_norm": "blk.1.k_proj"}
TENSORS = {"attn_norm": "blk.1.attn_norm", "ffn_norm": "blk.1.ffn_norm", "final_norm": "output_norm"}
TENSORS |= {"q_norm": "blk.1.attn_q_norm", "k_norm": "blk.1.attn_k_norm"}


def rms(x):
    return np.sqrt((x**2).mean(-1, keepdims=True))


def fault(name, w):
    """A norm of x that is wrong in one way; w is the right gain."""
    mean = lambda x: (x**2).mean(-1, keepdims=True)  # noqa: E731
    return {
        ("eps", 1e-5): lambda x: x / np.sqrt(mean(x) + 1e-5) * w,
        ("eps", 3e-4): lambda x: x / np.sqrt(mean(x) + 3e-4) * w,
        ("eps", 1.2345e-3): lambda x: x / np.sqrt(mean(x) + 1.2345e-3) * w,
        ("eps_place", "outside"): lambda x: x / (np.sqrt(mean(x)) + 1e-6) * w,
        ("eps_place", "in_sum"): lambda x: x / np.sqrt(((x**2).sum(-1, keepdims=True) + 1e-6) / x.shape[-1]) * w,
        ("gain", "one_plus"): lambda x: x / np.sqrt(mean(x) + 1e-6) * (1 + w),
        ("gain", "none"): lambda x: x / np.sqrt(mean(x) + 1e-6),
        ("kind", "layer_norm"): lambda x: (
            (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * w
        ),
        ("kind", "missing"): lambda x: x,
        ("kind", "gain_only"): lambda x: x * w,
        ("kind", "sum"): lambda x: x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-6) * w,
    }[name]


FAULTS = [
    ("eps", 1e-5),
    ("eps", 3e-4),
    ("eps", 1.2345e-3),
    ("eps_place", "outside"),
    ("eps_place", "in_sum"),
    ("gain", "one_plus"),
    ("gain", "none"),
    ("kind", "layer_norm"),
    ("kind", "missing"),
    ("kind", "gain_only"),
    ("kind", "sum"),
]


def kind_of(stage):
    return "qk_norm" if stage in ("q_norm", "k_norm") else stage


@pytest.mark.parametrize("stage", KINDS)
@pytest.mark.parametrize("name", FAULTS, ids=str)
def test_a_norm_fault_is_named_and_nothing_else(stage, name, qwen3, names):
    gain = qwen3.weights[TENSORS[stage] + ".weight"].astype(np.float64)
    output = fault(name, gain)(qwen3.values[INPUTS[stage]])
    found = names(qwen3, stage, output)
    assert len(found) == 1
    assert list(found[0]) == [f"{kind_of(stage)}.{name[0]}"]
    value = found[0][f"{kind_of(stage)}.{name[0]}"]
    assert value == (name[1] if isinstance(name[1], str) else pytest.approx(name[1], rel=1e-7))


def test_a_fitted_eps_is_shortened_where_that_fits_too(qwen3, names):
    x, w = qwen3.values["blk.1.q_proj"], qwen3.weights["blk.1.attn_q_norm.weight"].astype(np.float64)
    rounded = float(np.float32(2e-5))
    assert names(qwen3, "q_norm", x / np.sqrt((x**2).mean(-1, keepdims=True) + rounded) * w) == [{"qk_norm.eps": 2e-5}]


def test_no_eps_and_the_larger_of_the_two_cannot_be_told_apart(qwen3, names):
    x, w = qwen3.values["embed"], qwen3.weights["blk.0.attn_norm.weight"].astype(np.float64)
    found = names(qwen3, "attn_norm", x / rms(x) * w, block=0)
    assert found == [{"attn_norm.eps": 0.0}, {"attn_norm.eps_place": "maximum"}]


def test_another_norms_gain_is_named(qwen3, names):
    def normed(stage, gain):
        x = qwen3.values[INPUTS[stage]]
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * qwen3.weights[gain + ".weight"].astype(np.float64)

    assert names(qwen3, "k_norm", normed("k_norm", "blk.1.attn_q_norm")) == [{"qk_norm.gain": "attn_q_norm"}]
    assert names(qwen3, "ffn_norm", normed("ffn_norm", "blk.1.attn_norm")) == [{"ffn_norm.gain": "attn_norm"}]
    assert names(qwen3, "ffn_norm", normed("ffn_norm", "blk.2.ffn_norm")) == [{"ffn_norm.gain": "blk.2.ffn_norm"}]
    assert names(qwen3, "q_norm", normed("q_norm", "blk.0.attn_q_norm")) == [{"qk_norm.gain": "blk.0.attn_q_norm"}]


@pytest.mark.parametrize("side", ["q", "k"])
def test_a_norm_over_the_whole_projection_is_named(side, qwen3, names):
    x, w = qwen3.values[f"blk.1.{side}_proj"], qwen3.weights[f"blk.1.attn_{side}_norm.weight"].astype(np.float64)
    output = x / np.sqrt((x**2).mean((1, 2), keepdims=True) + 1e-6) * w
    assert names(qwen3, f"{side}_norm", output) == [{"qk_norm.per_head": "no"}]


def test_a_wrong_eps_and_a_wrong_gain_are_both_named(qwen3, names):
    x, w = qwen3.values["blk.1.q_proj"], qwen3.weights["blk.1.attn_q_norm.weight"].astype(np.float64)
    output = x / np.sqrt((x**2).mean(-1, keepdims=True) + 7e-5) * (1 + w)
    assert names(qwen3, "q_norm", output) == [{"qk_norm.gain": "one_plus", "qk_norm.eps": 7e-5}]
    output = x / (np.sqrt((x**2).mean(-1, keepdims=True)) + 2e-4) * w
    assert names(qwen3, "q_norm", output) == [{"qk_norm.eps": 2e-4, "qk_norm.eps_place": "outside"}]


def test_three_faults_of_a_norm_are_named(qwen3, names):
    x, w = qwen3.values["blk.1.q_proj"], qwen3.weights["blk.1.attn_q_norm.weight"].astype(np.float64)
    output = x / (np.sqrt((x**2).mean((1, 2), keepdims=True)) + 3e-3) * (1 + w)
    expected = {
        "qk_norm.gain": "one_plus",
        "qk_norm.eps": 3e-3,
        "qk_norm.eps_place": "outside",
        "qk_norm.per_head": "no",
    }
    assert names(qwen3, "q_norm", output) == []  # four: beyond the search
    output = x / (np.sqrt((x**2).mean(-1, keepdims=True)) + 3e-3) * (1 + w)
    del expected["qk_norm.per_head"]
    assert names(qwen3, "q_norm", output) == [expected]


def test_a_wrong_eps_is_found_through_the_stages_below(qwen3, names):
    """With q_norm untapped, its eps shows at q_rope, and with q_rope untapped too, at the scores."""
    x, w = qwen3.values["blk.1.q_proj"], qwen3.weights["blk.1.attn_q_norm.weight"].astype(np.float64)
    normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-4) * w
    angle = np.arange(6)[:, None, None] * 1e6 ** (-np.arange(4) / 4)
    a, b = normed[..., :4], normed[..., 4:]
    rotated = np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)
    assert names(qwen3, "q_rope", rotated, without=("q_norm",)) == [{"qk_norm.eps": 1e-4}]


@pytest.mark.parametrize(("over", "axes"), [("projection", (1, 2)), ("each_head", (2,))])
def test_a_gain_as_wide_as_the_projection_belongs_to_it_whole_or_to_each_head(over, axes, made):
    """As in OLMo 2, and as in StableLM: the configuration says so."""
    tiny = made(qk_norm_over=over)
    x, wide = tiny.values["blk.1.q_proj"], np.random.default_rng(3).normal(1, 0.2, 32)
    tiny.weights["blk.1.attn_q_norm.weight"] = wide
    output = x / np.sqrt((x**2).mean(axes, keepdims=True) + 1e-6) * wide.reshape(x.shape[1:])
    found = tiny.explain(tiny.case("q_norm"), output)
    assert found.found
    assert not found.deviations
