"""A graph that is fed its tokens in steps, as a side: its values are by position, whatever the steps are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from copy import copy
from functools import partial

import numpy as np

from ...graphs.artifact import Artifact
from ...graphs.constants import Exact
from ...graphs.errors import InputError, ShapeError
from ...graphs.inputs import graph_inputs
from ...graphs.network import Network
from ...graphs.products import PlainProduct, Running, abreast
from ...graphs.regions import Region, cut
from ...graphs.run import Precision, Runner
from ...graphs.schedule.placing import apart, assembled, in_order, in_own_layout, missing_of, n_others_seen
from ...graphs.schedule.steps import Schedule
from ...graphs.stages import LOGITS, split_tap_name
from ...graphs.stepping import StepRunner
from .graph_side import GraphSide
from .side import Values, in_steps, reordered

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
        private = set(artifact.states.values()) - set(at)
        self._private = cut(artifact, [*at, *private], private)  # what is handed on, but is no tap of the other side
        super().__init__(artifact, at, tokens, runner)
        self.info = in_steps(self.info, schedule)

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
            self._own.append(self._own_values({**self.regions, **self._private}, self._fed[-1]))
        self.put_together(0)

    def n_others_seen(self) -> int:
        """How many columns of its keys are no position, padding or slots that are not written, where it attends to any."""
        probs = [tap for tap in self.regions if split_tap_name(tap)[1] == "attn_probs"]
        return max(
            (n_others_seen([own[tap] for own in self._own], self.taps[tap].axes, self.steps) for tap in probs),
            default=0,
        )

    def put_together(self, n_others: int) -> None:
        """Put the values of the steps together by position, with so many columns behind the keys."""
        self.n_others = n_others
        self.values = {tap: self.keep(self._by_position(tap, [own[tap] for own in self._own])) for tap in self.regions}
        self.by_region = self.values
        if self.is_run_whole:
            self.by_region = {tap: self.keep(self.run(tap, self.values)) for tap in self.regions}

    def fed_as(self, other: ScheduledSide) -> ScheduledSide:
        """The same graph, fed in another side's steps.

        Raises:
            InputError: it keeps no cache.
        """
        return self._fed_anew(other.schedule, self._beside, self.tokens)

    def own_value(self, tap: str, n: int) -> np.ndarray:
        """A tap's value in step `n`, in the graph's own layout."""
        return self._own[n][tap]

    def logits_by_region(self) -> np.ndarray:
        return self.by_region[LOGITS]

    def network(self, tap: str, values: Values, stepper: StepRunner, opened: Collection[str] = ()) -> Network:
        raise ShapeError("steps are looked into one by one (StepSide)")

    def run_all(self, tap: str, values: Values, precision: Precision = "float64") -> dict[str, np.ndarray]:
        raise ShapeError("steps are looked into one by one (StepSide)")

    def beginning(self, n: int) -> GraphSide:
        """The same side for the first `n` tokens, run anew on the steps that feed them."""
        beside = tuple(schedule.beginning(n) for schedule in self._beside)
        return self._fed_anew(self.schedule.beginning(n), beside, self.tokens[:n])

    def _fed_anew(self, schedule: Schedule, beside: tuple[Schedule, ...], tokens: Sequence[int]) -> ScheduledSide:
        """The same graph, run on other steps."""
        made = copy(self)
        made.schedule, made._beside = schedule, beside
        made._run_on(tokens)
        made.put_together(self.n_others)
        return made

    def running(
        self, tap: str, values: Values, precision: Precision, perturb: Exact | None = None
    ) -> Running[np.ndarray]:
        run = partial(self._runner.running, precision=precision, perturb=perturb)
        own = yield from self._stepping(tap, values, run)
        return self._by_position(tap, own)

    def as_product(self, tap: str, values: Values) -> PlainProduct | None:
        return None

    def layout(self, tap: str) -> tuple:
        return (*super().layout(tap), self.steps)

    def _stepping(self, tap: str, values: Values, run: RunRegion) -> Running[list[np.ndarray]]:
        """The region in each step, in the graph's own layout."""
        region = self.regions[tap]
        private = self._needed(region, values)
        if not private and tap not in {self.artifact.states.get(name) for name in region.inputs}:
            feeds = [self._feeds(region, values, n, {}) for n in range(len(self.steps))]
            return (yield from abreast([run(region, one) for one in feeds]))
        made: list[np.ndarray] = []
        left: Values = {}
        for n in range(len(self.steps)):
            made.append((yield from run(region, self._feeds(region, values, n, left))))
            left = {tap: made[-1], **(yield from self._left(private, values, n, left, run))}
        return made

    def _needed(self, region: Region, values: Values) -> list[str]:
        """What only this side has of what a region, or such a state itself, takes from the step before.

        None, where what that is made of is not among the values: the region reads no more of it than its shape then.
        """
        needed, asked = set[str](), [region]
        while asked:
            read = {self.artifact.states.get(name, name) for name in asked.pop().inputs} & self._private.keys()
            asked += [self._private[tap] for tap in read - needed]
            needed |= read
        reads = {name for tap in needed for name in self._private[tap].inputs if name in self.regions}
        return [tap for tap in self._private if tap in needed] if reads <= values.keys() else []

    def _left(
        self, private: Iterable[str], values: Values, n: int, before: Values, run: RunRegion
    ) -> Running[dict[str, np.ndarray]]:
        """What a step leaves of what only this side has, on values from elsewhere; `before`: what the step before left."""
        made: dict[str, np.ndarray] = {}
        for tap in private:
            region = self._private[tap]
            made[tap] = yield from run(region, self._feeds(region, {**values, **made}, n, before))
        return made

    def states_at(self, n: int, values: Values) -> Values:
        """What the step before step `n` left of what only this side has, on values from elsewhere, in double precision."""
        run = partial(self._runner.running, precision="float64")
        left: Values = {}
        for m in range(n if self._private else 0):
            left = self._runner.finish(self._left(self._private, values, m, left, run))
        return left

    def _feeds(self, region: Region, values: Values, n: int, left: Values) -> list[np.ndarray]:
        """What the region reads in one step; `left`: what the step before left, where that is known."""
        return [self.feed(name, values, n, left) for name in region.inputs]

    def feed(self, name: str, values: Values, n: int, left: Values) -> np.ndarray:
        """One input of a region in step `n`: a tap, what the step is fed, or what the step before left."""
        if name in self._private:
            return values[name]
        state = self.artifact.states.get(name)
        if state is None:
            return self._fed[n][name] if name in self._fed[n] else self.in_step(name, values[name], n)
        if state in left:
            return left[state]
        return (
            self.in_step(state, values[state], n - 1)
            if n and state in self.regions and state in values
            else self._fed[n][name]
        )

    def in_step(self, tap: str, value: np.ndarray, n: int) -> np.ndarray:
        """What step `n` has of a tap's value by position, in the graph's own layout."""
        if tap in self._orders:
            value = reordered(value, self._orders[tap])
        return apart(value, self.taps[tap].axes, self.steps[n], self.ends, self._own[n][tap])

    def _by_position(self, tap: str, own: Sequence[np.ndarray]) -> np.ndarray:
        value = assembled(own, self.taps[tap].axes, self.steps, self.ends, missing_of(tap), self.n_others)
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
        self._whole, self._step, self._n = whole, whole.steps[n], n
        step = self._step
        self.tokens = whole.tokens[step.start : step.end]
        self.first_position = step.start - int(step.own[0])
        left = whole.states_at(n, values)
        self._inputs = {name: whole.feed(name, values, n, left) for name in whole._fed[n]}
        self._shapes = {tap: whole._own[n][tap].shape for tap in self.regions}
        self.values = {tap: self.canonical(tap, whole.in_step(tap, values[tap], n)) for tap in self.regions}
        self.by_region = self.values
        self.is_run_whole, self.not_whole = False, None

    def own_layout(self, tap: str, value: np.ndarray) -> np.ndarray:
        if tap in self._orders:
            value = reordered(value, self._orders[tap])
        return in_own_layout(value, self.taps[tap].axes, self._step, self._whole.own_value(tap, self._n))

    def canonical(self, tap: str, own: np.ndarray) -> np.ndarray:
        value = in_order(own, self.taps[tap].axes, self._step)
        return reordered(value, np.argsort(self._orders[tap])) if tap in self._orders else value
