"""A short input says what of the decoder it cannot reach, and a long one says nothing."""

from __future__ import annotations

import pytest

from opdiff.compare.mend.unreached import unreached

WINDOWS = {"windows": [8, None, 8]}
LONG = {"rope_scaling": {"kind": "longrope", "original_context": 16}}


def test_a_window_that_the_input_does_not_fill_is_said_with_the_length_that_does():
    (spot,) = unreached(WINDOWS, 8)
    assert "the window of 8 tokens: the input has 8, " in spot.text
    assert "More than 8 tokens" in spot.text
    assert "attn_scores" in spot.stages
    assert list(unreached(WINDOWS, 9)) == []


def test_a_window_is_filled_by_tokens_and_not_by_positions():
    (spot,) = unreached(WINDOWS, 8, first_position=100, takes_positions=True)
    assert "--position-offset would not" in spot.text


def test_a_context_that_the_input_ends_before_is_said_with_the_offset_that_reaches_behind_it():
    (spot,) = unreached(LONG, 16, takes_positions=True)
    assert "longrope scaling behind 16 tokens: the input ends at position 15, " in spot.text
    assert "--position-offset 16 would show it." in spot.text
    assert "q_rope" in spot.stages
    assert list(unreached(LONG, 17)) == []
    assert list(unreached(LONG, 4, first_position=13, takes_positions=True)) == []


def test_for_graphs_that_take_no_positions_the_blind_spot_says_which_do():
    (spot,) = unreached(LONG, 4)
    assert "opdiff export --positions" in spot.text


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"windows": []},
        {"windows": [None, None]},
        {"windows": "8"},
        {"windows": [True, "8", 2.5]},
        {"rope_scaling": None},
        {"rope_scaling": {"kind": "llama3", "original_context": 16}},
        {"rope_scaling": {"kind": "longrope", "original_context": "16"}},
        {"rope_scaling": [1]},
    ],
)
def test_a_configuration_that_says_nothing_of_it_or_nonsense_yields_nothing(config):
    assert list(unreached(config, 4)) == []
