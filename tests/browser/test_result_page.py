"""The page of a comparison in a real browser: it opens from disk, and answers to clicks and keys."""

from __future__ import annotations

import base64
from dataclasses import replace
from itertools import product

from browser.looking import Open

from opdiff.compare.report.html import fragment, page
from opdiff.compare.result import Picture, Result
from opdiff.graphs.taps import Source

FIRST, SECOND = "blk.0.ffn_down", "blk.1.ffn_down"


def test_page_opens_from_disk_without_a_message_and_asks_nobody(opened: Open, parted: Result):
    found = opened(page(parted))
    found.page.locator("figure", has_text="Any tap").locator(".u-over").wait_for()
    assert [url for url in found.asked if not url.startswith(("file:", "data:"))] == []
    assert found.complaints == []


def test_click_opens_a_tap_and_escape_closes_it_where_one_was(opened: Open, parted: Result):
    found = opened(page(parted))
    text = found.open(SECOND).inner_text()
    row = next(row for row in parted.rows if row.tap == SECOND)
    assert "at fault" in text
    assert parted.root_causes[0].what in text
    assert "A with the explanation" in text
    assert all(node.name in text for node in (*row.a_nodes, *row.b_nodes))
    assert found.dialog(SECOND).locator(".pictures figure").count() == 3
    found.page.keyboard.press("Escape")
    assert found.page.get_by_role("dialog").count() == 0
    assert found.focused_tap == SECOND
    assert found.complaints == []


def test_keys_go_from_cell_to_cell_and_enter_opens(opened: Open, parted: Result):
    found = opened(page(parted))
    found.cell(SECOND).focus()
    keys = {"Left": FIRST, "Up": "embed", "Right": "embed", "Down": FIRST}
    for key, tap in keys.items():
        found.page.keyboard.press(f"Arrow{key}")
        assert found.focused_tap == tap, key
    for key, tap in (("Right", SECOND), ("Down", "logits"), ("Up", SECOND)):  # it comes back to its column
        found.page.keyboard.press(f"Arrow{key}")
        assert found.focused_tap == tap, key
    found.page.keyboard.press("Enter")
    assert found.dialog(SECOND).is_visible()


def test_map_is_one_stop_for_the_tab_key(opened: Open, parted: Result):
    found = opened(page(parted))
    found.cell("logits").focus()
    assert found.page.locator('.grid button[tabindex="0"]').count() == 1
    found.page.keyboard.press("Tab")
    assert found.page.evaluate("document.activeElement.closest('.grid')") is None


def test_button_of_a_cause_opens_its_first_tap_and_the_tap_leads_back(opened: Open, parted: Result):
    found = opened(page(parted))
    found.page.get_by_role("button", name=f"Look into {SECOND}").click()
    found.dialog(SECOND).get_by_role("link", name="Root cause 1").click()
    assert found.page.url.endswith("#cause-1")
    assert found.page.get_by_role("dialog").count() == 0


def test_arrows_of_a_tap_go_through_the_graph(opened: Open, parted: Result):
    found = opened(page(parted))
    found.open(SECOND)
    found.page.get_by_role("button", name="The tap after").click()
    assert found.dialog("logits").get_by_role("button", name="The tap after").is_disabled()


def test_switch_shows_one_scale_at_a_time(opened: Open, parted: Result):
    found = opened(page(parted))
    seen = []
    for n, scale in enumerate(("local", "propagated", "effect")):
        found.switch(n)
        assert [
            word for word in ("local", "propagated", "effect") if found.page.locator(f"p.of-{word}").is_visible()
        ] == [scale]
        colour = found.cell("logits").evaluate("one => getComputedStyle(one).backgroundColor")
        seen.append((found.cell_text("logits"), colour))
    (local, none), (propagated, some), (effect, as_before) = seen
    assert (local, effect) == ("·", "·")
    assert float(propagated) > 0
    assert none == as_before != some


def test_chart_along_the_graph_opens_the_tap_that_is_clicked(opened: Open, parted: Result):
    found = opened(page(parted))
    over = found.page.locator("figure", has_text="Along the graph").locator(".u-over")
    over.click(position={"x": over.bounding_box()["width"] - 25, "y": 20})
    assert found.dialog("logits").is_visible()


def test_chart_says_what_is_under_the_pointer(opened: Open, parted: Result):
    found = opened(page(parted))
    figure = found.page.locator("figure", has_text="what these regions add")
    over = figure.locator(".u-over")
    over.hover(position={"x": over.bounding_box()["width"] / 2, "y": 20})
    assert "position 1, token 5" in figure.inner_text()
    assert f"{parted.divergences[0].by_position[1]:.3g}" in figure.inner_text()


def test_tap_of_the_readers_choice_is_a_further_line_that_can_be_left_out_again(opened: Open, parted: Result):
    found = opened(page(parted))
    figure = found.page.locator("figure", has_text="Any tap")
    before = figure.locator(".lines li").all_inner_texts()
    figure.get_by_role("combobox").select_option(FIRST)
    figure.get_by_role("button", name="Add").click()
    assert figure.locator(".lines li").count() == len(before) + 1
    figure.get_by_role("button", name=f"Leave out {FIRST}").click()
    assert figure.locator(".lines li").all_inner_texts() == before


def test_picture_is_blue_below_zero_orange_above_and_marks_what_is_no_number(opened: Open, parted: Result):
    cells = bytes((127, 0, 130, 129, 128))  # the largest, zero, its opposite, masked, not finite
    drawn = Picture(1, 5, 2.0, base64.b64encode(cells).decode())
    found = opened(page(replace(parted, rows=(replace(parted.rows[0], difference=drawn), *parted.rows[1:]))))
    canvas = found.open("embed").locator(".pictures figure > canvas").nth(2)
    colours = canvas.evaluate(
        "one => [0, 1, 2, 3, 4].map(n => [...one.getContext('2d').getImageData(n * 8 + 1, 2, 1, 1).data].slice(0, 3))"
    )
    above, zero, below, _, _ = colours
    assert above[0] > above[2] + 50
    assert max(zero) - min(zero) < 10
    assert below[2] > below[0] + 50
    assert len(set(map(tuple, colours))) == 5


def test_taps_that_are_no_stage_of_a_block_have_cells_and_open_too(opened: Open, parted: Result):
    """Names as graphs without taps have them, of values without positions."""
    names = {"step.01.Gather": None, "blk.0.q_norm.02.ReduceMean": 0, "step.02.Mul": None, "logits": None}
    pairs = zip(parted.rows, names.items(), strict=True)
    rows = [
        replace(row, tap=tap, stage=tap.removeprefix("blk.0."), block=block, axes=(), by_position=())
        for row, (tap, block) in pairs
    ]
    fault = replace(parted.divergences[0], tap="step.02.Mul", stage="step.02.Mul", block=None, by_position=())
    cause = replace(parted.root_causes[0], taps=("step.02.Mul",))
    changed = {"rows": tuple(rows), "divergences": (fault,), "root_causes": (cause,)}
    found = opened(page(replace(parted, positions=(), tokens=(), first_divergence="step.02.Mul", **changed)))
    for tap in names:
        assert found.open(tap).is_visible()
        found.page.keyboard.press("Escape")
    assert found.complaints == []


def large(result: Result, n_blocks: int, n_stages: int, n_tokens: int) -> Result:
    """A result of so much, as large as a real one at its worst: every region at fault, with six nodes a side."""
    curve = tuple(float(f"{1.234e-7 * (n + 1):.4g}") for n in range(n_tokens))
    picture = Picture(16, 32, 1.234, base64.b64encode(bytes(range(256)) * 2).decode())
    look = replace(result.rows[0].a_look, shape=(n_tokens, 576), picture=picture)
    line = "/home/somebody/runtime/exporters/variants/reference.py:123"
    rows, faults = [], []
    for block, stage in product(range(n_blocks), (f"stage_of_{n:02}" for n in range(n_stages))):
        own = {"tap": f"blk.{block}.{stage}", "stage": stage, "block": block, "by_position": curve}
        names = [f"{own['tap']}/Unsqueeze_{n}" for n in range(6)]
        nodes = tuple(
            Source(name, "Unsqueeze", f"variant.blocks.{block}.attention", line, "axis = 1") for name in names
        )
        looks = {"a_look": look, "b_look": look, "difference": picture}
        rows.append(replace(result.rows[2], a_nodes=nodes, b_nodes=nodes, **looks, **own))
        faults.append(replace(result.divergences[0], **own))
    cause = replace(result.root_causes[0], taps=tuple(one.tap for one in faults))
    positions = tuple(replace(result.positions[0], position=n) for n in range(n_tokens))
    found = {"rows": tuple(rows), "divergences": tuple(faults), "root_causes": (cause,), "positions": positions}
    return replace(result, tokens=(1,) * n_tokens, first_divergence=rows[0].tap, **found)


def test_page_of_thirty_blocks_twenty_stages_and_128_tokens_is_under_5_mb_and_works(opened: Open, parted: Result):
    html = page(large(parted, 30, 20, 128))
    assert len(html.encode()) < 5e6
    found = opened(html)
    assert found.page.locator(".grid button").count() == 600
    assert found.open("blk.29.stage_of_19").is_visible()
    assert found.complaints == []


def test_fragment_of_a_notebook_works_in_its_frame_alone(opened: Open, parted: Result):
    found = opened(f"<!doctype html><title>notebook</title>{fragment(parted)}")
    frame = found.page.frame_locator("iframe")
    frame.locator(".grid button.fault").click()
    assert frame.get_by_role("dialog", name=SECOND).is_visible()
    assert found.page.locator("dialog").count() == 0
    assert found.complaints == []
