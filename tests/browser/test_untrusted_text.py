"""Names and tokens come from files: a page shows them as text, and what slips through could reach nobody."""

from __future__ import annotations

from collections.abc import Callable

from browser.looking import Open

from opdiff.compare.report.html import page
from opdiff.compare.result import Result

MARKUP = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "{{ 7 * 7 }}",
    "'\"`${1}&lt;",
)


def test_names_and_tokens_that_are_markup_show_as_text(opened: Open, with_text: Callable[[str], Result]):
    text = " ".join(MARKUP)
    result = with_text(text)
    found = opened(page(result))
    assert text in found.page.inner_text("#causes")
    assert text in found.page.inner_text("#notes")
    assert repr(text) in found.page.inner_text("#logits")
    opened_tap = found.open("blk.1.ffn_down").inner_text()
    assert opened_tap.count(text) > 4 * len(result.rows[2].a_nodes)
    found.page.keyboard.press("Escape")
    found.cell(text).click()
    assert found.page.inner_text("dialog h2") == text
    assert found.page.locator("img").count() == 0
    assert found.complaints == []


def test_text_that_turns_the_direction_of_writing_is_written_out(opened: Open, with_text: Callable[[str], Result]):
    found = opened(page(with_text("a\u202eb\x1b[31m")))
    found.open("blk.1.ffn_down")
    assert "\\u202eb\\x1b[31m" in found.page.inner_text("dialog")
    assert "\u202e" not in found.page.content()


def test_policy_of_the_page_lets_nothing_out_and_runs_nothing_else(opened: Open, parted: Result):
    """Which shows too that a request would have been seen."""
    found = opened(page(parted))
    ask = "new Promise(done => { const one = new Image(); one.onerror = done; one.src = 'http://127.0.0.1:9/x'; })"
    found.page.evaluate(ask)
    assert any("Content Security Policy" in text for text in found.complaints)
    found.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=data:, onerror=\"window.ran = 1\">')")
    found.page.evaluate(ask)
    assert found.page.evaluate("window.ran") is None
