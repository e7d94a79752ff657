"""Edits of a graph that is fed in steps: each region is looked into at the first step that shows its fault, both graphs fed
that step.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ....graphs.errors import OpdiffError
from ....graphs.taps import Source
from ...conventions.by_stage import Holds
from ...judge.locate import Local, judge_region
from ...judge.places import places_apart
from ...sides.scheduled_side import ScheduledSide, StepSide
from .edit import Edit, Place
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

    def edit(self, local: Local, is_named: bool = False) -> Edit | None:
        """The edit of one region at fault; None where none was found, or A keeps no cache and cannot be fed that step."""
        search = self._at(local.tap)
        if search is None:
            return None
        try:
            there = judge_region(search.a, search.b, local.tap)
        except OpdiffError:
            return None
        return search.edit(there, is_named) if there.verdict == "semantic" else None

    def place(self, tap: str) -> Nodes:
        """Where the region parts (`EditSearch.place`); where that cannot be looked into, what makes the tap."""
        search = self._at(tap)
        return self._makers(tap) if search is None else search.place(tap)

    def first(self, tap: str) -> Place:
        """Where the region parts, in the two programs."""
        search = self._at(tap)
        return (None, None) if search is None else search.first(tap)

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
            axes = self._b.taps[tap].axes
            apart = places_apart(self._found[tap], axes, "slot" if "slot" in axes else "token")
            first = 0 if apart is None or not apart.any() else int(np.argmax(apart))
            self._steps[tap] = self._b.step_of(tap, first)
        return self._steps[tap]

    def _at(self, tap: str) -> EditSearch | None:
        n = self.step(tap)
        if n not in self._by_step:
            try:
                fed_alike = self._a.fed_as(self._b)
                a, b = (StepSide(side, n, self._a.values) for side in (fed_alike, self._b))
                self._by_step[n] = EditSearch(a, b, self._weights)
            except OpdiffError:
                self._by_step[n] = None
        return self._by_step[n]

    def _makers(self, tap: str) -> tuple[Source | None, Source | None]:
        return self._a.taps[tap].node, self._b.taps[tap].node


def _holds_nothing(value: np.ndarray) -> bool:
    return False
