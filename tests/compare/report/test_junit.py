"""JUnit XML: as the schema has it, a failure for each fault and for nothing else, whatever text there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import xmlschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opdiff.compare.baseline import compared
from opdiff.compare.report.junit import junit
from opdiff.compare.report.junit_xml import Case, Outcome, Suite, xml
from opdiff.compare.report.sentences import short_lines
from opdiff.compare.result import Closed, Result

SCHEMA = xmlschema.XMLSchema(Path(__file__).parent / "junit-10.xsd")  # of Jenkins' xUnit plugin


def cases(text: str, kind: str = "*") -> dict[str, ET.Element]:
    """Test cases by name, those with such an outcome."""
    return {str(one.get("name")): one for one in ET.fromstring(text).iter("testcase") if one.find(kind) is not None}


def failures(text: str) -> list[str]:
    return list(cases(text, "failure"))


def test_it_is_as_the_schema_says(parted: Result, same: Result, hostile: Result):
    for result in (parted, same, hostile):
        SCHEMA.validate(junit(result))


def test_the_schema_refuses_what_is_none():
    with pytest.raises(xmlschema.XMLSchemaValidationError):
        SCHEMA.validate('<testsuites><testsuite name="a" tests="1" failures="0"/></testsuites>')


def test_each_cause_and_each_stage_at_fault_fails_and_nothing_else(parted: Result):
    (cause,) = parted.root_causes
    assert failures(junit(parted)) == [f"{cause.what} at ffn_down in block 1", "ffn_down"]
    names = {str(one.get("name")) for one in ET.fromstring(junit(parted)).iter("testcase")}
    assert {row.stage for row in parted.rows} < names


def test_a_pair_that_is_the_same_has_no_failure(same: Result):
    assert list(cases(junit(same))) == []


def test_counts_are_those_of_the_cases(parted: Result):
    root = ET.fromstring(junit(parted))
    for suite in (root, *root.iter("testsuite")):
        found = list(suite.iter("testcase"))
        assert int(suite.attrib["tests"]) == len(found)
        assert int(suite.attrib["failures"]) == len([one for one in found if one.find("failure") is not None])


def test_the_failures_text_has_what_where_the_lines_and_the_effect(diagnosis: Result):
    found = cases(junit(diagnosis), "failure")
    for cause in diagnosis.root_causes:
        (text,) = (one.findtext("failure") or "" for name, one in found.items() if name.startswith(cause.what))
        what, where, effect = short_lines(cause, diagnosis)
        assert what in text
        assert all(line in text for line in where.removesuffix(")").split(", exporters")[1].split(" (A: exporters"))
        assert "effect on the logits: mended alone, it moves them by up to " in text
        assert cause.text in text
        assert effect.split("; ")[1] in text
    assert "rope.pairing" in str(found["q_rope"].find("failure").attrib["message"])


def test_a_difference_that_no_region_accounts_for_fails(same: Result):
    left = Closed(False, False, 0.5, "not complete: no region is at fault by itself, and yet ...")
    found = cases(junit(replace(same, parity=False, closed=left)), "failure")
    assert [one.find("failure").attrib["message"] for one in found.values()] == [left.text]


def test_what_nobody_knows_is_skipped(parted: Result):
    unknown = replace(parted, closed=Closed(None, None, None, "not known: it cannot run"))
    assert list(cases(junit(unknown), "skipped")) == ["nothing is left beside these causes"]


def test_what_a_baseline_knows_is_skipped_and_what_is_new_fails(parted: Result, same: Result):
    known = compared(parted, parted, Path("known.json"))
    assert failures(junit(parted, known)) == []
    assert len(cases(junit(parted, known), "skipped")) == 2
    nothing = compared(parted, replace(parted, root_causes=(), divergences=()), Path("known.json"))
    assert failures(junit(parted, nothing)) == failures(junit(parted))


def test_a_known_cause_that_spreads_fails_in_the_new_stage_alone(diagnosis: Result):
    first, *others = diagnosis.root_causes
    known = replace(diagnosis, root_causes=(replace(first, taps=first.taps[:1]), *others))
    text = junit(diagnosis, compared(diagnosis, known, Path("known.json")))
    (cause, *stages) = failures(text)
    assert cause.startswith("linear.layout")
    assert stages == ["k_proj", "o_proj"]
    assert "new to the baseline: k_proj and o_proj in block 0" in str(cases(text)[cause].findtext("failure"))


def test_text_that_xml_cannot_hold_is_written_out(hostile: Result):
    text = junit(hostile)
    assert "\\x00\\x1b[31m" in failures(text)[0]
    assert "<script>" not in text


@given(st.lists(st.text(st.characters(codec=None)), min_size=5, max_size=5))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_at_all_is_held(texts: Sequence[str]):
    suite, case, message, text, value = texts
    made = xml([Suite(suite, (Case(case, Outcome("failure", message, text)),), {"a": value})])
    SCHEMA.validate(made.encode("utf-8").decode())
