"""A result as JUnit XML: a test case for each root cause, one for each stage, and one for whether the causes are all there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...graphs.printable import shortened
from ...graphs.stages import graph_order
from ..baseline import Compared
from ..result import Result
from .junit_xml import Case, Kind, Outcome, Suite, xml
from .sentences import detail_lines, headline
from .words import places

_LONGEST_NAME = 100  # characters of what differs


def junit(result: Result, against: Compared | None = None) -> str:
    """A result as JUnit XML; what a baseline knows is skipped instead of failing."""
    new = {n: set(one.taps if against is None else against.new_taps(one)) for n, one in enumerate(result.root_causes)}
    pair = f"{result.a.name} against {result.b.name}"
    properties = dict(_properties(result))
    cases = {
        "root causes": (
            *_cause_cases(result, new),
            _all_found(result, against),
        ),
        "stages": _stage_cases(result, new),
    }
    return xml([Suite(f"{pair}: {kind}", tuple(those), properties) for kind, those in cases.items()])


def _properties(result: Result) -> Iterator[tuple[str, str]]:
    for role, side in (("a", result.a), ("b", result.b), ("reference", result.reference)):
        if side is not None:
            yield role, f"{side.path} ({side.runtime})"
    yield "tokens", ",".join(map(str, result.tokens))
    yield "answer", headline(result)
    if result.verdict:
        yield "verdict", result.verdict


def _cause_cases(result: Result, new: Mapping[int, set[str]]) -> Iterator[Case]:
    """A case for each cause; skipped where none of its taps is new."""
    for n, cause in enumerate(result.root_causes):
        lines = [cause.text, *detail_lines(cause, result)]
        if len(new[n]) < len(cause.taps):
            lines.append(f"new to the baseline: {places(sorted(new[n], key=graph_order)) or 'nothing of it'}")
        outcome = Outcome("failure" if new[n] else "skipped", cause.what, "\n".join(lines))
        yield Case(f"{shortened(cause.what, _LONGEST_NAME)} at {places(cause.taps)}", outcome)


def _all_found(result: Result, against: Compared | None) -> Case:
    """Fails where something is left that no region at fault accounts for; skipped where nobody knows, or a baseline has it."""
    name, text = "nothing is left beside these causes", result.closed.text
    if result.closed.all_found:
        return Case(name)
    is_known = against is not None and against.left_over is None
    if result.closed.all_found is None or is_known:
        return Case(name, Outcome("skipped", text, ""))
    return Case(name, Outcome("failure", text, text))


def _stage_cases(result: Result, new: Mapping[int, set[str]]) -> Iterator[Case]:
    """A case for each stage; skipped where it has causes, and none of them is new there."""
    stages: dict[str, set[str]] = {}
    for row in result.rows:
        stages.setdefault(row.stage, set()).add(row.tap)
    for stage, taps in stages.items():
        found = {n: cause for n, cause in enumerate(result.root_causes) if taps & set(cause.taps)}
        if not found:
            yield Case(stage)
            continue
        kind: Kind = "failure" if any(taps & new[n] for n in found) else "skipped"
        message, text = (
            "\n".join(lines) for lines in zip(*((one.what, one.text) for one in found.values()), strict=True)
        )
        yield Case(stage, Outcome(kind, message, text))
