"""A result on the terminal: three lines a cause, a map that fits, and nothing that a file says is obeyed."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from onnx_text import DECODER, save_decoder
from rich.console import Console

from opdiff.compare.diagnose import compare
from opdiff.compare.report.heat_map import heat_map
from opdiff.compare.report.terminal import Shown, print_result
from opdiff.compare.result import Result


@pytest.fixture
def result(tmp_path) -> Result:
    other = DECODER.replace("act1 = Relu(up1)", "act1 = Abs(up1)")
    return compare(save_decoder(tmp_path / "a.onnx"), save_decoder(tmp_path / "b.onnx", text=other), [1, 5, 3])


def printed(result: Result, shown: Shown = Shown()) -> str:  # noqa: B008
    out = io.StringIO()
    print_result(result, Console(file=out, width=132, soft_wrap=True), shown)
    return out.getvalue()


def with_blocks(result: Result, n: int, *, faulty: frozenset[int] = frozenset(), stages: int = 20) -> Result:
    """The result's faulty row in so many blocks and stages, at fault in some of the blocks."""
    row = next(row for row in result.rows if row.verdict == "semantic")
    rows = [
        replace(
            row, tap=f"blk.{b}.s{s}", block=b, stage=f"attn_stage_{s}", verdict="semantic" if b in faulty else "same"
        )
        for s in range(stages)
        for b in range(n)
    ]
    return replace(result, rows=tuple(rows))


def test_each_cause_takes_three_lines_and_the_answer_is_the_first_line(diagnosis):
    text = printed(diagnosis)
    first, *rest = text.split("\n\n")
    assert first.startswith("differ: dsl")
    for number, cause in enumerate(diagnosis.root_causes, 1):
        block = next(part for part in rest if part.startswith(f"{number}. ")).splitlines()
        assert len(block) <= 3
        assert cause.what in block[0]
        assert cause.source.rsplit("/", 1)[1] in block[1]
    assert "┃" not in text


def test_tables_stand_behind_their_option_and_details_behind_verbose(diagnosis):
    assert "┃" in printed(diagnosis, Shown(tables=True))
    assert "effect on the logits" in printed(diagnosis, Shown(verbose=True))
    assert "effect on the logits" not in printed(diagnosis)


def test_quiet_is_the_answer_and_the_causes(diagnosis):
    assert len(printed(diagnosis, Shown(quiet=True)).splitlines()) == 1 + len(diagnosis.root_causes)


@pytest.mark.parametrize("n", [1, 2, 30, 48, 61, 200])
def test_map_fits_a_hundred_columns_and_shows_the_faulty_block(n, result):
    lines = [line.plain for line in heat_map(with_blocks(result, n, faulty=frozenset({n - 1})).rows)]
    assert max(map(len, lines)) <= 100
    cells = [line.split(maxsplit=1)[1].replace(" ", "") for line in lines if line.startswith("attn_stage")]
    assert len(cells) == 20
    assert all(cell[-1].isdigit() and set(cell[:-1]) <= {"."} for cell in cells)


def test_map_of_many_stages_shows_those_that_differ(result):
    many = with_blocks(result, 2, faulty=frozenset({1}), stages=60)
    one = replace(many, rows=tuple(r if r.stage == "attn_stage_7" else replace(r, verdict="same") for r in many.rows))
    lines = [line.plain for line in heat_map(one.rows)]
    assert [line.split()[0] for line in lines] == ["block", "attn_stage_7", "and"]
    assert "59 stages" in lines[-1]


def test_map_tells_a_small_fault_from_a_large_one_and_from_what_is_broken(result):
    row = next(row for row in result.rows if row.verdict == "semantic")
    signs = [
        next(heat_map([replace(row, block=None, error=error, floor=1.0)])).plain.split()[-1]
        for error in (2.0, 1e3, 1e30, float("inf"))
    ]
    assert signs == ["1", "3", "9", "!"]


def test_no_map_where_all_is_the_same(tmp_path):
    a = save_decoder(tmp_path / "a.onnx")
    assert "powers of ten" not in printed(compare(a, a, [1, 5, 3]))


def test_what_a_file_says_is_shown_and_not_obeyed(result):
    evil = "\x1b[2J[red]x[/red]\r\nsecond"
    cause = replace(result.root_causes[0], what=evil)
    text = printed(replace(result, root_causes=(cause,), notes=(evil,)))
    assert "\x1b" not in text
    assert "[red]x[/red] second" in text
