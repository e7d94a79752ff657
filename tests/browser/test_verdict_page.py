"""The page of a verdict in a real browser; it has no scripts, so it is read without."""

from __future__ import annotations

from dataclasses import replace

import pytest
from browser.looking import NARROW, Open
from browser.test_access import violations
from onnx_text import DECODER, save_decoder

from opdiff.compare.verdict.html import verdict_page
from opdiff.compare.verdict.verdict import Verdict, decide
from opdiff.graphs.decoding import Candidate, Contest, GraphDecoder, Prompt
from opdiff.graphs.run import Runner
from opdiff.graphs.schedule.steps import WHOLE

WRONG = DECODER.replace("act1 = Relu(up1)", "act1 = Abs(up1)")
TOKEN = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    """One candidate that decodes as the real runtime does, and one that does not; every token is the same piece of markup."""
    folder = tmp_path_factory.mktemp("verdict")
    right, wrong = save_decoder(folder / "right.onnx"), save_decoder(folder / "wrong.onnx", text=WRONG)
    contest = Contest(
        model="tiny",
        checkpoint="abc",
        prompts=(Prompt("one", (1, 5, 3)), Prompt(None, (2,))),
        n_steps=4,
        references=(GraphDecoder("real", right, Runner()),),
        candidates=(Candidate("right", right, None, True), Candidate("wrong", wrong, None, True)),
        reference_graph=right,
        schedule=WHOLE,
        text=lambda ids: f"{list(ids)} {TOKEN}",
        notes=(),
    )
    return decide(contest, 3)


def test_verdict_opens_from_disk_with_its_answers_its_causes_and_every_step(opened: Open, verdict: Verdict):
    found = opened(verdict_page(verdict), java_script_enabled=False)
    text = found.page.inner_text("main")
    causes = verdict.standings[1].causes
    assert causes is not None
    assert "right decodes as real" in text
    assert "wrong does not decode as real" in text
    assert causes.root_causes[0].what in text
    n_flips = sum(tally.n_flips for tally in verdict.tallies)
    assert found.page.locator(".steps .mark.flip").count() == n_flips > 0
    assert found.page.locator(".steps td code").count() == 3 * 4 * 2
    assert [url for url in found.asked if not url.startswith(("file:", "data:"))] == []


def test_number_of_a_step_opens_its_likeliest_tokens_and_escape_closes_them(opened: Open, verdict: Verdict):
    found = opened(verdict_page(verdict))
    found.page.get_by_role("button", name="Likeliest tokens at step 2 of prompt 1").focus()
    found.page.keyboard.press("Enter")
    shown = found.page.get_by_role("dialog", name="Step 2 of prompt 1")
    assert shown.inner_text().count(TOKEN) == 9
    assert shown.inner_text().count(" %") == 9
    found.page.keyboard.press("Escape")
    assert not shown.is_visible()
    assert found.page.locator("img").count() == 0
    assert found.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_a_verdict(scheme: str, opened: Open, verdict: Verdict):
    found = opened(verdict_page(verdict), color_scheme=scheme)
    found.page.get_by_role("button", name="Likeliest tokens at step 0 of prompt 2").click()
    assert violations(found) == []


def test_verdict_is_no_wider_than_a_narrow_screen(opened: Open, verdict: Verdict):
    named = replace(verdict, model="a_model_whose_name_goes_on/" * 8, notes=("and_on/" * 40,))
    found = opened(verdict_page(named), viewport=NARROW)
    assert found.width == 400
    found.page.get_by_role("button", name="Likeliest tokens at step 0 of prompt 1").click()
    assert found.page.get_by_role("dialog").evaluate("one => one.scrollWidth <= one.clientWidth")
