"""A result in Markdown: a comment under a pull request, or the summary of a CI run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ..baseline import Compared
from ..result import Result, RootCause, Row
from .against import baseline_lines
from .markdown import code, escaped, folded, table
from .sentences import WITHOUT_EFFECT, coverage, effect_number, from_here, headline, latent_lines
from .words import agreement_text, places


def summary(result: Result, against: Compared | None = None) -> str:
    """A result in Markdown, and what a baseline says of it."""
    return "\n\n".join(_parts(result, against)) + "\n"


def _parts(result: Result, against: Compared | None) -> Iterator[str]:
    answer = "computes the same as" if result.parity else "differs from"
    yield f"### opdiff: {escaped(result.b.name)} {answer} {escaped(result.a.name)}"
    yield f"**{escaped(headline(result))}**"
    if against is not None:
        yield "\n".join(f"- {escaped(line)}" for line in baseline_lines(against))
    if result.first_step is not None:
        yield escaped(result.first_step.text)
    for number, cause in enumerate(result.root_causes, 1):
        yield "\n".join(_cause(number, cause, result))
    if result.root_causes:
        yield f"**{escaped(result.closed.text)}**"
    if result.verdict:
        yield f"**{escaped(result.verdict)}**"
    if result.latent:
        yield "\n".join((f"**{WITHOUT_EFFECT}:**", "", *(f"- {escaped(line)}" for line in latent_lines(result))))
    for spot in result.blind_spots:
        yield f"**This input cannot show:** {escaped(spot.text)}"
    if result.next_capture is not None and not result.parity:
        yield f"**Next:** {escaped(result.next_capture.text)}"
    yield folded("The stages, and notes" if result.notes else "The stages", *_details(result))


def _cause(number: int, cause: RootCause, result: Result) -> Iterator[str]:
    yield f"{number}. **{escaped(cause.what)}**"
    if cause.also_fits:
        yield f"   - this input cannot tell it from: {escaped('; '.join(cause.also_fits))}"
    where = f"at {escaped(places(cause.taps))}"
    for side, source in (("B", cause.source), ("A", cause.a_source)):
        where += f"; {side}: {code(from_here(source))}" if source else ""
    yield f"   - {where}"
    agreed = agreement_text(result.a.name, result.b.name, cause.reference_agrees_with)
    last = [text for text in (effect_number(cause.effect), agreed) if text]
    if last:
        yield f"   - {escaped('; '.join(last))}"


def _details(result: Result) -> Iterator[str]:
    stages: dict[str, list[Row]] = {}
    for row in result.rows:
        stages.setdefault(row.stage, []).append(row)
    at_fault = {divergence.tap for divergence in result.divergences}
    parted = [rows for rows in stages.values() if any(row.tap in at_fault for row in rows)]
    if parted:
        headings = ("stage", "at fault", "worst block", "local error", "float32 floor", "causes")
        yield table(
            headings, (_stage([row for row in rows if row.tap in at_fault], len(rows), result) for rows in parted)
        )
    n_others = len(stages) - len(parted)
    yield f"{n_others} of {len(stages)} stages are not at fault: the same, or apart by rounding; {escaped(coverage(result))}."
    for note in result.notes:
        yield f"Note: {escaped(note)}"


def _stage(rows: Sequence[Row], n_taps: int, result: Result) -> tuple[str, ...]:
    """A stage's line in the table: its taps at fault, of so many."""
    worst, taps = max(rows, key=_ratio), {row.tap for row in rows}
    causes = [str(n) for n, cause in enumerate(result.root_causes, 1) if taps & set(cause.taps)]
    block = "" if worst.block is None else str(worst.block)
    return (
        escaped(worst.stage),
        f"{len(rows)} of {n_taps}",
        block,
        f"{worst.error:.2e}",
        f"{worst.floor:.1e}",
        ", ".join(causes),
    )


def _ratio(row: Row) -> float:
    return row.error / row.floor if row.floor else math.inf
