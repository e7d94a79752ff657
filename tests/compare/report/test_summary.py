"""The summary in Markdown: the answer first, each cause with its place and one number, and all text shown as it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from opdiff.compare.baseline import compared
from opdiff.compare.report.markdown import code, escaped
from opdiff.compare.report.summary import summary
from opdiff.compare.result import Result
from opdiff.graphs.printable import one_line

OWN_HTML = {"<details><summary>The stages</summary>", "<details><summary>The stages, and notes</summary>", "</details>"}
OWN_MARKS = {"<!-- -->", "<span>", "</span>"}
EVERY_TEXT = st.text(st.characters(codec=None)) | st.text("\\`*_[]()<>&|~#!@$:/.-+1wW \n")


def tokens(text: str) -> Iterator[Token]:
    """Every token of Markdown with tables, those within others too."""
    for token in MarkdownIt("commonmark", {"linkify": False}).enable(["table", "strikethrough"]).parse(text):
        yield from token.children or (token,)


def shown(text: str) -> str:
    """What a reader sees."""
    return "".join(" " if one.type == "softbreak" else one.content for one in tokens(text) if "html" not in one.type)


def test_the_answer_is_the_heading_and_the_headline_follows(parted: Result, same: Result):
    assert summary(parted).splitlines()[:3] == [
        "### opdiff: b differs from a",
        "",
        "**differ: a (A: a) and b (B: b) part at blk.1.ffn_down; 1 root cause in 1 region**",
    ]
    assert summary(same).startswith("### opdiff: a B computes the same as a A\n")


def test_each_cause_has_its_place_its_lines_and_one_number(diagnosis: Result):
    text = summary(diagnosis)
    for number, cause in enumerate(diagnosis.root_causes, 1):
        first, where, last = text[text.index(f"\n{number}. ") :].strip().splitlines()[:3]
        assert first == f"{number}. **{cause.what}**"
        assert re.fullmatch(
            r"   - at .* in block 0; B: `exporters/.*legacy.py:\d+`; A: `exporters/.*dsl.py:\d+`", where
        )
        assert re.fullmatch(r"   - mending it moves the logits by up to [\d.e-]+; the reference agrees with \w+", last)


def test_closure_verdict_and_what_the_input_cannot_show_are_there(seed: Path):
    from opdiff.compare.diagnose import compare

    result = compare(seed / "dsl.onnx", seed / "legacy.onnx", [1], seed / "reference.onnx")
    text = shown(summary(result))
    assert result.blind_spots
    for said in (result.closed.text, result.verdict, *(spot.text for spot in result.blind_spots)):
        assert said in text


def test_the_table_has_the_stages_at_fault_with_their_causes(diagnosis: Result):
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in summary(diagnosis).splitlines()
        if line[:1] == "|"
    ]
    at_fault = {d.stage: str(d.cause) for d in diagnosis.divergences}
    assert {row[0]: row[5] for row in cells[2:]} == at_fault
    assert all(row[1:3] == ["1 of 1", "0"] and float(row[3]) > float(row[4]) for row in cells[2:])


def test_it_is_folded_and_the_fold_is_closed(parted: Result):
    assert [one.content.strip() for one in tokens(summary(parted)) if one.type == "html_block"] == [
        "<details><summary>The stages</summary>",
        "</details>",
    ]


def test_what_a_baseline_says_is_there(parted: Result):
    known = compared(parted, replace(parted, root_causes=(), divergences=()), Path("known.json"))
    lines = summary(parted, known).splitlines()
    assert lines[4] == "- fail, by the baseline: 1 new"
    assert lines[5].startswith("- new: b: abs(blk.0.ffn")


def assert_shown_as_it_is(text: str) -> None:
    assert shown(f"**{escaped(text)}**" if escaped(text) else "") == one_line(text).strip(), text
    kinds = {one.type for one in tokens(f"x {escaped(text)} y")} - {"text", "text_special", "softbreak"}
    assert kinds <= {"paragraph_open", "paragraph_close", "html_inline"}, text
    assert {one.content for one in tokens(f"x {escaped(text)}") if "html" in one.type} <= OWN_MARKS


@given(EVERY_TEXT)
@example("a_b_ _c_ __d__ snake_case_ _")
@example("![a](b) <b>c</b> &lt; `d` ~~e~~ | f")
@example("\\` \\\\* \\")
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_escaped_text_is_read_as_it_is(text: str):
    assert_shown_as_it_is(text)


@given(EVERY_TEXT)
@example("` `` ```")
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_code_is_read_as_it_is(text: str):
    if one_line(text).strip():
        (found,) = (one.content for one in tokens(f"x {code(text)} y") if one.type == "code_inline")
        assert found == one_line(text)


def test_nobody_is_called_and_nothing_is_linked():
    text = escaped("ping @team #12 https://a.example www.b.example $x$")
    assert not re.search(r"@\w|#\d|\w://|www\.|\$\w", text)


def test_hostile_text_makes_no_html_no_link_and_no_row_of_its_own(hostile: Result, with_text: Callable[[str], Result]):
    found, plain = list(tokens(summary(hostile))), list(tokens(summary(with_text("plain"))))
    assert {one.content.strip() for one in found if one.type == "html_block"} <= OWN_HTML
    assert {one.content for one in found if one.type == "html_inline"} <= OWN_MARKS
    for kind in ("link_open", "image", "em_open", "tr_open", "heading_open", "list_item_open", "strong_open"):
        assert len([one for one in found if one.type == kind]) == len([one for one in plain if one.type == kind]), kind
    assert summary(hostile).encode("utf-8")
    assert "\x1b" not in summary(hostile)
