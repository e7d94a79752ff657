"""A short input says what of the decoder it cannot reach, and a long one says nothing."""

from __future__ import annotations

import pytest

from opdiff.compare.mend.unreached import unreached

WINDOWS = {"windows": [8, None, 8]}
LONG = {"rope_scaling": {"kind": "longrope", "original_context": 16}}


@pytest.mark.parametrize(
    ("config", "reach", "stage", "words"),
    [(WINDOWS, 8, "attn_scores", "the window of 8 tokens"), (LONG, 16, "q_rope", "longrope scaling behind 16 tokens")],
)
def test_what_is_not_reached_is_said_with_the_length_that_reaches_it(config, reach, stage, words):
    (spot,) = unreached(config, reach)
    assert words in spot.text
    assert f"has {reach}, " in spot.text
    assert f"More than {reach} tokens" in spot.text
    assert stage in spot.stages
    assert list(unreached(config, reach + 1)) == []


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
