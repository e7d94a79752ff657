"""Judging a step: what is the same, what is a near-tie, and what no disagreement of the references excuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from opdiff.compare.verdict.judgement import (
    Judgement,
    disagreement,
    judged,
    kl_divergence,
    log_probabilities,
    reference_log_probabilities,
    tallied,
)
from opdiff.graphs.errors import InputError

N = 1000
logits_of_8 = arrays(np.float32, 8, elements=st.floats(-30, 30, width=32))


def logs(*probabilities: float) -> np.ndarray:
    """Log-probabilities of a few leading tokens; the rest is shared by others, so that they are a vocabulary of 1000."""
    rest = (1 - sum(probabilities)) / (N - len(probabilities))
    return np.log(np.array([*probabilities, *[rest] * (N - len(probabilities))]))


def blurred(values: np.ndarray, size: float, seed: int = 0) -> np.ndarray:
    """The same from a runtime that rounds: each pair of tokens moved apart by about `size`."""
    return log_probabilities(values + np.random.default_rng(seed).normal(0, size / np.sqrt(2), values.shape))


def against(values: np.ndarray, logits: np.ndarray, *others: np.ndarray) -> Judgement:
    return judged("side", values, "real", logits, others)


@given(logits_of_8)
def test_log_probabilities_sum_to_one(logits):
    assert np.exp(log_probabilities(logits)).sum() == pytest.approx(1)


@given(logits_of_8, logits_of_8, logits_of_8, st.floats(-1e3, 1e3))
def test_constant_added_to_a_sides_logits_changes_nothing(side, real, other, constant):
    values, logits, third = (log_probabilities(x.astype(np.float64)) for x in (side, real, other))
    moved = log_probabilities(side.astype(np.float64) + constant)
    kl, as_it_was = kl_divergence(logits, moved), kl_divergence(logits, values)
    assert kl == pytest.approx(as_it_was, abs=1e-9)
    gaps = np.diff(np.sort(values)[-2:])
    if gaps > 1e-9:
        assert against(moved, logits, third).token == against(values, logits, third).token


@given(logits_of_8, logits_of_8)
def test_kl_is_never_negative_and_nothing_from_itself(a, b):
    p, q = log_probabilities(a), log_probabilities(b)
    assert kl_divergence(p, q) >= 0
    assert kl_divergence(p, p) == 0


def test_kl_is_the_sum_by_hand():
    p, q = np.log([0.5, 0.25, 0.25]), np.log([0.25, 0.25, 0.5])
    assert kl_divergence(p, q) == pytest.approx(0.5 * np.log(2) - 0.25 * np.log(2))


def test_token_that_the_side_rules_out_makes_kl_infinite_but_one_that_float32_rules_out_does_not():
    possible, side = np.log([0.5, 0.5]), np.array([0, -np.inf])
    assert kl_divergence(possible, side) == np.inf
    assert kl_divergence(np.array([0, -200.0]), side) == 0


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_side_that_is_not_finite_has_no_token_and_no_kl(wrong):
    found = against(log_probabilities(np.array([1, wrong, 3], np.float32)), log_probabilities(np.arange(3)))
    assert (found.outcome, found.token, found.kl) == ("not_finite", None, None)


def test_reference_that_is_not_finite_cannot_judge():
    with pytest.raises(InputError, match="hf: its logits are not finite"):
        reference_log_probabilities("hf", np.array([1, np.nan], np.float32), "3 tokens")


def test_minus_infinity_is_a_token_that_cannot_come():
    values = log_probabilities(np.array([1, -np.inf, 1], np.float32))
    np.testing.assert_allclose(np.exp(values), [0.5, 0, 0.5])
    assert against(values, values).outcome == "agree"
    assert np.isnan(log_probabilities(np.full(3, -np.inf, np.float32))).all()


def test_tokens_that_share_the_largest_value_are_no_difference():
    found = against(logs(0.3, 0.3, 0.2), logs(0.2, 0.3, 0.3))
    assert (found.outcome, found.token, found.rank) == ("agree", 1, 1)


def test_other_token_is_told_with_its_rank_and_both_margins():
    found = against(logs(0.1, 0.2, 0.4), logs(0.4, 0.2, 0.1))
    assert (found.outcome, found.token, found.rank) == ("flip", 2, 3)
    assert found.margin == pytest.approx(np.log(4))
    assert found.side_margin == pytest.approx(np.log(4))


def test_with_one_reference_nothing_is_excused():
    found = against(logs(0.39, 0.4), logs(0.4, 0.39))
    assert (found.outcome, found.disagreement) == ("flip", None)


def test_side_that_goes_with_one_of_two_references_that_part_is_a_near_tie_to_the_other():
    real, other = logs(0.4, 0.3), logs(0.33, 0.37)
    found = against(other, real, other)
    assert found.outcome == "near_tie"
    assert found.disagreement == pytest.approx(np.log(0.4 / 0.3) + np.log(0.37 / 0.33))
    assert against(blurred(other, 1e-6), real, other).outcome == "near_tie"


def test_tie_that_everyone_rounds_to_another_side_is_a_near_tie_though_the_pair_happens_to_be_closer():
    """On the pair the references differ by 2e-7; elsewhere by 1e-5, as this side does."""
    tie = logs(0.4, 0.4)
    real, other = (blurred(tie, 1e-5, seed) for seed in (0, 1))
    real[:2], other[:2], side = [-0.9, -0.9 - 1e-7], [-0.9 - 1e-7, -0.9], tie + np.eye(N)[1] * 1e-6
    assert against(side, real, other).outcome == "near_tie"


def test_it_is_a_flip_where_the_side_is_far_surer_than_the_references():
    real, other = logs(0.4, 0.3), logs(0.33, 0.37)
    assert against(logs(0.01, 0.98), real, other).outcome == "flip"


def test_flip_within_what_the_references_differ_by_is_a_near_tie_though_they_have_the_same_token():
    real = logs(0.31, 0.30)
    other, side = blurred(real, 0.2), logs(0.30, 0.31)
    assert disagreement(real, other, 0, 1) == pytest.approx(0.2, rel=0.1)
    assert other.argmax() == 0
    assert against(side, real, other).outcome == "near_tie"
    assert against(side, real, blurred(real, 0.02)).outcome == "flip"


def test_references_that_part_on_other_tokens_do_not_excuse_this_one():
    """Sides 0 and 1 are what the references part on, far; the side has a third token, which both find unlikely."""
    real, other, side = logs(0.7, 0.1, 0.1), logs(0.1, 0.7, 0.1), logs(0.1, 0.1, 0.7)
    assert against(side, real, other).outcome == "flip"
    assert against(side, other, real).outcome == "flip"


def step(seed: int, strength: float, parting: float | None) -> list[Judgement]:
    """A side off by `strength` against a reference, and against a second one that is off itself, or (None) all wrong."""
    random = np.random.default_rng(seed)
    real = log_probabilities(random.normal(0, 3, N))
    other = log_probabilities(random.normal(0, 3, N) if parting is None else real + random.normal(0, parting, N))
    side = log_probabilities(real + random.normal(0, strength, N))
    return [judged("side", side, "real", real, [other]), judged("side", side, "other", other, [real])]


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_reference_that_is_all_wrong_excuses_hardly_any_flip(strength):
    """It disagrees as widely as can be; but it finds the side's token unlikely itself, so that one of the two says flip."""
    wrong = [found for seed in range(400) if (found := step(seed, strength, None))[0].outcome != "agree"]
    excused = [found for found in wrong if "flip" not in {one.outcome for one in found}]
    assert len(wrong) > 100
    assert len(excused) < 0.05 * len(wrong)


@pytest.mark.parametrize("parting", [0.5, 1.0, 2.0])
def test_wrong_side_does_not_pass_a_run_by_references_that_part_widely(parting):
    """Single flips are excused, for no single one can be told from the references' own; 24 steps of them are not."""
    for run in range(20):
        found = [one for seed in range(24) for one in step(24 * run + seed, 1.0, parting)]
        assert not all(tally.passes for tally in tallied(found))


def test_tally_counts_each_outcome_and_leaves_what_is_not_finite_out_of_kl():
    real, nan = logs(0.4, 0.3), np.full(N, np.nan)
    one_each = [against(real, real), against(logs(0.3, 0.4), real), against(nan, real)]
    (tally,) = tallied(one_each)
    assert (tally.n_steps, tally.n_agree, tally.n_flips, tally.n_not_finite) == (3, 1, 1, 1)
    assert tally.kl_max == one_each[1].kl
    assert tally.kl_mean == pytest.approx(one_each[1].kl / 2)
    assert not tally.passes
    assert tallied(one_each[:1])[0].passes
    assert not tallied(one_each[2:])[0].passes
