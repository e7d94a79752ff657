"""Progress: counts reach whoever watches, inner loops are part of outer ones, and a silent run says where it is."""

from __future__ import annotations

import time

import pytest

from opdiff.graphs import progress
from opdiff.graphs.progress import counted, loudness, steps_shown, uncounted


@pytest.fixture
def loud():
    token = loudness.set("verbose")
    yield
    loudness.reset(token)


def test_items_come_as_they_are_where_nobody_watches():
    assert list(counted([3, 1, 2])) == [3, 1, 2]


def test_watcher_is_told_of_the_outer_loop_alone():
    told = []
    progress._watcher.set(lambda done, total: told.append((done, total)))
    try:
        for _ in counted("ab"):
            list(counted([1, 2, 3]))
    finally:
        progress._watcher.set(None)
    assert told == [(0, 2), (1, 2), (2, 2)]


def test_watcher_is_not_told_of_what_runs_beside():
    told = []
    progress._watcher.set(lambda done, total: told.append((done, total)))
    try:
        with uncounted():
            list(counted([1, 2, 3]))
        list(counted("a"))
    finally:
        progress._watcher.set(None)
    assert told == [(0, 1), (1, 1)]


def test_short_run_without_a_terminal_says_nothing(capsys):
    with steps_shown() as steps:
        steps.enter("running both")
        list(counted([1, 2]))
    assert capsys.readouterr().err == ""


def test_long_run_without_a_terminal_says_each_step_in_a_line(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with steps_shown() as steps:
        steps.enter("reading both")
        steps.enter("running both")
        for n in counted(range(3)):
            now[0] = 11.0 + n
        steps.enter("explaining")
    assert capsys.readouterr().err.splitlines() == ["opdiff: running both (11 s)", "opdiff: explaining (13 s)"]


def test_verbose_says_each_step_from_the_start(capsys, loud):
    with steps_shown() as steps:
        steps.enter("reading both")
    assert capsys.readouterr().err == "opdiff: reading both (0 s)\n"


def test_quiet_says_nothing_however_long_it_takes(capsys, monkeypatch):
    token = loudness.set("quiet")
    with steps_shown() as steps:
        monkeypatch.setattr(time, "monotonic", lambda: 1e9)
        steps.enter("running both")
    loudness.reset(token)
    assert capsys.readouterr().err == ""


def test_watcher_is_gone_after_a_failure():
    with pytest.raises(ValueError, match="x"), steps_shown():
        raise ValueError("x")
    assert progress._watcher.get() is None
