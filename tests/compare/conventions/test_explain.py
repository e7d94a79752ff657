"""The search itself: levels, ambiguity, starts, what never fits; and distances, settings, fits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opdiff.compare.conventions import (
    CONVENTIONS,
    Case,
    Deviation,
    Settings,
    distance,
    evaluate,
    explain,
    is_masked,
    standard_settings,
)
from opdiff.compare.conventions.fit import is_plain, shortened
from opdiff.graphs.stages import STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_the_standard_output_needs_no_deviation(stage, qwen3, names):
    case = qwen3.case(stage)
    assert names(qwen3, stage, qwen3.values[case.target]) == [{}]


@pytest.mark.parametrize("stage", STAGES)
def test_an_unrelated_output_is_not_explained(stage, qwen3, names):
    output = np.random.default_rng(1).normal(size=qwen3.case(stage).shape(stage))
    assert names(qwen3, stage, output) == []


def test_one_deviation_names_both_values(qwen3):
    case = qwen3.case("q_norm")
    found = qwen3.explain(case, evaluate(case, case.target, Settings({"qk_norm.eps": 1e-5})))
    assert found.deviations == (Deviation("qk_norm.eps", 1e-6, 1e-5),)
    assert found.settings == Settings({"qk_norm.eps": 1e-5})
    assert str(found) == "qk_norm.eps=1e-05 (for 1e-06)"
    assert found.evaluations > 1


def test_a_start_that_deviates_is_where_the_search_begins(qwen3):
    case = qwen3.case("q_rope")
    start = standard_settings(qwen3.config).with_value("rope.pairing", "interleaved")
    both = start.with_value("rope.base", 1e4)
    output = evaluate(case, case.target, both)
    found = qwen3.explain(case, output, start)
    assert found.deviations == (Deviation("rope.base", 1e6, 1e4),)
    assert found.settings == both
    standard = evaluate(case, case.target, Settings())
    assert qwen3.explain(case, standard, start).deviations == (Deviation("rope.pairing", "interleaved", "half_split"),)


def test_what_the_input_cannot_tell_apart_is_all_reported(qwen3):
    """At position 0 a rotation of another base is the same; one number gives one row's eps, wherever it goes."""
    one = Case(
        "q_rope", 1, {"blk.1.q_norm": qwen3.values["blk.1.q_norm"][:1]}, qwen3.weights, qwen3.config, qwen3.tokens[:1]
    )
    turned = evaluate(one, one.target, Settings({"rope.offset": 1}))
    found = qwen3.explain(one, turned)
    assert found.deviations == (Deviation("rope.offset", 0, 1),)
    still = evaluate(one, one.target, Settings({"rope.base": 1e4}))
    assert qwen3.explain(one, still).deviations == ()
    row = Case(
        "ffn_norm", 1, {"blk.1.attn_residual": np.full((1, 24), 0.5)}, qwen3.weights, qwen3.config, qwen3.tokens[:1]
    )
    x, gain = np.full((1, 24), 0.5), qwen3.weights["blk.1.ffn_norm.weight"].astype(np.float64)
    ambiguous = qwen3.explain(row, x / np.sqrt(0.25 + 24e-6 * 10) * gain)
    assert [d.to_value for d in ambiguous.deviations] == [2.4e-4]
    both = qwen3.explain(row, x * gain / 0.5)
    assert [[d.to_value for d in one] for one in (both.deviations, *both.also_fits)] == [[0.0], ["maximum"]]


def test_an_explanation_of_one_deviation_rules_out_those_of_two(qwen3, names):
    case = qwen3.case("q_rope")
    output = evaluate(case, case.target, Settings({"rope.applied": "no"}))
    assert names(qwen3, "q_rope", output) == [{"rope.applied": "no"}]


def test_nan_never_fits(qwen3):
    case = qwen3.case("q_norm")
    output = qwen3.values["blk.1.q_norm"].copy()
    output[0, 0, 0] = np.nan
    assert not explain(case, output, Settings(), lambda prediction, settings: True).found
    case = qwen3.case("ffn_norm")
    case.values["blk.1.attn_residual"][0, 0] = np.nan
    assert not explain(case, np.zeros((6, 24)), Settings(), lambda prediction, settings: True).found


def test_an_output_of_another_size_or_a_missing_tensor_is_a_reason_not_a_crash(qwen3):
    case = qwen3.case("q_proj")
    assert "q_proj" in explain(case, np.ones(5), Settings(), lambda p, s: True).reason
    poor = Case("q_proj", 1, case.values, {}, case.config, case.tokens)
    assert "attn_q.weight" in explain(poor, qwen3.values["blk.1.q_proj"], Settings(), lambda p, s: True).reason
    strange = Case("router", 1, case.values, case.weights, case.config, case.tokens)
    assert "router" in explain(strange, np.ones((6, 24)), Settings(), lambda p, s: True).reason


def test_the_same_prediction_is_judged_once(qwen3):
    case, judged = qwen3.case("attn_scores"), []

    def is_met(prediction, settings):
        judged.append(prediction.tobytes())
        return False

    explain(case, np.ones((4, 6, 6)), Settings(), is_met)
    assert len(judged) == len(set(judged)) > 10


@pytest.mark.parametrize("convention", CONVENTIONS, ids=lambda convention: convention.name)
def test_every_alternative_is_found_at_every_stage_that_reads_it(convention, qwen3, qwen2):
    """By the model itself: whatever changes a region's output is found again, whatever else may fit it too."""
    from opdiff.compare.conventions.evaluate import Memo
    from opdiff.compare.conventions.fit import Question

    for tiny in (qwen3, qwen2):
        for stage in convention.stages:
            case = tiny.case(stage)
            if case.target not in tiny.values:
                continue
            standard = evaluate(case, case.target, Settings())
            for value in convention.alternatives(Question(case, standard, Settings(), Memo())):
                output = evaluate(case, case.target, Settings({convention.name: value}))
                if np.isnan(output).any() or distance(output, standard) < 1e-11:
                    continue
                found = tiny.explain(case, output)
                sets = [(found.deviations), *found.also_fits]
                assert found.found
                assert any(len(s) == 1 and s[0].convention == convention.name for s in sets), (stage, value, sets)
                assert len(sets) <= 3, (stage, value, sets)


def test_masks_are_compared_by_meaning():
    a = np.array([[[0.0, -np.inf], [1.0, 2.0]]])
    b = np.where(np.isinf(a), -1e9, a)
    assert distance(a, b) == 0
    assert distance(b, np.where(b == -1e9, -3e38, b), scores=True) == 0
    assert distance(a, np.where(np.isinf(a), 0.0, a)) == np.inf
    assert is_masked(np.array([[-np.inf, -np.inf]])).all()


def test_other_taps_are_not_masked():
    a, b = np.array([[0.0, -500.0]]), np.array([[0.0, -400.0]])
    assert distance(a, b) == pytest.approx(0.2)
    assert distance(a, b, scores=True) == 0


def test_nan_shapes_and_infinities_are_infinitely_far():
    a = np.array([1.0, 2.0])
    assert distance(a, np.array([1.0, np.nan])) == np.inf
    assert distance(a, np.array([1.0])) == np.inf
    assert distance(a, np.array([1.0, np.inf])) == np.inf
    assert distance(np.zeros(3), np.zeros(3)) == 0
    assert distance(np.array([np.inf, 1.0]), np.array([np.inf, 1.0])) == 0


def test_settings_are_equal_by_value_and_never_change():
    settings = Settings({"b.x": 1, "a.x": ("linear", 2.0)})
    assert settings == Settings({"a.x": ("linear", 2.0), "b.x": 1})
    assert hash(settings) == hash(Settings({"a.x": ("linear", 2.0), "b.x": 1}))
    assert settings.with_value("b.x", 2)["b.x"] == 2
    assert settings["b.x"] == 1
    assert list(settings) == ["a.x", "b.x"]
    with pytest.raises(TypeError):
        settings["b.x"] = 3


@given(st.floats(1e-12, 1e12))
def test_a_shortened_number_ends_with_itself_and_starts_with_one_digit(value):
    fitted = shortened(value)
    assert fitted.raw == value
    assert is_plain(fitted.values[0])
    assert abs(fitted.values[0] - value) <= 0.51 * 10 ** np.floor(np.log10(value))


def test_plain_values_are_those_that_a_person_types():
    assert all(map(is_plain, [1e-5, 5e5, "none", 3, None, ("linear", 4.0), ("llama3", 8.0, 1.0, 4.0, 8192)]))
    assert not any(map(is_plain, [0.123, ("linear", 1.234), 1e-6 / 24]))


def test_a_region_of_a_whole_block_is_explained_by_what_it_holds(qwen3, names):
    """Only the residual stream is tapped: what lies between is composed, and a fault deep inside is still named."""
    coarse = tuple(stage for stage in STAGES if stage not in ("embed", "attn_residual", "ffn_residual"))
    for changes in ({"qk_norm.eps": 1e-4}, {"rope.pairing": "interleaved"}, {"attention.scale": "1/head_dim"}):
        case = qwen3.case("attn_residual", 1, coarse)
        output = evaluate(case, case.target, Settings(changes))
        assert names(qwen3, "attn_residual", output, without=coarse) == [changes]
