"""A graph as a side: run whole, or region by region on values from elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from ...graphs.artifact import Artifact
from ...graphs.axes import canonical_axes, from_canonical, of_first_tokens, to_canonical
from ...graphs.constants import Exact
from ...graphs.errors import InputError, OpdiffError, ShapeError
from ...graphs.inputs import graph_inputs
from ...graphs.kernels import kept_in_single
from ...graphs.network import Network
from ...graphs.products import PlainProduct, Running, abreast
from ...graphs.regions import Region, cut
from ...graphs.run import Precision, Runner, run_regions
from ...graphs.schedule.steps import Schedule
from ...graphs.stages import LOGITS
from ...graphs.stepping import StepRunner
from ...graphs.stream import Stream, stream_of
from ...graphs.whole import is_changed_when_whole, run_whole, why_not_whole
from .side import Side, Values, in_steps, info_of, reordered, reordered_all

T = TypeVar("T")
_OF_TOKENS = ("token", "key")


class GraphSide(Side):
    """A graph that can be run whole, or region by region on values from elsewhere. Values are canonical.

    Args:
        artifact: the graph with its taps.
        at: the taps at which to cut it.
        tokens: the input.
        runner: shared by all sides, so that equal programs share a session.

    `values` are those that onnxruntime gives for the graph as it is. Where it may change what is computed, seeing the whole
    (`is_changed_when_whole`), they come of one run of it, and `by_region` is each region run by itself on them; elsewhere
    the regions are run one after the other, which gives the same, and `by_region` is `values`. `not_whole` says why a graph
    that should be run whole could not be.
    """

    by_region: dict[str, np.ndarray]

    def __init__(self, artifact: Artifact, at: Sequence[str], tokens: Sequence[int], runner: Runner) -> None:
        self.artifact = artifact
        self._runner = runner
        taps = {tap.name: tap for tap in artifact.taps if tap.name in set(at)}
        info = info_of(artifact.name, artifact)
        super().__init__(info, taps, cut(artifact, at), {})
        self.not_whole: str | None = None
        self.is_run_whole = is_changed_when_whole(artifact.model)
        self._run_on(tokens)

    def _run_on(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens
        self._inputs = graph_inputs(self.artifact, tokens)
        own = self._own_values(self.regions, self._inputs)
        self._shapes = {tap: own[tap].shape for tap in self.regions}
        self.values = {tap: self.canonical(tap, own[tap]) for tap in self.regions}
        self.by_region = self.values
        if self.is_run_whole:
            self.by_region = {tap: self.keep(self.run(tap, self.values)) for tap in self.regions}

    def _own_values(self, regions: Mapping[str, Region], inputs: Values) -> Values:
        """The value of each region's tap, in the graph's own layout."""
        try:
            if self.is_run_whole:
                try:
                    whole = run_whole(self.artifact, inputs, tuple(regions), self._runner.settings)
                    return {tap: self.keep(value) for tap, value in whole.items()}
                except InputError as e:
                    self.is_run_whole, self.not_whole = False, why_not_whole(e)
            return run_regions(regions, inputs, self._runner)
        except InputError as e:
            raise InputError(f"{self.artifact.path}: {e}") from e

    def logits_by_region(self) -> np.ndarray:
        """The logits as the regions give them, one after the other, in float32."""
        if not self.is_run_whole:
            return self.values[LOGITS]
        return self.canonical(LOGITS, run_regions(self.regions, self._inputs, self._runner)[LOGITS])

    def with_orders(self, orders: Mapping[str, Sequence[int]]) -> GraphSide:
        other = super().with_orders(orders)
        other.by_region = other.values
        if self.is_run_whole:
            other.by_region = {**self.by_region, **reordered_all(self.by_region, orders)}
        return other

    def told_of_steps(self, schedule: Schedule) -> GraphSide:
        """The same side, which says that its values by position came of these steps, in which its graph was put together."""
        other = copy(self)
        other.schedule, other.steps = schedule, schedule.steps(len(self.tokens))
        other.info = in_steps(self.info, schedule)
        return other

    def on(self, tokens: Sequence[int]) -> GraphSide:
        """The same side, with its values for other tokens.

        Raises:
            InputError: it cannot run on so many.
        """
        other = copy(self)
        other._run_on(tokens)
        return other

    def beginning(self, n: int) -> GraphSide:
        """The same side for the first `n` tokens, with the first of its values, which are those of a causal decoder.

        Raises:
            ShapeError: not every tap has a place for each token, or the graph was made for this input alone.
        """
        self._check_takes(n)
        other = copy(self)
        other.tokens = self.tokens[:n]
        other._inputs = graph_inputs(self.artifact, other.tokens)
        other._shapes, other.values, other.by_region = {}, {}, {}
        for tap, value in self.values.items():
            axes, shape = self.taps[tap].axes, self._shapes[tap]
            own = of_first_tokens(axes, shape, len(self.tokens), n)
            other._shapes[tap] = np.broadcast_to(0, shape)[own].shape
            words = canonical_axes(axes)[len(axes) - value.ndim :]
            first = of_first_tokens(words, value.shape, len(self.tokens), n)
            other.values[tap], other.by_region[tap] = value[first], self.by_region[tap][first]
        return other

    def _check_takes(self, n: int) -> None:
        if self.artifact.given is not None:
            raise ShapeError(f"{self.artifact.path}: made for {len(self.tokens)} tokens, and not for {n}")

    def stretched(self, n: int, taps: Iterable[str]) -> GraphSide:
        """The same side as if it had `n` tokens, its own again and again, with values of these taps alone: likewise its own.

        Raises:
            ShapeError: not every one of them has a place for each token, or the graph was made for this input alone.
        """
        self._check_takes(n)
        other, turns = copy(self), np.arange(n) % len(self.tokens)
        other.tokens = [self.tokens[turn] for turn in turns.tolist()]
        other._inputs = graph_inputs(self.artifact, other.tokens)
        other._shapes, other.values = {}, {}
        for tap in taps:
            axes, shape, value = self.taps[tap].axes, self._shapes[tap], self.values[tap]
            of_first_tokens(axes, shape, len(self.tokens), n)
            other._shapes[tap] = tuple(
                n if word in _OF_TOKENS else size for word, size in zip(axes, shape, strict=True)
            )
            for place, word in enumerate(canonical_axes(axes)[len(axes) - value.ndim :]):
                value = np.take(value, turns, place) if word in _OF_TOKENS else value
            other.values[tap] = value
        other.by_region = other.values
        return other

    def run(self, tap: str, values: Values, precision: Precision = "float32") -> np.ndarray:
        """The region that ends at `tap`, on these canonical values of the taps that it reads: canonical."""
        return self._runner.finish(self.running(tap, values, precision))

    def run_abreast(self, runs: Sequence[Running[T]]) -> list[T]:
        """Finish several runs, of this side and of others; each weight is read once for all.

        Raises:
            OpdiffError: one of them fails.
        """
        return self._runner.finish(abreast(runs))

    def running(
        self, tap: str, values: Values, precision: Precision, perturb: Exact | None = None
    ) -> Running[np.ndarray]:
        """The same as `run`, for `together` and `run_abreast`.

        perturb: in float64, move the constants that are not in it by as much as float32 may round them.
        """
        region = self.regions[tap]
        own = yield from self._runner.running(region, self.feeds(region, values), precision, perturb)
        return self.canonical(tap, own)

    def together(self, runs: Sequence[Running[T]], by_difference: bool) -> list[T | OpdiffError]:
        """Finish several runs, of this side and of others that share its runner; each weight is read once for all.

        by_difference: only the differences between the results matter.
        """
        return self._runner.together(runs, by_difference)

    def as_product(self, tap: str, values: Values) -> PlainProduct | None:
        """What the region multiplies on these values, where it is one product with a weight; its order is canonical."""
        region, axes = self.regions[tap], self.taps[tap].axes
        found = self._runner.as_product(region, self.feeds(region, values))
        if found is None or (found.order is None and (tap in self._orders or canonical_axes(axes) != axes)):
            return None
        return found if found.order is None else replace(found, order=self.canonical(tap, found.order))

    def multiply(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """x [T, in] in float64 with a weight [out, in] as it is stored: [T, out]."""
        return self._runner.multiply(x, weight)

    def keep(self, value: np.ndarray) -> np.ndarray:
        """The value, put aside where it is large."""
        return self._runner.keep(value)

    @cached_property
    def stream(self) -> Stream:
        """The residual stream: what each block reads of the one before it."""
        return stream_of(self.regions.values())

    def kept_in_single(self, tap: str) -> tuple[str, ...]:
        """The operators of a region that onnxruntime runs in float32 in every precision."""
        return kept_in_single(self.regions[tap].program.model)

    def stepper(self) -> StepRunner:
        """Runs single steps, for networks of this side and of those that share its runner."""
        return StepRunner(self._runner)

    def network(self, tap: str, values: Values, stepper: StepRunner, opened: Collection[str] = ()) -> Network:
        """The region that ends at `tap` as a network of values, on these canonical values of the taps that it reads.

        opened: operators that are taken as the steps that ONNX defines them by.
        """
        region = self.regions[tap]
        return Network(region, self.feeds(region, values), stepper, opened)

    def run_all(self, tap: str, values: Values, precision: Precision = "float64") -> dict[str, np.ndarray]:
        """Every value inside the region, by its name in the region's program."""
        region = self.regions[tap]
        return self._runner.run_all(region, self.feeds(region, values), precision)

    def feeds(self, region: Region, values: Values) -> list[np.ndarray]:
        """The region's inputs in this graph's own layout."""
        return [self._inputs[n] if n in self._inputs else self.own_layout(n, values[n]) for n in region.inputs]

    def read_like(self, other: Side) -> None:
        """Where one tensor is two stages here, let each region read it as the stage that the other side's region reads.

        A norm or a residual that is missing makes two taps of one tensor; which of them is read is then no difference.
        """
        twins, regions = self._twins(), {}
        for tap, region in self.regions.items():
            theirs = other.regions[tap].inputs if tap in other.regions else ()
            inputs = tuple(
                next((twin for twin in twins.get(name, ()) if twin in theirs and twin not in region.inputs), name)
                if name not in theirs and tap not in twins.get(name, ())
                else name
                for name in region.inputs
            )
            regions[tap] = replace(region, inputs=inputs)
        self.regions = regions

    def _twins(self) -> dict[str, set[str]]:
        """For each tap that is the same tensor as others, those others."""
        twins: dict[str, set[str]] = {}
        for tap, region in self.regions.items():
            if region.program.operators == ("Identity",) and len(region.inputs) == 1:
                source = region.inputs[0]
                group = twins.get(source, {source}) | {tap}
                for member in group:
                    twins[member] = group
        return {name: group - {name} for name, group in twins.items()}

    def joined(self, taps: Iterable[str], only: Iterable[str]) -> GraphSide:
        """The same side, not cut at `taps`: their regions are part of those that read them. Only some regions are made."""
        other = copy(self)
        other.regions = cut(self.artifact, set(self.taps) - set(taps), only)
        return other

    def downstream(self, tap: str) -> list[str]:
        """The taps that depend on `tap`, itself first, in graph order."""
        found = {tap}
        for name, region in self.regions.items():
            if found.intersection(region.inputs):
                found.add(name)
        return [name for name in self.regions if name in found]

    def layout(self, tap: str) -> tuple:
        """What two taps share whose values stand alike in memory: the axes, and the order of the channels."""
        return self.taps[tap].axes, tuple(self._orders.get(tap, ()))

    def own_layout(self, tap: str, value: np.ndarray) -> np.ndarray:
        if tap in self._orders:
            value = reordered(value, self._orders[tap])
        return from_canonical(value, self.taps[tap].axes, self._shapes[tap])

    def canonical(self, tap: str, own: np.ndarray) -> np.ndarray:
        """A value of a tap in this graph's own layout, in the canonical one."""
        value = to_canonical(own, self.taps[tap].axes)
        return reordered(value, np.argsort(self._orders[tap])) if tap in self._orders else value
