"""Schedules: texts that say one, steps with their places, and values put together by position and taken apart again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from opdiff.graphs.errors import InputError
from opdiff.graphs.inputs import fed
from opdiff.graphs.schedule.placing import apart, assembled, by_position, looked_at
from opdiff.graphs.schedule.steps import parse_schedule, side_by_side
from opdiff.graphs.trace import load_trace

N = 7
SCHEDULES = [
    "whole",
    "each",
    "chunks:3",
    "4+1+2",
    "batch:3",
    "pad-left:2",
    "pad-right:3,chunks:2",
    "batch:2,pad-left:4,each",
]


@pytest.mark.parametrize(
    ("text", "ends"), [("whole", [7]), ("each", [1, 2, 3, 4, 5, 6, 7]), ("chunks:3", [3, 6, 7]), ("4+1+2", [4, 5, 7])]
)
def test_steps_end_where_the_text_says(text, ends):
    assert [step.end for step in parse_schedule(text).steps(N)] == ends


@pytest.mark.parametrize(
    "text",
    [
        "",
        "twice",
        "chunks",
        "chunks:0",
        "chunks:x",
        "4++1",
        "each,chunks:2",
        "batch:0",
        "pad-left:-1",
        "1+99999999999",
        "batch:2,batch:3",
    ],
)
def test_a_text_that_is_no_schedule_is_refused_in_one_line(text):
    with pytest.raises(InputError, match=r"^schedule .*") as refused:
        parse_schedule(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "ends"), [("4+1+2", [4, 5]), ("each", [1, 2, 3, 4, 5]), ("whole", [5]), ("chunks:3", [3, 5])]
)
def test_the_beginning_of_a_schedule_feeds_the_first_tokens(text, ends):
    assert [step.end for step in parse_schedule(text).beginning(5).steps(5)] == ends


def test_steps_that_do_not_add_up_are_refused():
    with pytest.raises(InputError, match="its steps are of 6 tokens, where 7 are given"):
        parse_schedule("4+1+1").steps(N)


@pytest.mark.parametrize("text", SCHEDULES)
def test_every_token_is_fed_once_at_its_place_and_the_mask_shows_no_padding(text):
    tokens, steps = list(range(10, 10 + N)), parse_schedule(text).steps(N)
    seen = []
    for step in steps:
        given = fed(tokens, step)
        ids, mask, positions = (given[name][step.row] for name in ("tokens", "attention_mask", "position_ids"))
        assert given["attention_mask"].shape == (step.n_rows, step.n_keys)
        seen += list(ids[mask[step.n_before :] == 1])
        np.testing.assert_array_equal(positions[step.own], np.arange(step.start, step.end))
        assert mask.sum() == step.end
    assert seen == tokens


@pytest.mark.parametrize("text", SCHEDULES)
def test_rows_side_by_side_are_the_rows_of_a_batch(text):
    """Scores [row, token, key], and the same where all rows share the axes of tokens and of keys, as in one buffer."""
    random, steps = np.random.default_rng(0), parse_schedule(text).steps(N)
    batched = [random.standard_normal((step.n_rows, step.n_columns, step.n_keys)) for step in steps]
    shared = []
    for value, step in zip(batched, steps, strict=True):
        tokens = []
        for row, scores in enumerate(value):
            keys = []
            for other in steps[: steps.index(step) + 1]:
                part = random.standard_normal((step.n_columns, step.n_rows, other.n_columns))
                part[:, row] = scores[:, other.n_before : other.n_keys]
                keys.append(part.reshape(step.n_columns, -1))
            tokens.append(np.concatenate(keys, 1))
        shared.append(np.concatenate(tokens))
    ends = [step.end for step in steps]
    ours = assembled(batched, ("batch", "token", "key"), steps, ends, 0.0)
    np.testing.assert_array_equal(assembled(shared, ("token", "key"), side_by_side(steps), ends, 0.0), ours)


@pytest.mark.parametrize("text", SCHEDULES)
@pytest.mark.parametrize(
    "axes",
    [
        "token channel",
        "batch head token channel",
        "batch head token key",
        "head token key",
        "batch head slot channel",
        "slot channel",
    ],
)
def test_values_come_apart_as_they_were_put_together(text, axes):
    words, steps = axes.split(), parse_schedule(text).steps(N)
    if steps[0].n_rows > 1 and "batch" not in words:
        pytest.skip("a batch has an axis")
    random = np.random.default_rng(0)
    own = []
    for step in steps:
        sizes = {
            "batch": step.n_rows,
            "head": 2,
            "channel": 3,
            "token": step.n_columns,
            "key": step.n_keys,
            "slot": step.n_keys,
        }
        own.append(random.standard_normal([sizes[word] for word in words]))
    ends = [step.end for step in steps]
    whole = assembled(own, words, steps, ends, 0.0)
    for value, step in zip(own, steps, strict=True):
        blank = value + 1.0  # what is no position stays as it is there
        back = apart(whole, words, step, ends, blank)
        again = assembled([back if one is value else one for one in own], words, steps, ends, 0.0)
        np.testing.assert_array_equal(again, whole)


def test_a_cache_is_looked_at_where_another_side_is():
    rows = [np.arange(end)[:, None] for end in (3, 7)]
    value = np.concatenate(rows)
    np.testing.assert_array_equal(looked_at(value, [3, 7], [2, 3, 5]).ravel(), [0, 1, 0, 1, 2, 0, 1, 2, 3, 4])


def steps_of(values: dict[str, np.ndarray], sizes: list[int]) -> dict[str, np.ndarray]:
    """The first axis of each value in steps, under the names of a dump."""
    found, start = {}, 0
    for n, size in enumerate(sizes):
        for name, value in values.items():
            found[f"step.{n}.{name}"] = value[start : start + size]
        start += size
    return found


VALUES = {"tokens": np.arange(N), "embed": np.random.default_rng(1).standard_normal((N, 4)).astype(np.float32)}


def test_a_dump_of_steps_is_a_trace_by_position(tmp_path):
    np.savez(tmp_path / "dump.npz", **steps_of(VALUES, [4, 1, 2]))
    trace = load_trace(tmp_path / "dump.npz")
    assert trace.tokens == tuple(range(N))
    assert trace.schedule.text == "4+1+2"
    np.testing.assert_array_equal(trace.values["embed"], VALUES["embed"])


def test_a_folder_of_a_file_a_step_is_the_same(tmp_path):
    dumped = steps_of(VALUES, [4, 1, 2])
    for n in range(3):
        one = {name.split(".", 2)[2]: value for name, value in dumped.items() if name.startswith(f"step.{n}.")}
        np.savez(tmp_path / f"step.{n}.npz", **one)
    trace = load_trace(tmp_path)
    assert trace.schedule.text == "4+1+2"
    np.testing.assert_array_equal(trace.values["embed"], VALUES["embed"])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda dumped: dumped.pop("step.1.tokens") is None or dumped.pop("step.1.embed"), "step 1 is missing"),
        (lambda dumped: dumped.pop("step.1.embed"), "no stage in it"),
        (lambda dumped: dumped.update({"step.1.final_norm": np.ones((1, 4))}), "not in every step"),
        (lambda dumped: dumped.update({"tokens": np.arange(5)}), "5 tokens, where its steps are of 7"),
    ],
)
def test_steps_that_do_not_fit_are_refused(tmp_path, change, text):
    dumped = steps_of(VALUES, [4, 1, 2])
    change(dumped)
    np.savez(tmp_path / "dump.npz", **dumped)
    with pytest.raises(InputError, match=text):
        load_trace(tmp_path / "dump.npz")


def test_a_folder_without_steps_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"name its files step.0.npz"):
        load_trace(tmp_path)


def test_padding_is_taken_out_of_what_a_runtime_records():
    steps = parse_schedule("pad-left:2,chunks:4").steps(N)
    values = [
        {"embed": (("batch", "token", "channel"), np.arange(2 * step.n_columns).reshape(1, -1, 2))} for step in steps
    ]
    axes, made = by_position(values, steps)["embed"]
    assert axes == ("token", "channel")
    np.testing.assert_array_equal(made[:4], np.arange(12).reshape(6, 2)[2:])
