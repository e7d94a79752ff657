"""A schedule: in which steps the tokens are fed, as a text says and as steps with their places."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..errors import InputError

_HELP = "write whole, each, chunks:64 or 4+1+1, and with a comma batch:3, pad-left:5 or pad-right:5"
_MOST = 1 << 16  # tokens of a step, rows of a batch, places of padding


@dataclass(frozen=True)
class Step:
    """One call of the graph. Positions count the tokens of the prompt; columns count what the graph is fed, padding too.

    start, end: the positions that it is fed.
    n_before: how many columns the steps before had.
    n_columns: how many it has itself.
    columns: for each position from 0 to `end`, its column, counted from the first step on.
    row, n_rows: which entry of the batch holds the prompt.
    """

    start: int
    end: int
    n_before: int
    n_columns: int
    columns: tuple[int, ...]
    row: int = 0
    n_rows: int = 1

    @cached_property
    def own(self) -> np.ndarray:
        """The columns of its own positions, counted from its own first one."""
        return np.asarray(self.columns[self.start :], np.intp) - self.n_before

    @cached_property
    def keys(self) -> np.ndarray:
        """The columns of all positions so far."""
        return np.asarray(self.columns, np.intp)

    @property
    def n_keys(self) -> int:
        """How many columns there are so far."""
        return self.n_before + self.n_columns


@dataclass(frozen=True)
class Schedule:
    """In which steps tokens are fed: `text` as the user wrote it.

    sizes: of each step; None: of as many as there are, `each` tokens a step, or all at once where that is None too.
    """

    text: str
    sizes: tuple[int, ...] | None = None
    each: int | None = None
    n_rows: int = 1
    pad_left: int = 0
    pad_right: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether all tokens are fed at once, alone."""
        return self.sizes is None and self.each is None and not self.is_mixed

    @property
    def is_mixed(self) -> bool:
        """Whether the prompt is fed together with other prompts, or with padding."""
        return self.n_rows > 1 or bool(self.pad_left or self.pad_right)

    def beginning(self, n_tokens: int) -> Schedule:
        """The schedule of the first tokens alone."""
        if self.sizes is None:
            return self
        starts = [sum(self.sizes[:n]) for n in range(len(self.sizes))]
        sizes = (min(size, n_tokens - start) for size, start in zip(self.sizes, starts, strict=True))
        return replace(self, sizes=tuple(size for size in sizes if size > 0))

    def steps(self, n_tokens: int) -> tuple[Step, ...]:
        """The steps for so many tokens.

        Raises:
            InputError: they do not add up to that.
        """
        if self.sizes is not None and sum(self.sizes) != n_tokens:
            raise InputError(
                f"schedule {self.text}: its steps are of {sum(self.sizes)} tokens, where {n_tokens} are given"
            )
        each = self.each or n_tokens
        sizes = self.sizes or tuple(min(each, n_tokens - start) for start in range(0, n_tokens, each))
        steps: list[Step] = []
        columns: tuple[int, ...] = ()
        n_before = 0
        for n, size in enumerate(sizes):
            first = n_before + (self.pad_left if n == 0 else 0)
            columns = (*columns, *range(first, first + size))
            n_columns = size + (self.pad_left + self.pad_right if n == 0 else 0)
            start = len(columns) - size
            steps.append(Step(start, len(columns), n_before, n_columns, columns, self.n_rows // 2, self.n_rows))
            n_before += n_columns
        return tuple(steps)


def side_by_side(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Steps of a batch, for a runtime without an axis for it: in each step all of the first row's columns stand, then all of the
    second's, and a cache has them in that order.
    """
    made: list[Step] = []
    columns: tuple[int, ...] = ()
    for step in steps:
        n_before, first = step.n_rows * step.n_before, step.n_rows * step.n_before + step.row * step.n_columns
        columns = (*columns, *(int(column) for column in first + step.own))
        made.append(Step(step.start, step.end, n_before, step.n_rows * step.n_columns, columns))
    return tuple(made)


WHOLE, EACH = Schedule("whole"), Schedule("each", each=1)


def parse_schedule(text: str) -> Schedule:
    """Read `whole`, `each`, `chunks:64`, `4+1+1`, and `batch:3`, `pad-left:5`, `pad-right:5`, or several with commas.

    Raises:
        InputError: it is none.
    """
    found: dict[str, tuple[int, ...]] = {}
    for part in text.split(","):
        word, numbers = _part(text, part.strip())
        kind = "steps" if word in ("whole", "each", "chunks", "sizes") else word
        if kind in found:
            raise InputError(f"schedule {text}: says twice how many {kind}; {_HELP}")
        found[kind] = () if word == "whole" else (1,) if word == "each" else numbers
        if word == "sizes":
            found["sizes"] = found["steps"]
    steps = found.get("steps", ())
    return Schedule(
        text=text,
        sizes=found.get("sizes"),
        each=steps[0] if steps and "sizes" not in found else None,
        n_rows=found.get("batch", (1,))[0],
        pad_left=found.get("pad-left", (0,))[0],
        pad_right=found.get("pad-right", (0,))[0],
    )


def _part(text: str, part: str) -> tuple[str, tuple[int, ...]]:
    """One part of a schedule's text: its word, and its numbers."""
    if part in ("whole", "each"):
        return part, ()
    if re.fullmatch(r"\d+(\+\d+)*", part):
        word, numbers = "sizes", part.split("+")
    else:
        word, _, number = part.partition(":")
        if word not in ("chunks", "batch", "pad-left", "pad-right") or not re.fullmatch(r"\d+", number):
            raise InputError(f"schedule {text}: {part!r} is none; {_HELP}")
        numbers = [number]
    sizes = tuple(int(number) if len(number) < 9 else _MOST + 1 for number in numbers)
    if not all(0 < size <= _MOST for size in sizes):
        raise InputError(f"schedule {text}: {part} is out of range (1 to {_MOST}); {_HELP}")
    return word, sizes
