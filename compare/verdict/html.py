"""A verdict as one page that opens from disk: who decodes as the real runtimes do, what to change, and every step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..report.page.document import document
from ..report.sentences import effect_number, from_here
from ..report.words import places
from ..result import RootCause
from .report import headlines, notes, prompt_text, setting
from .verdict import Decoded, Step, Verdict


@dataclass(frozen=True, slots=True)
class Mark:
    """What became of a side at a step."""

    outcome: str
    sign: str
    words: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A side's likeliest token at a step."""

    token: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class Side:
    """A side's row through a prompt. beside: what else to know of it."""

    name: str
    beside: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as a table."""

    text: str
    sides: tuple[Side, ...]
    steps: tuple[Step, ...]


# The worst comes last: a side is marked by the reference that it is farthest from.
MARKS = (
    Mark("path", "→", "the path"),
    Mark("agree", "✓", "the same token"),
    Mark("near_tie", "≈", "a near-tie"),
    Mark("flip", "✗", "another token"),
    Mark("not_finite", "!", "NaN or Inf"),
)


def verdict_page(verdict: Verdict) -> str:
    """The whole HTML, which loads nothing and has no scripts."""
    failing = [
        (one, one.causes, [(tuple(_lines(cause)), cause) for cause in one.causes.root_causes])
        for one in verdict.standings
        if one.causes is not None
    ]
    return document(
        "verdict.html",
        ("style/page.css", "style/verdict.css"),
        (),
        verdict=verdict,
        headlines=tuple(headlines(verdict)),
        failing=failing,
        setting=setting(verdict),
        marks=MARKS,
        prompts=[_prompt(verdict, prompt) for prompt in verdict.prompts],
        notes=tuple(notes(verdict)),
    )


def _lines(cause: RootCause) -> Iterator[str]:
    """The terminal's three: what differs, where, what it does."""
    yield cause.what
    yield f"at {places(cause.taps)}" + (f", {from_here(cause.source)}" if cause.source else "")
    if cause.effect is not None:
        yield effect_number(cause.effect)


def _prompt(verdict: Verdict, prompt: Decoded) -> Prompt:
    sides = tuple(_side(verdict, prompt, name) for name in prompt.steps[0].top)
    return Prompt(prompt_text(prompt), sides, prompt.steps)


def _side(verdict: Verdict, prompt: Decoded, name: str) -> Side:
    unasked = {one.name for one in verdict.standings if not one.is_named}
    beside = "real" if name in verdict.references else "runs along" if name in unasked else ""
    return Side(name, beside, tuple(_choice(step, name) for step in prompt.steps))


def _choice(step: Step, side: str) -> Choice:
    outcomes = [one.outcome for one in step.judgements if one.side == side]
    mark = max((mark for mark in MARKS if mark.outcome in outcomes), key=MARKS.index, default=MARKS[0])
    top = step.top[side]
    if not top:
        return Choice("–", mark)
    return Choice(str(top[0].token) if top[0].text is None else repr(top[0].text), mark)
