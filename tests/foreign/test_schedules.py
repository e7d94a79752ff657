"""Graphs by other hands that take their past are fed in steps as they are; what only steps show is found where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import made_once
from corpus.models import TOKENS as ALL
from foreign import models, with_past

from opdiff.__main__ import main
from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result
from opdiff.graphs.adopt.opened import open_foreign
from opdiff.graphs.adopt.past import states_of
from opdiff.graphs.errors import InputError
from opdiff.graphs.schedule.steps import parse_schedule

TOKENS = ALL[:6]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory, worker_id) -> Path:
    """eager.onnx and fused.onnx (opset 23) of one model, and gqa.onnx and buffer.onnx of another one, each with its past."""

    def make(folder: Path) -> None:
        with_past.exported(folder / "eager.onnx", "eager", 18)
        with_past.exported(folder / "fused.onnx", "sdpa", 23)
        with_past.group_query(folder / "gqa.onnx")
        with_past.group_query(folder / "buffer.onnx", 16)

    return made_once(tmp_path_factory, worker_id, "with_past", make)


def compared(a: Path, b: Path, schedule_a: str, schedule_b: str, tokens=TOKENS, **options) -> Result:
    schedules = parse_schedule(schedule_a), parse_schedule(schedule_b)
    return compare(a, b, tokens, schedules=schedules, **options)


@pytest.mark.parametrize("schedules", [("whole", "each"), ("whole", "4+1+1"), ("each", "chunks:4")])
@pytest.mark.parametrize(
    ("a", "b"), [("eager", "eager"), ("eager", "fused"), ("fused", "eager"), ("gqa", "gqa"), ("gqa", "buffer")]
)
def test_a_right_cache_is_not_blamed_on_any_schedule(graphs, a, b, schedules):
    result = compared(graphs / f"{a}.onnx", graphs / f"{b}.onnx", *schedules)
    assert result.parity, [cause.text for cause in result.root_causes]
    assert result.closed.complete
    assert result.first_step is None
    assert result.schedules == schedules
    assert result.b.name.endswith(f"[{schedules[1]}]")
    assert len(result.positions) == len(TOKENS)
    checked = [note for note in result.notes if "are those of its file in onnxruntime to" in note]
    assert len(checked) == 2
    assert all(float(note.rsplit(" ", 1)[-1]) < 1e-5 for note in checked)


def test_what_only_steps_show_is_hidden_in_a_whole_prompt(graphs):
    for faulty in (with_past.positions_from_0, with_past.blind_to_the_past):
        result = compared(graphs / "eager.onnx", faulty(graphs / "eager.onnx"), "whole", "whole")
        assert result.parity
        assert any("--schedule-b each" in spot.text for spot in result.blind_spots)


def found(result: Result, position: int, step: int, taps: set[str]) -> None:
    """The fault is told at this place, in these regions and no others, and is all."""
    assert result.first_step is not None
    assert (result.first_step.position, result.first_step.b_step) == (position, step)
    assert {tap for cause in result.root_causes for tap in cause.taps} == taps
    assert result.closed.all_found, result.closed.text


@pytest.mark.parametrize("route", ["eager", "fused"])
def test_positions_that_begin_anew_are_found_at_the_first_later_step(graphs, route):
    faulty = with_past.positions_from_0(graphs / f"{route}.onnx")
    result = compared(graphs / "eager.onnx", faulty, "whole", "4+1+1")
    found(result, 4, 2, {f"blk.{n}.{stage}" for n in range(with_past.N_BLOCKS) for stage in ("q_rope", "k_rope")})


def test_a_mask_that_hides_the_past_is_found_and_told(graphs):
    faulty = with_past.blind_to_the_past(graphs / "eager.onnx")
    result = compared(graphs / "eager.onnx", faulty, "whole", "each")
    found(result, 1, 2, {f"blk.{n}.attn_scores" for n in range(with_past.N_BLOCKS)})
    assert result.closed.complete
    assert (result.root_causes[0].convention, result.root_causes[0].b_value) == ("attention.window", "1")


@pytest.mark.parametrize("schedule_a", ["whole", "3+2+1"])
def test_a_slot_that_is_off_is_found_in_its_block(graphs, schedule_a):
    faulty = with_past.one_slot_off(graphs / "eager.onnx", 1)
    found(compared(graphs / "fused.onnx", faulty, schedule_a, "3+2+1"), 3, 2, {"blk.1.attn_scores"})
    assert compared(faulty, faulty, "3+2+1", "3+2+1").parity  # what is wrong on both sides is no difference


def test_a_slot_that_is_off_is_found_in_a_grouped_attention(graphs):
    faulty = with_past.one_slot_off(graphs / "gqa.onnx", 0)
    found(compared(graphs / "buffer.onnx", faulty, "each", "3+2+1"), 3, 2, {"blk.0.attn_scores"})


def test_a_graph_with_the_logits_of_the_last_position_is_fed_in_steps(graphs):
    last = models.at_the_last_position(graphs / "eager.onnx")
    for a, b, schedules in ((graphs / "eager.onnx", last, ("whole", "each")), (last, last, ("each", "4+1+1"))):
        result = compared(a, b, *schedules)
        assert result.parity, [cause.text for cause in result.root_causes]
        assert [position.position for position in result.positions] == [len(TOKENS) - 1]
    faulty = with_past.one_slot_off(last, 1)
    found(compared(graphs / "eager.onnx", faulty, "whole", "3+2+1"), 3, 2, {"blk.1.attn_scores"})


def test_a_weight_that_differs_is_told_beside_steps(graphs, tmp_path):
    import onnx

    model = onnx.load(graphs / "eager.onnx")
    (gain,) = (one for one in model.graph.initializer if one.name == "model.model.layers.1.input_layernorm.weight")
    values = onnx.numpy_helper.to_array(gain).copy()
    values[3] = 9
    gain.CopyFrom(onnx.numpy_helper.from_array(values, gain.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    result = compared(graphs / "eager.onnx", tmp_path / "wrong.onnx", "whole", "each")
    found(result, 0, 1, {"blk.1.attn_norm"})
    assert result.closed.complete


def test_pasts_and_presents_are_paired_by_words_and_numbers(graphs):
    kinds = [f"{n}.{word}" for n in range(with_past.N_BLOCKS) for word in ("key", "value")]
    wanted = {f"past_key_values.{kind}": f"present.{kind}" for kind in kinds}
    assert states_of(open_foreign(graphs / "eager.onnx")) == wanted


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        ("batch:2", "are fed one prompt without padding, where batch:2 is asked for"),
        ("pad-left:2,each", "are fed one prompt without padding"),
        ("4+1", "its steps are of 5 tokens, where 6 are given"),
    ],
)
def test_a_schedule_that_cannot_be_fed_is_refused_in_one_line(graphs, schedule, text):
    eager, tokens = str(graphs / "eager.onnx"), ",".join(map(str, TOKENS))
    done = CliRunner().invoke(main, ["compare", eager, eager, "--tokens", tokens, "--schedule-b", schedule])
    assert done.exit_code == 2
    assert done.stderr.startswith("opdiff: ")
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_graphs_and_inputs_that_cannot_be_cut_into_steps_are_refused(graphs, exports):
    with pytest.raises(InputError, match=r"fused\.onnx: keeps no cache .* cannot be fed in 10 steps"):
        compared(graphs / "eager.onnx", exports / "fused.onnx", "whole", "each", ALL)
    given = {"attention_mask": np.ones((1, len(TOKENS)), np.int64)}
    with pytest.raises(InputError, match="attention_mask is given for all tokens at once"):
        compared(graphs / "eager.onnx", graphs / "eager.onnx", "whole", "each", inputs=(given, given))
