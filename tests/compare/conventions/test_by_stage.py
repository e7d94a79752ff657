"""Regions of a whole block: conventions are found from stage to stage, by what is computed inside."""

from dataclasses import replace

import numpy as np
import pytest

from opdiff.compare.conventions import Memo, Settings, evaluate, standard_settings
from opdiff.compare.conventions.by_stage import settings_by_stage
from opdiff.graphs.stages import IN_BLOCK

_OF_SEVERAL_STAGES = [
    {"qk_norm.eps": 1e-5},
    {"rope.pairing": "interleaved"},
    {"qk_norm.eps": 1e-5, "rope.pairing": "interleaved"},
    {"qk_norm.kind": "gain_only", "ffn_norm.eps": 1e-5},
    {"attention.scale": "1/head_dim", "ffn.activation": "gelu_tanh"},
]


@pytest.fixture
def block(qwen3):
    """A region that reads the residual and ends at the next one."""
    case = qwen3.case("ffn_residual")
    return replace(case, values={name: value for name, value in case.values.items() if "blk.1." not in name})


def _computed(block, settings, hidden=()):
    """What such a region computes, without the stages that it does not show."""
    memo = Memo()
    evaluate(block, block.target, settings, memo)
    shown = [found[-1][1] for tap, found in memo.steps.items() if tap.rpartition(".")[2] not in hidden]
    return lambda value: any(v.size == value.size and np.allclose(v.ravel(), value.ravel(), rtol=1e-9) for v in shown)


@pytest.mark.parametrize("changed", _OF_SEVERAL_STAGES, ids=str)
def test_a_block_is_named_from_stage_to_stage(block, qwen3, changed):
    standard = standard_settings(qwen3.config)
    wanted = Settings({**standard, **changed})
    assert settings_by_stage(block, standard, _computed(block, wanted)) == wanted
    assert settings_by_stage(block, standard, _computed(block, standard)) == standard


def test_a_stage_that_is_not_shown_is_asked_for_at_the_next(block, qwen3):
    standard = standard_settings(qwen3.config)
    wanted = standard.with_value("qk_norm.eps", 1e-5)
    assert settings_by_stage(block, standard, _computed(block, wanted, {"q_norm", "k_norm"})) == wanted


def test_where_nothing_is_shown_nothing_is_guessed(block, qwen3):
    standard = standard_settings(qwen3.config)
    assert settings_by_stage(block, standard, _computed(block, standard, set(IN_BLOCK))) == standard
