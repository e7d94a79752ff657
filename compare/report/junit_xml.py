"""JUnit XML as CI systems read it: suites of test cases that pass, fail or are skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree as ET

from ...graphs.printable import printable

Kind = Literal["failure", "skipped"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Why a test case did not pass: in a line, and whole."""

    kind: Kind
    message: str
    text: str


@dataclass(frozen=True, slots=True)
class Case:
    """A test case; without an outcome it passed."""

    name: str
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """Test cases of one kind. properties: what they are of."""

    name: str
    cases: tuple[Case, ...]
    properties: Mapping[str, str]


def xml(suites: Sequence[Suite]) -> str:
    """The file, which is UTF-8; what XML cannot hold is written out (`\\x1b`)."""
    root = ET.Element("testsuites", {"name": "opdiff", **_counts([case for suite in suites for case in suite.cases])})
    for suite in suites:
        n_skipped = sum(case.outcome is not None and case.outcome.kind == "skipped" for case in suite.cases)
        element = _element(root, "testsuite", name=suite.name, **_counts(suite.cases), skipped=str(n_skipped))
        properties = _element(element, "properties")
        for name, value in suite.properties.items():
            _element(properties, "property", name=name, value=value)
        for case in suite.cases:
            found = _element(element, "testcase", name=case.name, classname=suite.name)
            if case.outcome is not None:
                _element(found, case.outcome.kind, case.outcome.text, message=case.outcome.message)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _counts(cases: Sequence[Case]) -> dict[str, str]:
    n_failures = sum(case.outcome is not None and case.outcome.kind == "failure" for case in cases)
    return {"tests": str(len(cases)), "failures": str(n_failures), "errors": "0"}


def _element(parent: ET.Element, tag: str, text: str = "", **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, {name: printable(value) for name, value in attributes.items()})
    element.text = printable(text) or None
    return element
