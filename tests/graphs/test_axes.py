"""Axes: one order for all, whatever a graph's own; and back."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opdiff.graphs.axes import canonical_axes, from_canonical, same_shape, to_canonical
from opdiff.graphs.errors import ShapeError

WORDS = [
    ("token", "channel"),
    ("token", "vocab"),
    ("batch", "token", "channel"),
    ("token", "head", "channel"),
    ("batch", "token", "head", "channel"),
    ("head", "token", "key"),
    ("batch", "head", "token", "key"),
    ("out", "in"),
]


@st.composite
def laid_out(draw):
    """An array of distinct values with its axes, in any order of dimensions, zero-size ones too."""
    axes = draw(st.permutations(draw(st.sampled_from(WORDS))))
    shape = draw(st.tuples(*[st.integers(0, 4)] * len(axes)))
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape), axes


@given(laid_out())
def test_canonical_and_back_is_the_same_array(case):
    array, axes = case
    back = from_canonical(to_canonical(array, axes), axes, array.shape)
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("words", WORDS[:-1])
def test_order_of_a_graphs_dimensions_does_not_show(words):
    canonical = canonical_axes(words)
    array = np.random.default_rng(0).standard_normal(range(2, 2 + len(words)))
    for axes in permutations(canonical):
        value = np.transpose(array, [canonical.index(word) for word in axes])
        np.testing.assert_array_equal(to_canonical(value, axes), array)


def test_scores_have_their_heads_first_and_projections_have_them_after_the_token():
    assert canonical_axes(("token", "head", "key")) == ("head", "token", "key")
    assert canonical_axes(("head", "token", "channel")) == ("token", "head", "channel")
    assert canonical_axes(("head", "key", "batch", "token")) == ("batch", "head", "token", "key")


def test_batch_of_one_goes_and_a_batch_of_two_stays():
    axes = ("batch", "token", "channel")
    assert to_canonical(np.zeros((1, 3, 4)), axes).shape == (3, 4)
    assert to_canonical(np.zeros((2, 3, 4)), axes).shape == (2, 3, 4)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_heads_are_split_and_merged_as_the_other_graph_has_them(n_tokens, n_heads, head_dim):
    merged = np.arange(n_tokens * n_heads * head_dim).reshape(n_tokens, -1)
    split = from_canonical(merged, ("head", "token", "channel"), (n_heads, n_tokens, head_dim))
    np.testing.assert_array_equal(split, merged.reshape(n_tokens, n_heads, head_dim).swapaxes(0, 1))
    canonical = to_canonical(split, ("head", "token", "channel"))
    np.testing.assert_array_equal(from_canonical(canonical, ("token", "channel"), merged.shape), merged)
    for left, right in (same_shape(canonical, merged), same_shape(merged, canonical)):
        np.testing.assert_array_equal(left, right)


def test_value_without_a_batch_is_repeated_over_one():
    value = np.arange(12.0).reshape(3, 4)
    batched = from_canonical(value, ("batch", "token", "channel"), (2, 3, 4))
    np.testing.assert_array_equal(batched, [value, value])
    left, right = same_shape(value, batched)
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("axes", [("token",), ("token", "head", "channel"), ("token", "token")])
def test_axes_that_do_not_fit_are_refused_with_both_in_the_message(axes):
    with pytest.raises(ShapeError, match=rf"'{' '.join(axes)}'.*\[3, 4\]"):
        to_canonical(np.zeros((3, 4)), axes)


def test_value_of_other_elements_is_refused():
    with pytest.raises(ShapeError, match=r"\[3, 4\] does not fit 'token channel' of \[3, 5\]"):
        from_canonical(np.zeros((3, 4)), ("token", "channel"), (3, 5))
    with pytest.raises(ShapeError, match=r"\[3, 4\] against \[3, 5\]"):
        same_shape(np.zeros((3, 4)), np.zeros((3, 5)))


@pytest.mark.parametrize("shapes", [((4, 8), (1, 8)), ((3, 2, 4), (1, 8))])
def test_one_position_is_never_repeated_over_all_of_them(shapes):
    """A runtime that gives the last position's logits only has another shape, not the same value at each position."""
    left, right = (np.ones(shape) for shape in shapes)
    with pytest.raises(ShapeError):
        same_shape(left, right)
