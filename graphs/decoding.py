"""Decoding step by step: whatever gives the logits that follow some tokens, and a graph that does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from .artifact import load_artifact
from .axes import to_canonical, unbatched
from .errors import InputError
from .inputs import graph_inputs
from .regions import cut
from .run import Runner, run_regions
from .schedule.steps import EACH, Schedule
from .stages import LOGITS


class Decoder(Protocol):
    """A runtime with a model loaded.

    name: what the user called it. runtime: what it is, with its version.
    """

    @property
    def name(self) -> str: ...

    @property
    def runtime(self) -> str: ...

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """What follows these tokens: float32 [vocabulary]; a constant added to all of them means nothing.

        Raises:
            InputError: it cannot run on these tokens.
        """


@dataclass(frozen=True, slots=True)
class Prompt:
    """An input as token ids, and as text where it was given so."""

    text: str | None
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant that is to be judged.

    name: as the user asked for it. path: its .onnx. q8_0: the same variant on Q8_0 weights, where there is one.
    is_named: False where it runs along unasked.
    """

    name: str
    path: Path
    q8_0: Path | None
    is_named: bool


class GraphDecoder:
    """An .onnx file; with a shared runner, equal graphs share a session.

    checkpoint: the SHA-256 of what it was exported from, where that is recorded.

    Args:
        in_steps: whether it decodes token by token with its own cache, so that a call with more tokens than the one before runs
            the new ones only; otherwise all tokens are run at once, in each call.
    Raises:
        InputError: a file that cannot be used, or one without a tap for its logits; in steps, one without a cache.
    """

    def __init__(self, name: str, path: Path, runner: Runner, in_steps: bool = False) -> None:
        self.name = name
        self._artifact = load_artifact(path)
        self.runtime, self.checkpoint = self._artifact.runtime, self._artifact.facts.get("checkpoint")
        if LOGITS not in self._artifact.tap_names:
            raise InputError(f"{path}: has no tap named {LOGITS}; export it again with that stage marked")
        self._axes = self._artifact.tap(LOGITS).axes
        if in_steps and not self._artifact.states:
            raise InputError(
                f"{path}: keeps no cache, and cannot decode token by token; export it with opdiff export --cache"
            )
        # In steps, at every tap: cut at the caches alone, each would be made of all blocks before it anew.
        at = self._artifact.tap_names if in_steps else [LOGITS]
        self._regions, self._runner = cut(self._artifact, at), runner
        self._in_steps = in_steps
        self._seen: tuple[int, ...] = ()  # what was decoded so far, and what that left
        self._values: Mapping[str, np.ndarray] = {}

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """The last position's logits, float32 [vocabulary].

        Raises:
            InputError: it cannot run on these tokens.
        """
        self._artifact.check_tokens(tokens)
        try:
            if self._in_steps:
                self._decode(tokens)
            else:
                self._values = run_regions(self._regions, graph_inputs(self._artifact, tokens), self._runner)
        except InputError as e:
            raise InputError(f"{self._artifact.path}: {e}") from e
        return unbatched(to_canonical(self._values[LOGITS], self._axes), self._axes)[-1]

    def _decode(self, tokens: Sequence[int]) -> None:
        """Run the tokens that are new, one after the other; all of them, where they begin otherwise than those before."""
        tokens = tuple(tokens)
        if tokens[: len(self._seen)] != self._seen or len(tokens) == len(self._seen):
            self._seen, self._values = (), {}
        for step in EACH.steps(len(tokens))[len(self._seen) :]:
            states = self._artifact.states
            left = {name: self._values[tap] for name, tap in states.items()} if self._values else None
            inputs = graph_inputs(self._artifact, tokens, step, left)
            self._values = run_regions(self._regions, inputs, self._runner)
        self._seen = tokens


@dataclass(frozen=True)
class Contest:
    """What is to be judged, by whom, and on what.

    model: as the user named it, with its checkpoint's SHA-256. references: real runtimes; the first one's greedy
    continuation is the path. reference_graph: the .onnx of the variant `reference`, one of the candidates'. schedule: in
    which steps candidates decode, whole or each. text: of token ids, None where there is no tokenizer. notes: what could not be prepared.
    """

    model: str
    checkpoint: str
    prompts: tuple[Prompt, ...]
    n_steps: int
    references: tuple[Decoder, ...]
    candidates: tuple[Candidate, ...]
    reference_graph: Path
    schedule: Schedule
    text: Callable[[Sequence[int]], str | None]
    notes: tuple[str, ...]
