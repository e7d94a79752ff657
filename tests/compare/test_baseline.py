"""A baseline: what is known passes, what is new does not, wherever it is and however much it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx_text import DECODER, DECODER_AXES, save_text

from opdiff.compare.baseline import Compared, Placed
from opdiff.compare.baseline import compared as held_against
from opdiff.compare.diagnose import compare
from opdiff.compare.report.against import baseline_lines
from opdiff.compare.result import Closed, Result
from opdiff.compare.saved import read_result
from opdiff.graphs.errors import InputError

PATH = Path("known.json")
NAMES = {"ffn_down": "ffn_residual", "w0": '"blk.0.ffn_up.weight"', "w1": '"blk.1.ffn_up.weight"'}
FAULTS = {0: ("act0 = Relu(up0)", "act0 = Tanh(up0)"), 1: ("act1 = Relu(up1)", "act1 = Tanh(up1)")}
Parted = Callable[..., Result]


def compared(result: Result, baseline: Result) -> Compared:
    return held_against(result, baseline, PATH)


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Parted:
    """DECODER, its blocks' outputs named as in a real one, against itself with Tanh in the place of Relu in some blocks."""

    def save(path: Path, text: str) -> Path:
        for old, new in NAMES.items():
            text = text.replace(old, new)
        axes = {name.replace("ffn_down", "ffn_residual"): words for name, words in DECODER_AXES.items()}
        random = np.random.default_rng(0)
        shapes = {"table": (8, 4), "blk.0.ffn_up.weight": (4, 4), "blk.1.ffn_up.weight": (4, 4)}
        weights = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        return save_text(path, text, axes, weights, {"checkpoint": "abc"})

    def made(*blocks: int, tokens: tuple[int, ...] = (1, 5, 3), to: str = "Tanh") -> Result:
        folder, text = tmp_path_factory.mktemp("pair"), DECODER
        for block in blocks:
            text = text.replace(FAULTS[block][0], FAULTS[block][1].replace("Tanh", to))
        return compare(save(folder / "a.onnx", DECODER), save(folder / "b.onnx", text), tokens)

    return made


def taps(placed: tuple[Placed, ...]) -> list[tuple[str, ...]]:
    return [one.taps for one in placed]


def lines(found: Compared) -> list[str]:
    return list(baseline_lines(found))


def test_what_is_known_passes_though_the_graphs_were_made_anew(parted: Parted):
    found = compared(parted(1), parted(1))
    assert found.passes
    assert (taps(found.known), found.new, found.gone) == ([("blk.1.ffn_residual",)], (), ())
    assert lines(found)[0] == "pass, by the baseline: 1 known"


def test_a_new_cause_fails(parted: Parted):
    found = compared(parted(1), parted())
    assert not found.passes
    assert taps(found.new) == [("blk.1.ffn_residual",)]
    first, second = lines(found)
    assert first == "fail, by the baseline: 1 new"
    assert second == f"new: {found.new[0].cause.what}; at ffn_residual in block 1"


def test_a_cause_that_is_gone_is_said_and_passes(parted: Parted):
    found = compared(parted(), parted(1))
    assert found.passes
    assert taps(found.gone) == [("blk.1.ffn_residual",)]
    assert lines(found)[1].startswith("gone: b: tanh(")


def test_a_known_cause_that_spreads_is_new_where_it_was_not(parted: Parted):
    found = compared(parted(0, 1), parted(1))
    assert not found.passes
    assert taps(found.known) == [("blk.1.ffn_residual",)]
    assert taps(found.new) == [("blk.0.ffn_residual",)]
    assert lines(found)[1].startswith("new there: ")


def test_a_cause_that_is_mended_in_its_first_block_stays_known_in_the_others(parted: Parted):
    found = compared(parted(1), parted(0, 1))
    assert found.passes
    assert (taps(found.known), taps(found.gone)) == ([("blk.1.ffn_residual",)], [("blk.0.ffn_residual",)])


def test_another_fault_in_the_same_place_is_new(parted: Parted):
    found = compared(parted(1, to="Sin"), parted(1))
    assert not found.passes
    assert taps(found.new) == taps(found.gone) == [("blk.1.ffn_residual",)]


def test_another_value_of_a_convention_is_new(diagnosis: Result):
    first, *others = diagnosis.root_causes
    found = compared(diagnosis, replace(diagnosis, root_causes=(replace(first, b_value="other"), *others)))
    assert [one.cause.convention for one in found.new] == ["linear.layout"]


def test_numbers_are_no_part_of_a_cause(diagnosis: Result):
    moved = [replace(one, effect=None, residual=0.25, source="x.py:1", text="") for one in diagnosis.root_causes]
    found = compared(diagnosis, replace(diagnosis, root_causes=tuple(moved), tokens=diagnosis.tokens))
    assert found.passes
    assert len(found.known) == 3


@pytest.mark.parametrize(("number", "is_same"), [("0.12500001", True), ("0.126", False)])
def test_a_number_that_was_solved_counts_to_three_digits(number: str, is_same: bool, parted: Parted):
    base = parted(1)
    ours, theirs = (
        replace(base, root_causes=(replace(base.root_causes[0], edit=(f"x * {value} where A has x",)),))
        for value in ("0.125", number)
    )
    assert compared(ours, theirs).passes == is_same


def test_a_relation_that_nobody_explains_is_what_it_is_known_by(parted: Parted):
    base = parted(1)

    def related(relation: str) -> Result:
        cause = replace(base.root_causes[0], kind="unexplained", edit=())
        return replace(base, root_causes=(cause,), divergences=(replace(base.divergences[0], relations=(relation,)),))

    assert compared(related("zero everywhere"), related("zero everywhere")).passes
    assert not compared(related("zero everywhere"), related("the sign is turned")).passes


def test_what_no_region_accounts_for_is_new_where_the_baseline_had_none(parted: Parted):
    left = Closed(False, False, 0.5, "not complete: B is still 0.5 from A")
    base = parted(1)
    found = compared(replace(base, closed=left), base)
    assert not found.passes
    assert f"new: {left.text}" in lines(found)
    assert compared(replace(base, closed=left), replace(base, closed=left)).passes


def test_what_was_not_compared_is_not_called_gone(parted: Parted):
    base, nothing = parted(1), parted()
    rows = tuple(row for row in nothing.rows if row.tap != "blk.1.ffn_residual")
    found = compared(replace(nothing, rows=rows), base)
    assert (found.gone, taps(found.unseen)) == ((), [("blk.1.ffn_residual",)])
    assert lines(found)[1].startswith("not compared in this run, so not known: ")


def test_other_tokens_are_said(parted: Parted):
    assert (
        lines(compared(parted(1, tokens=(1, 5)), parted(1)))[-1]
        == "the baseline is of other tokens, which may show other causes"
    )


def test_a_saved_baseline_is_the_same(parted: Parted, tmp_path: Path):
    result = parted(1)
    (tmp_path / "known.json").write_text(result.to_json())
    assert compared(result, read_result(tmp_path / "known.json")).passes


@pytest.mark.parametrize("change", [{"name": "c"}, {"runtime": "c"}, {"checkpoint": "c"}], ids=str)
@pytest.mark.parametrize("side", ["a", "b"])
def test_a_baseline_of_another_pair_is_refused_in_one_line(change: dict[str, str], side: str, parted: Parted):
    base = parted()
    ours = replace(base, **{side: replace(getattr(base, side), **change)})
    with pytest.raises(
        InputError, match=r"^known\.json: a baseline of .*, where this is of .*; (give|save) one"
    ) as raised:
        compared(ours, base)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("runtime", ["hf transformers {}", "llama.cpp (llama-cpp-python {})", "mine v{}"])
def test_another_version_of_a_runtime_is_the_same_pair(runtime: str, parted: Parted):
    base = parted()
    ours, theirs = (
        replace(base, b=replace(base.b, runtime=runtime.format(version))) for version in ("0.3.36", "0.4.0rc1")
    )
    assert compared(ours, theirs).passes


def test_a_checkpoint_that_nobody_wrote_down_is_no_other(parted: Parted):
    base = parted()
    assert compared(replace(base, b=replace(base.b, checkpoint=None)), base).passes
