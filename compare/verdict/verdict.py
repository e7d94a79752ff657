"""Which runtime decodes as the real runtimes do: greedy decoding step by step, every step judged in the same context.

The path is the first reference's own greedy continuation, and it is forced on all sides: each is asked what follows the
prompt and the path so far. So a step's difference is that step's own, and no side is blamed for where another went.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...graphs.decoding import Candidate, Contest, Decoder, GraphDecoder, Prompt
from ...graphs.errors import InputError
from ...graphs.provenance import versions
from ...graphs.run import Runner
from ..result import as_plain
from .causes import Causes, causes_of
from .judgement import Judgement, Tally, judged, log_probabilities, reference_log_probabilities, tallied

SCHEMA = "opdiff.verdict/1"
Q8_0 = " in Q8_0"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Ranked:
    """One of a side's likeliest tokens; text is None where there is no tokenizer."""

    token: int
    text: str | None
    log_probability: float


@dataclass(frozen=True, slots=True)
class Step:
    """One step: the path's token, every side's likeliest tokens, and the judgements.

    `judgements` hold the other references against the first, without near-ties, and each candidate against each
    reference; `quantised` each candidate on Q8_0 weights against itself on the stored ones.
    """

    token: int
    top: Mapping[str, tuple[Ranked, ...]]
    judgements: tuple[Judgement, ...]
    quantised: tuple[Judgement, ...]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A prompt, the first reference's greedy continuation of it, and each of its steps."""

    prompt: Prompt
    continuation: str | None
    steps: tuple[Step, ...]

    def tokens_before(self, step: int) -> tuple[int, ...]:
        """What every side was given at that step."""
        return (*self.prompt.tokens, *(one.token for one in self.steps[:step]))


@dataclass(frozen=True, slots=True)
class Standing:
    """What became of a candidate. is_named: the user asked for it. causes: why it fails; None where it passes."""

    name: str
    runtime: str
    is_named: bool
    passes: bool
    causes: Causes | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """All that was found. `tallies` are over all prompts and steps, the references' against each other first."""

    model: str
    checkpoint: str
    references: Mapping[str, str]
    n_steps: int
    prompts: tuple[Decoded, ...]
    standings: tuple[Standing, ...]
    tallies: tuple[Tally, ...]
    quantised: tuple[Tally, ...]
    notes: tuple[str, ...]
    provenance: Mapping[str, str]

    @property
    def passes(self) -> bool:
        """Whether every candidate that the user named decodes as the references do."""
        return all(standing.passes for standing in self.standings if standing.is_named)

    def to_json(self) -> str:
        """The whole verdict; numbers that JSON cannot hold (NaN, Inf) become text."""
        plain = as_plain(self)
        assert isinstance(plain, dict)
        return json.dumps({"schema": SCHEMA, "passes": self.passes, **plain}, indent=1)


def decide(contest: Contest, top_k: int, progress: Progress = lambda step, done, total: None) -> Verdict:
    """Decode, judge each step, and find the causes of what fails.

    Args:
        top_k: how many of each side's likeliest tokens to keep.
        progress: told each step: what is done now, how many steps are done, and of how many.
    Raises:
        InputError: a side cannot run, a reference is not finite, or two sides have vocabularies of other sizes.
    """
    runner = Runner()
    open_graph = partial(GraphDecoder, runner=runner, in_steps=not contest.schedule.is_whole)
    graphs = {one.name: open_graph(one.name, one.path) for one in contest.candidates}
    twins = {one.name: open_graph(one.name + Q8_0, one.q8_0) for one in contest.candidates if one.q8_0}
    prompts = []
    for n, prompt in enumerate(contest.prompts):

        def told(step: int, n: int = n) -> None:
            progress("decoding", n * contest.n_steps + step, len(contest.prompts) * contest.n_steps)

        prompts.append(_decoded(contest, prompt, graphs, twins, top_k, told))
    tallies = tallied([one for prompt in prompts for step in prompt.steps for one in step.judgements])
    standings = _standings(contest, prompts, tallies, graphs, progress)
    return Verdict(
        model=contest.model,
        checkpoint=contest.checkpoint,
        references={one.name: one.runtime for one in contest.references},
        n_steps=contest.n_steps,
        prompts=tuple(prompts),
        standings=standings,
        tallies=tallies,
        quantised=tallied([one for prompt in prompts for step in prompt.steps for one in step.quantised]),
        notes=(*contest.notes, *_other_checkpoints(contest, graphs)),
        provenance=versions(),
    )


def _decoded(
    contest: Contest,
    prompt: Prompt,
    graphs: Mapping[str, GraphDecoder],
    twins: Mapping[str, GraphDecoder],
    top_k: int,
    told: Callable[[int], None],
) -> Decoded:
    path: list[int] = []
    steps = []
    for n in range(contest.n_steps):
        told(n)
        tokens = (*prompt.tokens, *path)
        where = f"{len(tokens)} tokens, beginning {','.join(map(str, tokens[:5]))}"
        references = {
            one.name: reference_log_probabilities(one.name, one.logits(tokens), where) for one in contest.references
        }
        values = {name: log_probabilities(one.logits(tokens)) for name, one in graphs.items()}
        quantised = {name: log_probabilities(one.logits(tokens)) for name, one in twins.items()}
        _check_sizes(contest.references[0], {**references, **values})
        steps.append(_step(references, values, quantised, top_k, contest.text))
        path.append(steps[-1].token)
    return Decoded(prompt, contest.text(path), tuple(steps))


def _other_checkpoints(contest: Contest, graphs: Mapping[str, GraphDecoder]) -> Iterator[str]:
    for name, one in graphs.items():
        if one.checkpoint not in (None, contest.checkpoint):
            yield f"{name} was exported from another checkpoint than {contest.model}"


def _check_sizes(first: Decoder, values: Mapping[str, np.ndarray]) -> None:
    size = len(values[first.name])
    for name, side in values.items():
        if side.shape != (size,):
            raise InputError(
                f"{name}: gives {len(side)} logits where {first.name} gives {size}; is it another model's?"
            )


def _step(
    references: Mapping[str, np.ndarray],
    values: Mapping[str, np.ndarray],
    quantised: Mapping[str, np.ndarray],
    top_k: int,
    text: Callable[[Sequence[int]], str | None],
) -> Step:
    first = next(iter(references))
    judgements = [judged(name, side, first, references[first]) for name, side in references.items() if name != first]
    for name, side in values.items():
        for reference, logits in references.items():
            others = [other for key, other in references.items() if key != reference]
            judgements.append(judged(name, side, reference, logits, others))
    return Step(
        token=int(np.argmax(references[first])),
        top={name: _top(side, top_k, text) for name, side in {**references, **values}.items()},
        judgements=tuple(judgements),
        quantised=tuple(judged(name + Q8_0, side, name, values[name]) for name, side in quantised.items()),
    )


def _top(values: np.ndarray, top_k: int, text: Callable[[Sequence[int]], str | None]) -> tuple[Ranked, ...]:
    if np.isnan(values).any():
        return ()
    largest = np.argsort(-values, kind="stable")[:top_k]
    return tuple(Ranked(int(token), text([int(token)]), float(values[token])) for token in largest)


def _standings(
    contest: Contest,
    prompts: Sequence[Decoded],
    tallies: Sequence[Tally],
    graphs: Mapping[str, GraphDecoder],
    progress: Progress,
) -> tuple[Standing, ...]:
    passing = [one for one in contest.candidates if all(t.passes for t in tallies if t.side == one.name)]
    right = min(passing, key=lambda one: one.path != contest.reference_graph, default=None)
    standings = []
    for one in contest.candidates:
        causes = None
        if one.is_named and one not in passing:
            progress(f"why {one.name} fails", 0, 0)
            where = _first_failure(prompts, one.name)
            tokens = prompts[where[0]].tokens_before(contest.n_steps)
            causes = causes_of(one, right or _reference(contest), right is not None, tokens, where, contest.schedule)
        standings.append(Standing(one.name, graphs[one.name].runtime, one.is_named, one in passing, causes))
    return tuple(standings)


def _reference(contest: Contest) -> Candidate:
    return next(one for one in contest.candidates if one.path == contest.reference_graph)


def _first_failure(prompts: Sequence[Decoded], side: str) -> tuple[int, int]:
    """Where a failing side first does: prompt and step."""
    return next(
        (n, m)
        for n, prompt in enumerate(prompts)
        for m, step in enumerate(prompt.steps)
        if any(one.side == side and one.outcome in ("flip", "not_finite") for one in step.judgements)
    )
