"""A verdict on the terminal: who decodes as the real runtimes do, what to change in the others, and the figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ..listed import listed
from ..report.plain_table import PlainTable, plain
from .causes import Causes
from .judgement import Judgement, Tally
from .verdict import Decoded, Ranked, Standing, Step, Verdict

_SHOWN_OF_A_SIDE = 3
_WORDS = {"near_tie": "near-tie", "flip": "flip", "not_finite": "NaN or Inf"}


def print_verdict(verdict: Verdict, console: Console, quiet: bool) -> None:
    """Print the answer, the causes, what was decoded, and the tables; where it is to be quiet, the answer."""
    for line in headlines(verdict):
        console.print(f"[bold]{plain(line)}[/bold]")
    if quiet:
        return
    for standing in verdict.standings:
        if standing.causes is not None:
            console.print()
            _print_causes(standing, standing.causes, console)
    console.print(f"\n[bold]Greedy decoding[/bold] {plain(setting(verdict))}")
    for n, prompt in enumerate(verdict.prompts, 1):
        console.print(plain(f"  {n}. {prompt_text(prompt)}"))
    for table in _tables(verdict):
        console.print()
        console.print(table)
    for note in notes(verdict):
        console.print(f"\n[dim]Note: {plain(note)}[/dim]")


def headlines(verdict: Verdict) -> Iterator[str]:
    """For each candidate that the user named whether it passes; then where the real runtimes themselves part."""
    real = listed(list(verdict.references))
    named = [one for one in verdict.standings if one.is_named]
    for one in sorted(named, key=lambda one: not one.passes):
        same = ", ".join(agreement(tally) for tally in verdict.tallies if tally.side == one.name)
        verb = "match: {} decodes" if one.passes else "fail: {} does not decode"
        yield f"{verb.format(one.name)} as {real}: same top-1 {same}"
    for tally in verdict.tallies:
        if tally.side in verdict.references and not tally.passes:
            parting = (
                f"{tally.side} has another top-1 than {tally.reference} at {tally.n_flips} of {tally.n_steps} steps"
            )
            yield f"the real runtimes themselves part: {parting}"


def agreement(tally: Tally) -> str:
    """At how many steps a side has the likeliest token of a real runtime."""
    near = f" (and {tally.n_near_ties} near-tie{'s' * (tally.n_near_ties > 1)})" if tally.n_near_ties else ""
    return f"at {tally.n_agree} of {tally.n_steps} steps as {tally.reference}{near}"


def setting(verdict: Verdict) -> str:
    """How it was decoded."""
    first = next(iter(verdict.references))
    real = listed(list(verdict.references.values()))
    return (
        f"of {verdict.n_steps} steps, against {real}. The path is {first}'s own greedy continuation, forced on all sides,"
        " so that every step compares the same context:"
    )


def prompt_text(prompt: Decoded) -> str:
    """A prompt, and how it goes on."""
    tokens = prompt.prompt.tokens
    text = prompt.prompt.text if prompt.prompt.text is not None else f"tokens {','.join(map(str, tokens))}"
    path = prompt.continuation
    going_on = ",".join(str(step.token) for step in prompt.steps) if path is None else repr(path)
    return f"{text!r} ({len(tokens)} tokens) goes on {going_on}"


def _print_causes(standing: Standing, causes: Causes, console: Console) -> None:
    beside = "" if causes.against_passes else ", which does not decode as they do either"
    console.print(
        f"[bold]What to change in {plain(standing.name)}[/bold], B, against {plain(causes.against)}, A{beside}"
        f" (on prompt {causes.prompt + 1}, where it first fails, at step {causes.step}):"
    )
    for number, cause in enumerate(causes.root_causes, 1):
        console.print(f"{number}. {plain(cause.text)}")
        if cause.source:
            console.print(f"   {plain(standing.name)}'s line: {plain(cause.source)}")
        if cause.also_fits:
            console.print(f"   this input cannot tell it from: {plain('; '.join(cause.also_fits))}")
    console.print(plain(causes.text))


def _tables(verdict: Verdict) -> Iterator[Table]:
    unasked = [one.name for one in verdict.standings if not one.is_named]
    yield _tally_table("Against each real runtime, over all steps", verdict.tallies, unasked)
    differences = _differences(verdict)
    if differences:
        yield _step_table(differences, verdict.references)
        yield _top_table(verdict, differences)
    if verdict.quantised:
        yield _tally_table("What quantisation does by itself: each on Q8_0 weights, against itself", verdict.quantised)


def _tally_table(title: str, tallies: Sequence[Tally], unasked: Sequence[str] = ()) -> Table:
    table = PlainTable(title=title, title_justify="left")
    table.add_column("side")
    table.add_column("against")
    for heading in ("same top-1", "near-ties", "flips", "KL mean", "KL max (nats)"):
        table.add_column(heading, justify="right")
    for one in tallies:
        flips = str(one.n_flips) if not one.n_not_finite else f"{one.n_flips}, and {one.n_not_finite} NaN or Inf"
        beside = " (runs along)" if one.side in unasked else ""
        row = (f"{one.n_agree} of {one.n_steps}", str(one.n_near_ties), flips, _nats(one.kl_mean), _nats(one.kl_max))
        table.add_row(one.side + beside, one.reference, *row)
    return table


@dataclass(frozen=True, slots=True)
class _Difference:
    """A step at which a side has another likeliest token than a real runtime, the first one that does not excuse it."""

    prompt: int
    index: int
    step: Step
    judgement: Judgement


def _differences(verdict: Verdict) -> dict[str, list[_Difference]]:
    """For each side that differs anywhere, where."""
    sides = dict.fromkeys(tally.side for tally in verdict.tallies)
    return {side: places for side in sides if (places := list(_places(verdict, side)))}


def _places(verdict: Verdict, side: str) -> Iterator[_Difference]:
    for n, prompt in enumerate(verdict.prompts):
        for m, step in enumerate(prompt.steps):
            others = [one for one in step.judgements if one.side == side and one.outcome != "agree"]
            if others:
                yield _Difference(n, m, step, max(others, key=lambda one: one.outcome != "near_tie"))


def _step_table(differences: Mapping[str, Sequence[_Difference]], references: Mapping[str, str]) -> Table:
    table = PlainTable(
        title="Where the likeliest token is another (in nats: by how much the two prefer their own, and what the real ones differ by)",
        title_justify="left",
    )
    for heading in ("side", "prompt", "step", "has", "by", "where", "has ", "by "):
        table.add_column(heading, overflow="fold", justify="right" if heading.startswith("by") else "left")
    for heading in ("its rank", "real differ", "KL"):
        table.add_column(heading, justify="right")
    table.add_column("so")
    for side, places in differences.items():
        for place in places[:_SHOWN_OF_A_SIDE]:
            table.add_row(
                *_step_row(place), "the real ones part" if side in references else _WORDS[place.judgement.outcome]
            )
        if len(places) > _SHOWN_OF_A_SIDE:
            table.add_row(side, "", "", f"and {len(places) - _SHOWN_OF_A_SIDE} more steps", *[""] * 8)
    return table


def _step_row(place: _Difference) -> Iterator[str]:
    one, top = place.judgement, place.step.top
    yield from (one.side, str(place.prompt + 1), str(place.index))
    yield from (_first(top[one.side]), _short(one.side_margin))
    yield from (one.reference, _first(top[one.reference]), _short(one.margin))
    yield "-" if one.rank is None else str(one.rank)
    yield from (_short(one.disagreement), _nats(one.kl))


def _top_table(verdict: Verdict, differences: Mapping[str, Sequence[_Difference]]) -> Table:
    """The likeliest tokens of every side at the first step at which each side differs."""
    table = PlainTable(title="The likeliest tokens where a side first differs", title_justify="left")
    for heading in ("prompt", "step", "side", "tokens, with their probabilities"):
        table.add_column(heading)
    for n, m in sorted({(places[0].prompt, places[0].index) for places in differences.values()}):
        for side, top in verdict.prompts[n].steps[m].top.items():
            table.add_row(str(n + 1), str(m), side, "  ".join(map(_with_probability, top)))
    return table


def _with_probability(one: Ranked) -> str:
    return f"{_token(one)} {100 * math.exp(one.log_probability):.3g} %"


def _first(top: Sequence[Ranked]) -> str:
    return _token(top[0]) if top else "-"


def _token(one: Ranked) -> str:
    return str(one.token) if one.text is None else repr(one.text)


def _nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def notes(verdict: Verdict) -> Iterator[str]:
    """What a reader should know beside the figures."""
    if len(verdict.references) == 1:
        yield "with one real runtime, how far real runtimes disagree is unknown, so no flip is called a near-tie"
    yield from verdict.notes
