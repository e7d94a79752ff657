"""Pages for everyone: in light and dark, on a narrow screen, by a screen reader, without scripts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from browser.looking import NARROW, Open, Opened

from opdiff.compare.report.html import page
from opdiff.compare.result import Result

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="wants axe: pip install axe-playwright-python"
)
TAP = "blk.1.ffn_down"
IN_EVERY_SHADE = "document.querySelectorAll('.legend .swatch').forEach((one) => { one.textContent = '7e6'; })"


def violations(found: Opened) -> list[str]:
    """What axe-core calls serious or critical."""
    every = axe.Axe().run(found.page).response["violations"]
    return [one["id"] for one in every if one["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_the_page_and_in_a_tap(scheme: str, opened: Open, parted: Result):
    found = opened(page(parted), color_scheme=scheme)
    found.page.evaluate(IN_EVERY_SHADE)
    assert violations(found) == []
    found.open(TAP)
    assert violations(found) == []


def test_axe_finds_what_is_wrong(opened: Open, parted: Result):
    found = opened(page(parted))
    found.page.evaluate("document.querySelector('.open').replaceChildren()")
    assert violations(found) == ["button-name"]


def test_theme_that_changes_while_a_tap_is_open_draws_it_anew(opened: Open, parted: Result):
    found = opened(page(parted), color_scheme="light")
    pictures = found.open(TAP).locator("canvas")
    drawn = "all => all.map(one => one.toDataURL())"
    light = pictures.evaluate_all(drawn)
    found.page.emulate_media(color_scheme="dark")
    found.page.wait_for_timeout(100)
    assert [one == other for one, other in zip(light, pictures.evaluate_all(drawn), strict=True)] == [False] * len(
        light
    )


def test_nothing_is_wider_than_a_narrow_screen(opened: Open, with_text: Callable[[str], Result]):
    found = opened(page(with_text("a_name_that_goes_on_and_on/" * 8)), viewport=NARROW)
    assert found.width == 400
    assert found.open(TAP).evaluate("one => one.scrollWidth <= one.clientWidth")


def test_answer_causes_map_and_logits_are_there_without_scripts(opened: Open, parted: Result):
    found = opened(page(parted), java_script_enabled=False)
    text = found.page.inner_text("body")
    assert "differ" in text
    assert parted.root_causes[0].what in text
    assert all(str(token) in text for position in parted.positions for token, _ in position.a_top)
    found.switch(1)
    assert float(found.cell_text(TAP)) > 0
    assert "How the error grows" not in text
