"""The page of a comparison, without a browser: it holds what the terminal says, from the record alone, and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from opdiff.compare.report.html import page
from opdiff.compare.report.page.grid import Cell, grid
from opdiff.compare.report.page.numbers import number, power_of_ten, short
from opdiff.compare.report.sentences import coverage, headline, short_lines
from opdiff.compare.result import Result
from opdiff.compare.saved import read_saved
from opdiff.graphs.printable import printable


def text_of(html: str) -> str:
    """What is read of the body, in one line."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", "", body)).split())


def data_of(html: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(found, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))


def cells_of(result: Result) -> list[Cell]:
    return [cell for line in grid(result).lines for cell in line.cells if cell is not None]


@pytest.mark.parametrize("name", ["parted", "same", "diagnosis"])
def test_page_says_what_the_terminal_says(name: str, request: pytest.FixtureRequest):
    result = request.getfixturevalue(name)
    text = text_of(page(result))
    wanted = [
        headline(result).partition(": ")[2],
        coverage(result),
        *result.notes,
        *(spot.text for spot in result.blind_spots),
    ]
    wanted += [result.next_capture.text] if result.next_capture else []
    wanted += [line for cause in result.root_causes for line in short_lines(cause, result)]
    wanted += [result.closed.text, *filter(None, [result.verdict])] if result.root_causes else []
    assert [line for line in wanted if line not in text] == []


def test_page_of_a_saved_result_is_the_same_page(parted: Result, tmp_path: Path):
    (tmp_path / "r.json").write_text(parted.to_json())
    again = read_saved(tmp_path / "r.json")
    assert isinstance(again, Result)
    assert page(again) == page(parted)


def test_page_refers_to_nothing_outside_of_itself(parted: Result):
    markup = page(parted).partition("<script>")[0]
    asking = r"""\b(?:src|srcset|href|action|poster)\s*=\s*(?!["'](?:#|data:,["']))\S+|url\(|@import"""
    assert re.findall(asking, markup) == []
    assert re.findall(asking, "<a href='x'><img src=\"data:image/png,\"> url(x)") != []


def test_policy_allows_this_script_and_this_style_alone(parted: Result):
    html = page(parted)
    policy = unescape(re.search(r'Policy" content="([^"]+)"', html)[1])
    for kind in ("script", "style"):
        (own,) = re.findall(rf"<{kind}>(.*?)</{kind}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_hostile_text_is_escaped_and_what_does_not_show_is_written_out(hostile: Result):
    html = page(hostile)
    html.encode("utf-8")  # a lone surrogate could not be written
    name = printable(hostile.a.name)
    assert "<script>alert(1)" not in html
    assert not set(hostile.a.name) - set(name) & set(html.partition("<script>")[0])
    assert " ".join(name.split()) in text_of(html)
    assert data_of(html)["a"] == name


def test_data_has_every_tap_with_its_pictures_and_nodes(parted: Result):
    taps = data_of(page(parted))["taps"]
    assert [tap["tap"] for tap in taps] == [row.tap for row in parted.rows]
    for tap, row in zip(taps, parted.rows, strict=True):
        assert tap["difference"]["cells"] == row.difference.cells
        assert [node[0] for node in tap["nodes"][1]] == [node.name for node in row.b_nodes]
        assert tap["by_position"] == list(row.by_position)


def test_growth_of_the_rope_fault_with_the_position_is_in_what_is_drawn(diagnosis: Result):
    """The seed's pairs are rotated by the position's angle: nothing at position 0, more with each."""
    found = data_of(page(diagnosis))
    rope = next(cause for cause in found["causes"] if cause["what"].startswith("rope.pairing"))
    curves = [found["taps"][tap]["fault"]["by_position"] for tap in rope["taps"]]
    assert len(curves) == 2
    for first, second, third in curves:
        assert first == 0 < second < third


def test_map_has_each_tap_once_in_graph_order(diagnosis: Result):
    found = grid(diagnosis)
    assert sorted(cell.tap for cell in cells_of(diagnosis)) == sorted(row.tap for row in diagnosis.rows)
    stages = [line.stage for line in found.lines]
    assert stages[:3] == ["embed", "attn_norm", "q_proj"]
    assert stages[-2:] == ["final_norm", "logits"]
    assert found.first == diagnosis.first_divergence


def test_map_marks_what_is_at_fault_and_shades_it_by_powers_of_ten_over_the_floor(diagnosis: Result):
    by_tap = {cell.tap: cell for cell in cells_of(diagnosis)}
    assert {tap for tap, cell in by_tap.items() if cell.is_fault} == {one.tap for one in diagnosis.divergences}
    for fault in diagnosis.divergences:
        tens = math.floor(math.log10(fault.error / fault.floor))
        assert by_tap[fault.tap].local.level == str(min(9, tens + 2))
    assert by_tap["embed"].local.level == "0"


def test_stages_that_only_some_blocks_have_leave_gaps_and_stand_before_what_reads_them(parted: Result):
    inner = replace(parted.rows[2], tap="blk.1.ffn_down.02.Mul", stage="ffn_down.02.Mul")
    lines = {line.stage: line for line in grid(replace(parted, rows=(*parted.rows, inner))).lines}
    assert list(lines) == ["embed", "ffn_down.02.Mul", "ffn_down", "logits"]
    none, one = lines["ffn_down.02.Mul"].cells
    assert none is None
    assert one is not None


@pytest.mark.parametrize(
    "change, level",
    [
        ({"error": math.inf, "verdict": "semantic"}, "x"),
        ({"error": math.nan, "verdict": "semantic"}, "x"),
        ({"error": 0.0, "verdict": "semantic"}, "x"),
        ({"error": 0.0, "verdict": "rounding"}, "0"),
        ({"error": 1.0, "floor": 0.0, "verdict": "semantic"}, "9"),
        ({"error": 1e-9, "floor": 1.0, "verdict": "rounding"}, "1"),
    ],
)
def test_extremes_of_the_local_error_have_shades_of_their_own(change: dict, level: str, parted: Result):
    rows = (replace(parted.rows[0], **change), *parted.rows[1:])
    assert cells_of(replace(parted, rows=rows))[0].local.level == level


def test_effect_that_nobody_measured_is_not_called_none(parted: Result):
    cause, fault = replace(parted.root_causes[0], effect=None), replace(parted.divergences[0], effect=None)
    unknown = replace(parted, root_causes=(cause,), divergences=(fault,))
    assert not grid(unknown).knows_effects
    assert {cell.effect.level for cell in cells_of(unknown) if cell.is_fault} == {"n"}


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0"), (None, "–"), (math.nan, "NaN"), (-math.inf, "-∞"), (5.5712e-6, "5.57e-6"), (1e-7, "1e-7"),
        (-13.231, "-13.2"), (0.4331, "0.433"), (1234.5, "1234"), (99999.0, "99999"), (1.65e7, "1.65e7"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | None, text: str):
    assert number(value) == text


@pytest.mark.parametrize(
    "value, text", [(9.1e6, "9e6"), (0.43, "0.4"), (1.26, "1.3"), (12.3, "12"), (2.2e-9, "2e-9"), (9.96, "10")]
)
def test_small_cells_have_one_digit(value: float, text: str):
    assert short(value) == text


def test_powers_of_ten_are_raised():
    assert power_of_ten(-12) == "10⁻¹²"
