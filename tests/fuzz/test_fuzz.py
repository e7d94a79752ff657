"""A fixed part of what `make fuzz` runs, every lie, and every case that ever failed: a result, or one line and status 2."""

from __future__ import annotations

import pytest

from .formats import FORMATS
from .kept import found
from .lies import LIES, SAYS
from .running import Tally, run_cases

N_CASES = 50  # of each format


def failures(tally: Tally) -> list[str]:
    return [f"{number}: {wrong} {words}" for number, wrong, words in tally.failures]


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_used_or_refused_in_one_line(name, tmp_path):
    tally = run_cases(name, 0, N_CASES, tmp_path)
    assert failures(tally) == []
    assert tally.n_cases == N_CASES
    assert tally.statuses["2"] > N_CASES // 4, "the damage is not seen"


def test_files_that_lie_are_used_or_refused_in_one_line(tmp_path):
    tally = run_cases("lies", 0, len(LIES), tmp_path)
    assert failures(tally) == []
    lines = {name: tally.told[number] for number, name in enumerate(LIES)}
    assert {
        name: line for name, line in lines.items() if SAYS.get(name, "") not in line or bool(line) != (name in SAYS)
    } == {}


def test_what_once_failed_is_used_or_refused_in_one_line(tmp_path):
    tally = run_cases("found", 0, len(found()), tmp_path)
    assert failures(tally) == []
    assert tally.n_cases == len(found()) > 0
