"""Every way in which the rotation can differ is named, from formulas written out here."""

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

D = 8


def rotate(x, frequencies, *, offset=0.0, sign=1.0, pairing="half_split", positions=None):
    """x [T, heads, R] by complex multiplication."""
    positions = np.arange(len(x), dtype=float)[:, None] if positions is None else positions
    turn = np.exp(1j * sign * (positions + offset)[..., None] * np.asarray(frequencies))
    half = x.shape[-1] // 2
    pairs = (np.arange(half), np.arange(half) + half)
    if pairing == "interleaved":
        pairs = (np.arange(half) * 2, np.arange(half) * 2 + 1)
    turned = (x[..., pairs[0]] + 1j * x[..., pairs[1]]) * turn
    y = np.empty_like(x)
    y[..., pairs[0]], y[..., pairs[1]] = turned.real, turned.imag
    return y


def powers(base=1e6, width=D, denominator=D):
    return base ** (-np.arange(0, width, 2) / denominator)


LINEAR, LLAMA3 = ("linear", 4.0), ("llama3", 8.0, 1.0, 4.0, 8192)


def llama3(base=1e6):
    """The frequencies of transformers' own llama3 scaling."""
    settings = transformers.LlamaConfig(
        hidden_size=32,
        num_attention_heads=4,
        head_dim=D,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": base,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    return ROPE_INIT_FUNCTIONS["llama3"](settings, torch.device("cpu"))[0].double().numpy()


def partial(x, width, denominator):
    return np.concatenate([rotate(x[..., :width], powers(1e6, width, denominator)), x[..., width:]], -1)


def mixed(x, table):
    """Half-split pairs under a table of angles laid out for interleaved ones."""
    angles = np.arange(len(x))[:, None, None] * np.repeat(powers(), 2)
    swapped = np.concatenate([-x[..., D // 2 :], x[..., : D // 2]], -1)
    return x * np.cos(angles) + swapped * np.sin(angles)


FAULTS = {
    ("rope.pairing", "interleaved"): lambda x: rotate(x, powers(), pairing="interleaved"),
    ("rope.pairing", "half_split_with_interleaved_angles"): lambda x: mixed(x, "interleaved"),
    ("rope.applied", "no"): lambda x: x,
    ("rope.base", 1e4): lambda x: rotate(x, powers(1e4)),
    ("rope.base", 5e5): lambda x: rotate(x, powers(5e5)),
    ("rope.base", 1.5e5): lambda x: rotate(x, powers(1.5e5)),
    ("rope.base", 123456.0): lambda x: rotate(x, powers(123456.0)),
    ("rope.offset", 1): lambda x: rotate(x, powers(), offset=1),
    ("rope.offset", -1): lambda x: rotate(x, powers(), offset=-1),
    ("rope.offset", 17): lambda x: rotate(x, powers(), offset=17),
    ("rope.offset", 1000): lambda x: rotate(x, powers(), offset=1000),
    ("rope.direction", "inverse"): lambda x: rotate(x, powers(), sign=-1),
    ("rope.rotary_dim", (4, 4)): lambda x: partial(x, 4, 4),
    ("rope.rotary_dim", (4, 8)): lambda x: partial(x, 4, 8),
    ("rope.rotary_dim", (6, 6)): lambda x: partial(x, 6, 6),
    ("rope.rotary_dim", (6, 8)): lambda x: partial(x, 6, 8),
    ("rope.scaling", ("linear", 4.0)): lambda x: rotate(x, powers() / 4),
    ("rope.scaling", ("linear", 3.0)): lambda x: rotate(x, powers() / 3),
    ("rope.scaling", ("llama3", 32.0, 1.0, 4.0, 8192)): lambda x: rotate(x, scaled(32.0)),
    ("rope.scaling", ("llama3", 16.0, 1.0, 4.0, 8192)): lambda x: rotate(x, scaled(16.0)),
}


def scaled(factor, context=8192):
    """llama3 by a loop over the frequencies, base 1e6: two fast ones kept, the slow ones divided or blended."""
    result = []
    for f in powers():
        wavelength = 2 * np.pi / f
        if wavelength < context / 4:
            result.append(f)
        elif wavelength > context:
            result.append(f / factor)
        else:
            smooth = (context / wavelength - 1.0) / 3.0
            result.append((1 - smooth) * f / factor + smooth * f)
    return np.array(result)


@pytest.mark.parametrize("stage", ["q_rope", "k_rope"])
@pytest.mark.parametrize("name", FAULTS, ids=str)
def test_a_rope_fault_is_named_and_nothing_else(stage, name, qwen3, names):
    output = FAULTS[name](qwen3.values[f"blk.1.{stage[0]}_norm"])
    found = names(qwen3, stage, output)
    assert [list(one) for one in found] == [[name[0]]]
    value = found[0][name[0]]
    assert value == (pytest.approx(name[1], rel=1e-9) if isinstance(name[1], float) else name[1])


def test_llama3_scaling_is_transformers_llama3_scaling(qwen3, names):
    """transformers computes the frequencies in float32."""
    output = rotate(qwen3.values["blk.1.q_norm"], llama3())
    found = names(qwen3, "q_rope", output, met=1e-6)
    assert {"rope.scaling": ("llama3", 8.0, 1.0, 4.0, 8192)} in found


def test_the_standard_pairing_of_a_llama_file_is_interleaved(llama, qwen2, names):
    for tiny, standard, other in ((llama, "interleaved", "half_split"), (qwen2, "half_split", "interleaved")):
        base = tiny.config.rope_base
        x = tiny.values["blk.1.q_proj"]
        assert names(tiny, "q_rope", rotate(x, powers(base), pairing=standard)) == [{}]
        assert names(tiny, "q_rope", rotate(x, powers(base), pairing=other)) == [{"rope.pairing": other}]


def test_the_exponents_of_another_head_dim_and_another_base_cannot_be_told_apart(qwen3, names):
    output = rotate(qwen3.values["blk.1.q_norm"], powers(1e6, 8, 16))
    assert names(qwen3, "q_rope", output) == [{"rope.base": pytest.approx(1e3)}, {"rope.rotary_dim": (8, 16)}]


def test_frequencies_that_have_no_name_are_measured(qwen3, names):
    frequencies = powers() * np.array([0.9, 1.3, 0.7, 1.1])
    found = names(qwen3, "q_rope", rotate(qwen3.values["blk.1.q_norm"], frequencies))
    assert [list(one) for one in found] == [["rope.frequencies"]]
    assert found[0]["rope.frequencies"] == pytest.approx(tuple(frequencies), rel=1e-9)


def test_unnamed_frequencies_in_the_wrong_pairs_are_measured_too(qwen3, names):
    frequencies = powers() * np.array([0.9, 1.3, 0.7, 1.1])
    output = rotate(qwen3.values["blk.1.q_norm"], frequencies, pairing="interleaved")
    found = names(qwen3, "q_rope", output)
    assert [set(one) for one in found] == [{"rope.frequencies", "rope.pairing"}]


PAIRS = [
    ({"rope.pairing": "interleaved", "rope.base": 1e4}, dict(pairing="interleaved"), powers(1e4)),
    ({"rope.pairing": "interleaved", "rope.base": 2.5e5}, dict(pairing="interleaved"), powers(2.5e5)),
    ({"rope.pairing": "interleaved", "rope.offset": 1}, dict(pairing="interleaved", offset=1), powers()),
    ({"rope.pairing": "interleaved", "rope.offset": 9}, dict(pairing="interleaved", offset=9), powers()),
    ({"rope.base": 1e4, "rope.offset": 1}, dict(offset=1), powers(1e4)),
    ({"rope.direction": "inverse", "rope.base": 3e4}, dict(sign=-1), powers(3e4)),
    ({"rope.scaling": ("linear", 2.0), "rope.base": 1e4}, {}, powers(1e4) / 2),
]


@pytest.mark.parametrize(("expected", "how", "frequencies"), PAIRS, ids=[str(list(p[0].values())) for p in PAIRS])
def test_two_rope_faults_are_both_named(expected, how, frequencies, qwen3, names):
    output = rotate(qwen3.values["blk.1.q_norm"], frequencies, **how)
    assert names(qwen3, "q_rope", output) == [expected]


def test_three_rope_faults_are_named(qwen3, names):
    output = rotate(qwen3.values["blk.1.q_norm"], powers(1e4), pairing="interleaved", offset=1)
    assert names(qwen3, "q_rope", output) == [{"rope.pairing": "interleaved", "rope.base": 1e4, "rope.offset": 1}]


def test_positions_counted_over_the_heads_are_named(qwen3, names):
    x = qwen3.values["blk.1.q_norm"]
    output = rotate(x, powers(), positions=np.arange(4.0)[None, :])
    assert names(qwen3, "q_rope", output) == [{"rope.position_axis": "head"}]


def test_a_rotated_v_is_named_where_its_tap_shows_it(qwen3, names):
    values = qwen3.values
    v = rotate(values["blk.1.v_proj"], powers())
    assert names(qwen3, "v_proj", v) == [{"rope.on_v": "yes"}]
    context = np.einsum("htk,khd->thd", values["blk.1.attn_probs"], v.repeat(2, axis=1))
    assert names(qwen3, "attn_context", context) == [{"rope.on_v": "yes"}]


def test_qk_norm_behind_the_rotation_is_named_at_every_stage_that_it_changes(qwen3, names):
    values, after = qwen3.values, [{"qk_norm.place": "after_rope"}]
    for side in ("q", "k"):
        gain = qwen3.weights[f"blk.1.attn_{side}_norm.weight"].astype(np.float64)
        assert names(qwen3, f"{side}_rope", rotate(values[f"blk.1.{side}_proj"], powers())) == after
        x = values[f"blk.1.{side}_rope"]
        normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * gain
        assert names(qwen3, f"{side}_norm", normed) == after
    q, k = values["blk.1.q_norm"], values["blk.1.k_norm"].repeat(2, axis=1)
    scores = np.einsum("thd,khd->htk", q, k) / np.sqrt(D) + np.triu(np.full((6, 6), -np.inf), 1)
    assert names(qwen3, "attn_scores", scores) == after


def test_frequency_factors_of_the_file_are_standard_and_their_lack_is_named(llama, names):
    factors = np.array([1.0, 1.5, 2.0, 8.0], np.float32)
    llama.weights["rope_freqs.weight"] = factors
    try:
        x = llama.values["blk.1.q_proj"]
        with_factors = rotate(x, powers(1e4) / factors, pairing="interleaved")
        assert names(llama, "q_rope", with_factors) == [{}]
        assert names(llama, "q_rope", rotate(x, powers(1e4), pairing="interleaved")) == [{"rope.scaling": "none"}]
    finally:
        del llama.weights["rope_freqs.weight"]
