"""Decoding step by step: whatever gives the logits that follow some tokens, and a graph that does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """An .onnx file, run whole on all tokens at each call; with a shared runner, equal graphs share a session.

    checkpoint: the SHA-256 of what it was exported from, where that is recorded.

    Raises:
        InputError: a file that cannot be used, or one without a tap for its logits.
    """

    def __init__(self, name: str, path: Path, runner: Runner) -> None:
        self.name = name
        self._artifact = load_artifact(path)
        self.runtime, self.checkpoint = self._artifact.runtime, self._artifact.facts.get("checkpoint")
        if LOGITS not in self._artifact.tap_names:
            raise InputError(f"{path}: has no tap named {LOGITS}; export it again with that stage marked")
        self._axes = self._artifact.tap(LOGITS).axes
        self._regions, self._runner = cut(self._artifact, [LOGITS]), runner

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """The last position's logits, float32 [vocabulary].

        Raises:
            InputError: it cannot run on these tokens.
        """
        self._artifact.check_tokens(tokens)
        try:
            value = run_regions(self._regions, graph_inputs(self._artifact, tokens), self._runner)[LOGITS]
        except InputError as e:
            raise InputError(f"{self._artifact.path}: {e}") from e
        return unbatched(to_canonical(value, self._axes), self._axes)[-1]


@dataclass(frozen=True)
class Contest:
    """What is to be judged, by whom, and on what.

    model: as the user named it, with its checkpoint's SHA-256. references: real runtimes; the first one's greedy
    continuation is the path. reference_graph: the .onnx of the variant `reference`, one of the candidates'. text: of
    token ids, None where there is no tokenizer. notes: what could not be prepared.
    """

    model: str
    checkpoint: str
    prompts: tuple[Prompt, ...]
    n_steps: int
    references: tuple[Decoder, ...]
    candidates: tuple[Candidate, ...]
    reference_graph: Path
    text: Callable[[Sequence[int]], str | None]
    notes: tuple[str, ...]
