"""Conventions of a region that spans several stages, named stage by stage: by what is computed inside of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import chain

import numpy as np

from ...graphs.errors import OpdiffError
from ...graphs.stages import is_stage, split_tap_name
from .case import Array, Case
from .evaluate import Memo, evaluate_with_reads
from .fit import Question
from .registry import conventions
from .settings import Settings

Holds = Callable[[Array], bool]


def settings_by_stage(case: Case, start: Settings, holds: Holds) -> Settings:
    """The settings under which each stage inside the region is a value that the region computes.

    From the region's inputs on: a stage that the region does not compute as `start` has it is asked for under another
    value of one convention; where that is found, it is kept, and what comes after is computed from that stage's value.
    A stage that fits no way is passed over. This is a guess, quickly made: the region's own output is not looked at.

    Args:
        case: ends at the region's output; the stages between `case.values` and that output are asked for.
        holds: whether a value, in canonical axes, is one that the region computes, in whatever layout.
    """
    settings, values, memo = start, dict(case.values), Memo()
    evaluate_with_reads(case, case.target, start, memo)
    for tap in filter(is_stage, list(memo.steps)):
        block, stage = split_tap_name(tap)
        inner = replace(case, stage=stage, block=block, values=values)
        for near, value in _near(inner, settings):
            if not np.isnan(value).any() and _is_new(value, values) and holds(value):
                settings, values[tap] = near, value
                break
    return settings


def _is_new(value: Array, known: Mapping[str, np.ndarray]) -> bool:
    """Whether a stage is more than what is known already, which the region computes in any case."""
    return not any(
        value.size == other.size and np.array_equal(value.ravel(), other.ravel()) for other in known.values()
    )


def _near(case: Case, settings: Settings) -> Iterator[tuple[Settings, Array]]:
    """The stage with these settings, and with each other value of one convention that has a say."""
    memo = Memo()
    value, reads = evaluate_with_reads(case, case.target, settings, memo)
    yield settings, value
    for entered in conventions():
        if entered.name in reads and not entered.last_resort:
            standard = entered.standard(case.config)
            asked = Question(case, value, settings, memo)
            for other in dict.fromkeys(chain([standard], entered.alternatives(asked))):
                if other == settings.get(entered.name, standard):
                    continue
                with suppress(OpdiffError):
                    near = settings.with_value(entered.name, other)
                    yield near, evaluate_with_reads(case, case.target, near, memo)[0]
