"""Measures: NaN, Inf, masks and shapes have a status of their own, and are never averaged away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from opdiff.compare.measure import comparable, deviation, distance, hidden, norm, size, unmasked

INF, NAN = np.inf, np.nan
any_array = arrays(np.float32, array_shapes(max_dims=3, max_side=4), elements=st.floats(width=32))
small = arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32))


@given(any_array)
def test_value_is_at_no_distance_from_itself_whatever_is_in_it(value):
    assert distance(value, value.copy(), False) == 0
    found = deviation(value, value.copy())
    assert found.max_abs in (0, None)
    assert found.nmse in (0, None)


@given(small, small)
@settings(deadline=None)
def test_figures_are_their_definitions_in_double_precision(a, b):
    left, right = a.astype(np.float64), b.astype(np.float64)
    found = deviation(a, b)
    assert found.status == "compared"
    assert found.max_abs == np.abs(left - right).max()
    assert np.abs(left - right)[found.worst_index] == found.max_abs
    if np.sum(left**2) > 0:
        assert found.nmse == pytest.approx(np.sum((left - right) ** 2) / np.sum(left**2))
    assert -1 - 1e-12 <= found.cosine <= 1


def test_difference_is_taken_in_double_precision():
    a, b = np.float32([1e8]), np.float32([1e8 + 8])
    assert deviation(a, b).max_abs == 8
    assert deviation(np.float16([6e4]), np.float16([-6e4])).max_abs == 2 * np.float64(np.float16(6e4))


@pytest.mark.parametrize("special", [NAN, INF, -INF])
@pytest.mark.parametrize("on_a", [True, False])
def test_one_entry_that_is_not_finite_never_vanishes(special, on_a):
    clean = np.ones((64, 64), np.float32)
    spoilt = clean.copy()
    spoilt[3, 5] = special
    a, b = (spoilt, clean) if on_a else (clean, spoilt)
    assert distance(a, b, False) == INF
    found = deviation(a, b)
    assert found.status == "not finite"
    assert (found.n_nonfinite_a, found.n_nonfinite_b) == (int(on_a), int(not on_a))


@pytest.mark.parametrize(("left", "right"), [(NAN, INF), (INF, -INF), (NAN, 1e300), (INF, 1.7e308)])
def test_two_entries_that_are_not_the_same_special_value_are_told_apart(left, right):
    assert distance(np.array([left, 1.0]), np.array([right, 1.0]), False) == INF


def test_the_same_special_values_at_the_same_places_are_no_difference_but_are_told():
    value = np.array([NAN, INF, -INF, 1.0])
    assert distance(value, value.copy(), False) == 0
    assert deviation(value, value.copy()).status == "not finite"


def test_value_that_is_not_finite_anywhere_has_a_status_and_no_figures():
    found = deviation(np.full(3, NAN), np.ones(3))
    assert (found.status, found.nmse, found.max_abs, found.cosine) == ("not finite", None, None, None)
    assert found.n_nonfinite_a == 3


def test_other_shape_is_a_status_that_names_both():
    found = deviation(np.ones((3, 4)), np.ones((3, 5)))
    assert found.status == "shapes [3, 4] against [3, 5]"
    assert found.nmse is None


def test_something_against_nothing_is_an_infinite_error_and_nothing_against_nothing_is_none():
    zero, one = np.zeros((2, 2)), np.ones((2, 2))
    assert (deviation(zero, one).nmse, deviation(zero, one).cosine) == (INF, 0.0)
    assert (deviation(zero, zero).nmse, deviation(zero, zero).cosine) == (0.0, 1.0)


def test_values_without_elements_can_be_measured():
    empty = np.empty((0, 4))
    assert distance(empty, empty, False) == 0
    assert deviation(empty, empty).max_abs is None


def scores(mask_value: float) -> np.ndarray:
    """Causal scores [H, T, K], masked with this value."""
    values = np.random.default_rng(0).standard_normal((2, 4, 4))
    return np.where(np.tri(4, dtype=bool), values, mask_value)


@pytest.mark.parametrize("mask_value", [-1e9, -1e30, float(np.finfo(np.float32).min), -10_000.0])
def test_masks_written_in_other_numbers_are_the_same_mask(mask_value):
    assert distance(scores(-INF), scores(mask_value), True) == 0
    assert deviation(scores(-INF), scores(mask_value), True).status == "compared"


def test_masks_that_differ_are_told_and_never_a_distance():
    other = scores(-INF)
    other[0, 2, 2] = -INF
    assert distance(scores(-INF), other, True) == INF
    assert deviation(scores(-INF), other, True).status == "masks differ"


@pytest.mark.parametrize("other", [-np.inf, -1e4, -100.0])
def test_a_mask_of_100_is_a_mask_whatever_score_it_is_added_to(other):
    scores = np.random.default_rng(0).normal(0, 3, (4, 16, 16))
    masked = np.tri(16, dtype=bool)
    a, b = np.where(masked, scores, scores - 100), np.where(masked, scores, scores + other)
    assert not unmasked(a)[~np.broadcast_to(masked, a.shape)].all()
    assert distance(a, b, is_scores=True) == 0


def test_a_score_that_float32_shows_is_not_masked():
    a = np.array([[[0.0, -30.0]]])
    assert distance(a, np.where(a < 0, -np.inf, a), is_scores=True) == np.inf


def test_nan_among_scores_is_not_taken_for_a_mask():
    other = scores(-INF)
    other[0, 2, 1] = NAN
    assert distance(scores(-INF), other, True) == INF
    assert deviation(scores(-INF), other, True).status != "compared"


def test_entry_whose_probability_underflows_is_masked_and_one_that_does_not_is_seen():
    assert unmasked(np.array([0.0, -50.0, -200.0, -INF])).tolist() == [True, True, False, False]
    assert not unmasked(np.full(3, -INF)).any()


@given(small)
def test_size_is_the_norm_of_what_is_seen(a):
    assert size(a, False) == pytest.approx(np.linalg.norm(a.astype(np.float64)))
    assert norm(a.astype(np.float64)) == pytest.approx(np.linalg.norm(a.astype(np.float64)))


def test_size_leaves_out_what_is_masked_or_not_finite():
    assert size(np.array([3.0, 4.0, NAN, INF]), False) == 5
    assert size(np.array([[3.0, -4.0, -INF, -1e9]]), True) == 5


def test_merged_and_split_heads_are_compared_element_by_element():
    merged = np.arange(24.0).reshape(3, 8)
    assert distance(merged, merged.reshape(3, 2, 4), False) == 0
    left, right, agree = comparable(merged, merged.reshape(3, 2, 4), False)
    assert left.shape == right.shape
    assert agree


def test_a_mask_in_a_tap_that_is_not_called_scores_hides_no_difference():
    """-1e30 at hidden keys: a norm over them would let every other difference pass for rounding."""
    scores = np.random.default_rng(0).normal(size=(2, 5, 5))
    hides = np.triu(np.ones((5, 5), bool), 1)
    for mask in (-1e9, -1e30, float(np.finfo(np.float32).min), -np.inf):
        a, b = np.where(hides, mask, scores), np.where(hides, mask, scores + 1e-3)
        assert distance(a, b, False) == pytest.approx(1e-3 * np.sqrt(30))
        assert size(a, False) == pytest.approx(norm(scores[:, ~hides]))
        other = np.where(hides & (np.arange(5) < 4), mask, scores)
        assert distance(a, other, False) == np.inf
        assert deviation(a, other).status == ("masks differ" if np.isfinite(mask) else "not finite")


def test_large_numbers_are_no_mask():
    """A channel of massive activations is compared as it is, and so are numbers of many sizes."""
    values = np.random.default_rng(0).normal(size=(4, 8))
    massive, wide = values.copy(), values * 10.0 ** np.arange(8)
    massive[:, 3] = [-2e4, -2.1e4, -1.9e4, -2e4]
    for array in (massive, wide, -np.abs(wide), values):
        assert hidden(array) is None
        assert distance(array, array * 1.5, False) == pytest.approx(0.5 * norm(array))
