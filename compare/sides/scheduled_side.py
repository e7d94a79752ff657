"""A graph that is fed its tokens in steps, as a side: its values are by position, whatever the steps are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial

import numpy as np

from ...graphs.artifact import Artifact
from ...graphs.constants import Exact
from ...graphs.errors import InputError, ShapeError
from ...graphs.inputs import graph_inputs
from ...graphs.network import Network
from ...graphs.products import PlainProduct, Running, abreast
from ...graphs.regions import Region
from ...graphs.run import Precision, Runner
from ...graphs.schedule.placing import apart, assembled
from ...graphs.schedule.steps import Schedule
from ...graphs.stages import LOGITS, split_tap_name
from ...graphs.stepping import StepRunner
from .graph_side import GraphSide
from .side import Values, reordered

RunRegion = Callable[[Region, Sequence[np.ndarray]], Running[np.ndarray]]


class ScheduledSide(GraphSide):
    """A graph fed in steps, each of which takes what the one before left.

    A region is run in every step, on what that step has of the values that are by position; a region that reads what it left
    itself, as a cache does, on what it made in the step before.

    Args:
        schedule: its own.
        beside: the schedules of all sides: caches are compared at the end of each of their steps.
    """

    def __init__(
        self,
        artifact: Artifact,
        at: Sequence[str],
        tokens: Sequence[int],
        runner: Runner,
        schedule: Schedule,
        beside: Sequence[Schedule],
    ) -> None:
        self.schedule, self._beside = schedule, tuple(beside)
        super().__init__(artifact, at, tokens, runner)
        if not schedule.is_whole:
            self.info = replace(self.info, name=f"{self.info.name}[{schedule.text}]")

    def _run_on(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens
        self.steps = self.schedule.steps(len(tokens))
        if len(self.steps) > 1 and not self.artifact.states:
            raise InputError(
                f"{self.artifact.path}: keeps no cache, and cannot be fed in {len(self.steps)} steps; export it with "
                "opdiff export --cache, from a variant that takes what the step before left (opdiff.past)"
            )
        self.spans = tuple((step.start, step.end) for step in self.steps)
        self.ends = tuple(sorted({step.end for other in self._beside for step in other.steps(len(tokens))}))
        self._fed: list[Values] = []
        self._own: list[Values] = []
        for step in self.steps:
            left = {name: self._own[-1][tap] for name, tap in self.artifact.states.items()} if self._own else None
            self._fed.append(graph_inputs(self.artifact, tokens, step, left))
            self._own.append(self._own_values(self._fed[-1]))
        self.values = {tap: self.keep(self._by_position(tap, [own[tap] for own in self._own])) for tap in self.regions}
        self.by_region = self.values
        if self.is_run_whole:
            self.by_region = {tap: self.keep(self.run(tap, self.values)) for tap in self.regions}

    def fed_as(self, other: ScheduledSide) -> ScheduledSide:
        """The same graph, fed in another side's steps.

        Raises:
            InputError: it keeps no cache.
        """
        made = copy(self)
        made.schedule = other.schedule
        made._run_on(self.tokens)
        return made

    def step_of(self, tap: str, row: int) -> int:
        """The step to which a place along `token`, or `slot`, of a tap's value belongs."""
        if "slot" in self.taps[tap].axes:
            row = self.ends[int(np.searchsorted(np.cumsum(self.ends), row, side="right"))] - 1
        return self.step_at(row)

    def step_at(self, position: int) -> int:
        """The step that is fed a position."""
        return next(n for n, step in enumerate(self.steps) if step.end > position)

    def logits_by_region(self) -> np.ndarray:
        return self.by_region[LOGITS]

    def network(self, tap: str, values: Values, stepper: StepRunner) -> Network:
        raise ShapeError("steps are looked into one by one (StepSide)")

    def run_all(self, tap: str, values: Values, precision: Precision = "float64") -> dict[str, np.ndarray]:
        raise ShapeError("steps are looked into one by one (StepSide)")

    def beginning(self, n: int) -> GraphSide:
        raise ShapeError(f"steps of {self.schedule.text} are run at all positions")

    def running(self, tap: str, values: Values, precision: Precision) -> Running[np.ndarray]:
        run = partial(self._runner.running, precision=precision)
        own = yield from self._stepping(tap, values, lambda region, feeds: run(region, feeds))
        return self._by_position(tap, own)

    def run_perturbed(self, tap: str, values: Values, exact: Exact) -> np.ndarray:
        run = partial(self._runner.running, precision="float64", perturb=exact)
        own = self._runner.finish(self._stepping(tap, values, lambda region, feeds: run(region, feeds)))
        return self._by_position(tap, own)

    def as_product(self, tap: str, values: Values) -> PlainProduct | None:
        return None

    def layout(self, tap: str) -> tuple:
        return (*super().layout(tap), self.steps)

    def _stepping(self, tap: str, values: Values, run: RunRegion) -> Running[list[np.ndarray]]:
        """The region in each step, in the graph's own layout."""
        region = self.regions[tap]
        if tap not in {self.artifact.states.get(name) for name in region.inputs}:
            return (
                yield from abreast([run(region, self._feeds(region, values, n, None)) for n in range(len(self.steps))])
            )
        made: list[np.ndarray] = []
        for n in range(len(self.steps)):
            made.append((yield from run(region, self._feeds(region, values, n, made[-1] if made else None))))
        return made

    def _feeds(self, region: Region, values: Values, n: int, left: np.ndarray | None) -> list[np.ndarray]:
        """What the region reads in one step; `left`: what it left itself in the step before."""
        return [self._feed(region.tap, name, values, n, left) for name in region.inputs]

    def _feed(self, tap: str, name: str, values: Values, n: int, left: np.ndarray | None) -> np.ndarray:
        state = self.artifact.states.get(name)
        if state is None:
            return self._fed[n][name] if name in self._fed[n] else self._apart(name, values[name], n)
        if state == tap and left is not None:
            return left
        return self._apart(state, values[state], n - 1) if n and state in values else self._fed[n][name]

    def _apart(self, tap: str, value: np.ndarray, n: int) -> np.ndarray:
        if tap in self._orders:
            value = reordered(value, self._orders[tap])
        return apart(value, self.taps[tap].axes, self.steps[n], self.ends, self._own[n][tap])

    def _by_position(self, tap: str, own: Sequence[np.ndarray]) -> np.ndarray:
        missing = -np.inf if split_tap_name(tap)[1] == "attn_scores" else 0.0
        value = assembled(own, self.taps[tap].axes, self.steps, self.ends, missing)
        return reordered(value, np.argsort(self._orders[tap])) if tap in self._orders else value


class StepSide(GraphSide):
    """One step of a side that is fed in steps, as a side of its own, on values from elsewhere: its inputs are what the step
    is fed, and what the cache holds by then.

    Args:
        whole: the side.
        n: which step.
        values: by position, from whichever side.
    """

    def __init__(self, whole: ScheduledSide, n: int, values: Values) -> None:
        vars(self).update(vars(whole))
        step = whole.steps[n]
        self.tokens = whole.tokens[step.start : step.end]
        self._inputs = {name: whole._feed("", name, values, n, None) for name in whole._fed[n]}
        self._shapes = {tap: whole._own[n][tap].shape for tap in self.regions}
        self.values = {tap: self.canonical(tap, whole._apart(tap, values[tap], n)) for tap in self.regions}
        self.by_region = self.values
        self.is_run_whole, self.not_whole = False, None
