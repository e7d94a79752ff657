"""Why a runtime fails: the comparison of its graph with one that does not, on the prompt on which it first fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...graphs.decoding import Candidate
from ...graphs.errors import OpdiffError
from ...graphs.schedule.steps import WHOLE, Schedule
from ..diagnose import compare
from ..result import Result, RootCause


@dataclass(frozen=True, slots=True)
class Causes:
    """What to change in a failing runtime.

    against: the runtime that it was compared with; against_passes: whether that one decodes as the real runtimes do.
    prompt, step: where it first fails; tokens: that prompt and its whole path, on which the two were compared.
    root_causes: of `opdiff compare`, with `against` as A. text: whether they are all, or why there are none.
    """

    against: str
    against_passes: bool
    prompt: int
    step: int
    tokens: tuple[int, ...]
    root_causes: tuple[RootCause, ...]
    text: str


def causes_of(
    failing: Candidate,
    against: Candidate,
    against_passes: bool,
    tokens: Sequence[int],
    where: tuple[int, int],
    schedule: Schedule = WHOLE,
) -> Causes:
    """Compare a failing graph, as it decodes, with another one on all tokens at once; a graph that cannot be compared has
    causes that are not known.
    """
    root_causes: tuple[RootCause, ...] = ()
    if failing.path == against.path:
        text = "not known: there is nothing right to compare it with, for the variant reference is this one"
    else:
        try:
            result = compare(against.path, failing.path, tokens, schedules=(WHOLE, schedule))
            root_causes, text = result.root_causes, _text(result)
        except OpdiffError as e:
            text = f"not known: {e}"
    return Causes(against.name, against_passes, *where, tuple(tokens), root_causes, text)


def _text(result: Result) -> str:
    if result.parity:
        return f"not known: {result.b.name} computes the same as {result.a.name} on these tokens, but for rounding"
    return result.closed.text
