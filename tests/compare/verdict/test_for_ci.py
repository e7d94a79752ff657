"""A verdict for CI: a test case for each candidate that the user named, and a summary, on graphs of a dozen nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import xmlschema
from onnx_text import DECODER, save_decoder

from opdiff.compare.verdict.for_ci import verdict_junit, verdict_summary
from opdiff.compare.verdict.verdict import Verdict, decide
from opdiff.graphs.decoding import Candidate, Contest, GraphDecoder, Prompt
from opdiff.graphs.run import Runner
from opdiff.graphs.schedule.steps import WHOLE

SCHEMA = xmlschema.XMLSchema(Path(__file__).parents[1] / "report" / "junit-10.xsd")
WRONG = DECODER.replace("act1 = Relu(up1)", "act1 = Abs(up1)")


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    """One candidate that decodes as the real runtime does, one that does not, and a third that nobody named."""
    folder = tmp_path_factory.mktemp("verdict")
    right, wrong = save_decoder(folder / "right.onnx"), save_decoder(folder / "wrong.onnx", text=WRONG)
    candidates = (
        Candidate("right", right, None, True),
        Candidate("wrong", wrong, None, True),
        Candidate("along", wrong, None, False),
    )
    contest = Contest(
        model="tiny",
        checkpoint="abc",
        prompts=(Prompt("one", (1, 5, 3)), Prompt(None, (2,))),
        n_steps=4,
        references=(GraphDecoder("real", right, Runner()),),
        candidates=candidates,
        reference_graph=right,
        schedule=WHOLE,
        text=lambda ids: None,
        notes=(),
    )
    return decide(contest, 3)


def test_each_named_candidate_is_a_test_case_and_those_that_fail_say_why(verdict: Verdict):
    text = verdict_junit(verdict)
    SCHEMA.validate(text)
    cases = {one.attrib["name"]: one.findtext("failure") for one in ET.fromstring(text).iter("testcase")}
    assert list(cases) == ["right", "wrong"]
    assert cases["right"] is None
    assert str(cases["wrong"]).startswith("fail: wrong, same top-1 at ")
    causes = verdict.standings[1].causes
    assert causes is not None
    assert causes.root_causes[0].text in str(cases["wrong"])
    assert str(cases["wrong"]).endswith(causes.text)


def test_the_summary_has_the_answer_each_candidate_and_what_to_change(verdict: Verdict):
    text = verdict_summary(verdict)
    assert text.startswith(
        "### opdiff: not every candidate decodes tiny as real\n\n- **match: right, same top-1 at 8 of 8 "
    )
    assert "\nWhat to change in wrong, held against right:\n\n1. wrong: abs(" in text
    assert "| right | real | 8 of 8 | 0 | 0 | 0 |" in text
    assert "along" not in text.split("<details>")[0]


def test_a_verdict_in_which_all_pass_has_no_failure(verdict: Verdict):
    passing = replace(verdict, standings=verdict.standings[:1])
    assert "<failure" not in verdict_junit(passing)
    assert verdict_summary(passing).startswith("### opdiff: every candidate decodes tiny as real\n")


def test_hostile_names_are_shown_as_they_are(verdict: Verdict):
    hostile = replace(verdict, model="<b>`x`</b>\x1b")
    SCHEMA.validate(verdict_junit(hostile))
    assert verdict_summary(hostile).startswith(
        "### opdiff: not every candidate decodes \\<b\\>\\`x\\`\\</b\\>\\\\x1b as"
    )
