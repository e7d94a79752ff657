"""Edits of a graph that is fed in steps: each region is looked into at the first step that shows its fault, both graphs fed
that step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....graphs.errors import OpdiffError
from ....graphs.schedule.steps import Step
from ....graphs.taps import Source
from ...conventions.by_stage import Holds
from ...judge.locate import Local, is_equal, judge_region
from ...judge.places import first_place
from ...sides.graph_side import GraphSide
from ...sides.scheduled_side import ScheduledSide, StepSide
from .edit import Edit, Place
from .region_search import COARSE
from .search import EditSearch, Nodes
from .words import Weights


class StepwiseSearch:
    """`EditSearch` for two graphs of which one is fed in steps.

    Args:
        found: the verdict on each region.
        weights: every tensor of the checkpoint.
    """

    def __init__(self, a: ScheduledSide, b: ScheduledSide, found: Mapping[str, Local], weights: Weights) -> None:
        self._a, self._b, self._found, self._weights = a, b, found, weights
        self._by_step: dict[int, EditSearch | None] = {}
        self._steps: dict[str, int] = {}
        self._alike: ScheduledSide | None = None  # A, fed in B's steps
        self._own_steps: dict[int, StepSide] = {}  # steps of A as it is fed itself

    def edit(self, local: Local, is_named: bool = False) -> Edit | None:
        """The edit of one region at fault; None where none was found, or A keeps no cache and cannot be fed that step."""
        search = self._at(local.tap)
        if search is None:
            return None
        try:
            there = judge_region(search.a, search.b, local.tap)
        except OpdiffError:
            return None
        if there.verdict != "semantic" or there.a64 is None or not self._is_a(local, search.a, there):
            return None
        return search.edit(there, is_named)

    def agreed(self, found: Mapping[str, Local], edits: Mapping[str, Edit]) -> dict[str, Edit]:
        """The edits as they are: each was found at a step of its own."""
        return dict(edits)

    def _is_a(self, local: Local, side: GraphSide, there: Local) -> bool:
        """Whether A, fed B's step, gives what it gives as it is fed itself."""
        assert self._alike is not None
        assert local.a64 is not None
        assert there.a64 is not None
        try:
            n = self.step(local.tap)
            expected = side.canonical(local.tap, self._alike.in_step(local.tap, local.a64, n))
            return is_equal(there, there.a64, expected)
        except OpdiffError:
            return False

    def place(self, tap: str) -> Nodes:
        """Where the region parts (`EditSearch.place`); where that cannot be looked into, what makes the tap."""
        search = self._at(tap)
        if search is None:
            return self._makers(tap)
        place = (
            self._first_other(tap, search.b) if self._a.regions[tap].program == self._b.regions[tap].program else None
        )
        return search.place(tap) if place is None else search.nodes(tap, place)

    def first(self, tap: str) -> Place:
        """Where the region parts, in the two programs."""
        search = self._at(tap)
        return Place(None, None) if search is None else search.first(tap)

    def is_known(self, tap: str) -> bool:
        """Whether the two programs of this region were met before, at this step."""
        search = self._at(tap)
        return search is not None and search.is_known(tap)

    def nodes(self, tap: str, place: Place) -> Nodes:
        """The nodes of the two graphs at a place in a region's programs."""
        search = self._at(tap)
        return self._makers(tap) if search is None else search.nodes(tap, place)

    def insides(self, tap: str) -> tuple[Holds, Holds]:
        """For A's region and B's, whether it computes a value; by position none is known."""
        return _holds_nothing, _holds_nothing

    def step(self, tap: str) -> int:
        """The first step of B in which a region differs by more than rounding."""
        if tap not in self._steps:
            self._steps[tap] = self._b.step_of(tap, first_place(self._found[tap], self._b.taps[tap].axes))
        return self._steps[tap]

    def _first_other(self, tap: str, fed: GraphSide) -> Place | None:
        """Of one program that A and B run, fed in other steps: the first node whose value is another at the same positions.

        fed: B, fed the step that shows the fault.
        """
        theirs = self._b.steps[self.step(tap)]
        m = self._a.step_at(theirs.start)
        stepper = self._b.stepper()
        try:
            if m not in self._own_steps:
                self._own_steps[m] = StepSide(self._a, m, self._a.values)
            a, b = (side.network(tap, side.values, stepper) for side in (self._own_steps[m], fed))
        except OpdiffError:
            return None
        shared = Shared(self._a.steps[m], theirs)
        for step in b.steps:
            left, right = a.array(step.outputs[0]), b.array(step.outputs[0])
            if left is not None and right is not None and shared.are_apart(left, right):
                return Place(step.index, step.index)
        return None

    def _at(self, tap: str) -> EditSearch | None:
        n = self.step(tap)
        if n not in self._by_step:
            try:
                self._alike = self._alike or self._a.fed_as(self._b)
                a, b = (StepSide(side, n, self._a.values) for side in (self._alike, self._b))
                self._by_step[n] = EditSearch(a, b, self._weights, self._found)
            except OpdiffError:
                self._by_step[n] = None
        return self._by_step[n]

    def _makers(self, tap: str) -> tuple[Source | None, Source | None]:
        return self._a.taps[tap].node, self._b.taps[tap].node


@dataclass(frozen=True, slots=True)
class Shared:
    """The positions that a step of A and one of B have in common: arrays of both are compared there."""

    a: Step
    b: Step

    def are_apart(self, left: np.ndarray, right: np.ndarray) -> bool:
        """Whether two arrays of the same value differ there; not where their shapes do not tell which places are which."""
        if left.ndim != right.ndim or left.ndim == 0:
            return False
        for axis, (n_left, n_right) in enumerate(zip(left.shape, right.shape, strict=True)):
            if n_left == n_right:
                continue
            sizes, first = (n_left, n_right), 0
            if sizes == (self.a.n_columns, self.b.n_columns):
                first = self.b.start - self.a.start
            elif sizes != (self.a.n_keys, self.b.n_keys):
                return False
            n = min(n_left - first, n_right)
            left = np.take(left, range(first, first + n), axis)
            right = np.take(right, range(n), axis)
        return not np.allclose(left, right, rtol=COARSE, atol=0, equal_nan=True)


def _holds_nothing(value: np.ndarray) -> bool:
    return False
