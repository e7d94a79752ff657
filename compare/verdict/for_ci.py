"""A verdict for CI: JUnit XML with a test case for each candidate, and a summary in Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from ..report.junit_xml import Case, Outcome, Suite, xml
from ..report.markdown import code, escaped, folded, table
from ..report.sentences import from_here
from .causes import Causes
from .report import agreement
from .verdict import Standing, Verdict


def verdict_junit(verdict: Verdict) -> str:
    """A verdict as JUnit XML: each candidate that the user named passes, or fails with its causes."""
    cases = tuple(Case(one.name, _outcome(verdict, one)) for one in verdict.standings if one.is_named)
    properties = {"model": verdict.model, **verdict.references, "steps": str(verdict.n_steps)}
    return xml([Suite(f"{verdict.model}: decodes as {', '.join(verdict.references)}", cases, properties)])


def verdict_summary(verdict: Verdict) -> str:
    """A verdict in Markdown."""
    return "\n\n".join(_parts(verdict)) + "\n"


def _outcome(verdict: Verdict, one: Standing) -> Outcome | None:
    if one.passes:
        return None
    answer = _answer(verdict, one)
    return Outcome("failure", answer, "\n".join((answer, *(_cause_lines(one.causes) if one.causes else ()))))


def _answer(verdict: Verdict, one: Standing) -> str:
    same = ", ".join(agreement(tally) for tally in verdict.tallies if tally.side == one.name)
    return f"{'match' if one.passes else 'fail'}: {one.name}, same top-1 {same}"


def _cause_lines(causes: Causes) -> Iterator[str]:
    yield f"against {causes.against}, on prompt {causes.prompt + 1}, where it first fails, at step {causes.step}:"
    for number, cause in enumerate(causes.root_causes, 1):
        line = f" ({from_here(cause.source)})" if cause.source else ""
        yield f"{number}. {cause.text}{line}"
    yield causes.text


def _parts(verdict: Verdict) -> Iterator[str]:
    answer = "every candidate decodes" if verdict.passes else "not every candidate decodes"
    yield f"### opdiff: {answer} {escaped(verdict.model)} as {escaped(' and '.join(verdict.references))}"
    named = [one for one in verdict.standings if one.is_named]
    yield "\n".join(f"- **{escaped(_answer(verdict, one))}**" for one in named)
    for one in named:
        if one.causes is not None:
            yield _causes(one, one.causes)
    headings = ("side", "against", "same top-1", "near-ties", "flips", "NaN or Inf")
    rows = (
        (
            escaped(t.side),
            escaped(t.reference),
            f"{t.n_agree} of {t.n_steps}",
            *map(str, (t.n_near_ties, t.n_flips, t.n_not_finite)),
        )
        for t in verdict.tallies
    )
    yield folded("The steps", table(headings, rows), *(f"Note: {escaped(note)}" for note in verdict.notes))


def _causes(one: Standing, causes: Causes) -> str:
    lines = [f"What to change in {escaped(one.name)}, held against {escaped(causes.against)}:", ""]
    for number, cause in enumerate(causes.root_causes, 1):
        line = f"; {code(from_here(cause.source))}" if cause.source else ""
        lines.append(f"{number}. {escaped(cause.text)}{line}")
    return "\n".join((*lines, "", f"*{escaped(causes.text)}*"))
