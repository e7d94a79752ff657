"""A trace as a side: the values of a runtime that cannot be run again, so that the other side is run on them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...graphs.axes import to_canonical
from ...graphs.schedule.placing import looked_at
from ...graphs.trace import Trace
from .graph_side import GraphSide
from .side import Side, info_of


class TraceSide(Side):
    """What a runtime recorded.

    Args:
        trace: the runtime's values.
        beside: the graph with which it is compared.
    """

    def __init__(self, trace: Trace, beside: GraphSide) -> None:
        name = trace.name if trace.schedule.is_whole else f"{trace.name}[{trace.schedule.text}]"
        info = info_of(name, trace)
        taps = {tap: trace.taps[tap] for tap in beside.regions if tap in trace.taps}
        values = {tap: to_canonical(trace.values[tap], taps[tap].axes) for tap in taps}
        steps = () if not beside.spans else trace.schedule.steps(len(beside.tokens))
        own_ends = [step.end for step in steps]
        for tap in taps:
            if "slot" in taps[tap].axes and steps:
                values[tap] = looked_at(values[tap], own_ends, beside.ends)
        super().__init__(info, taps, {tap: beside.regions[tap] for tap in taps}, values)
        self.schedule, self.steps = trace.schedule, steps
        self.spans, self.ends = tuple((step.start, step.end) for step in steps), beside.ends
        self._units = {tap: trace.units[tap] for tap in taps}

    def unit(self, tap: str) -> float:
        """How far, relative to its size, a recorded value may lie from what the runtime had: its type's rounding."""
        return self._units[tap]

    def rounded_otherwise(self, taps: Iterable[str]) -> dict[str, np.ndarray]:
        """All values, with these ones moved by their type's rounding, up or down by chance (seeded): float64."""
        chance = np.random.default_rng(0)
        moved = {}
        for tap in taps:
            value = self.values[tap].astype(np.float64)
            moved[tap] = value * (1 + self._units[tap] * chance.choice((-1.0, 1.0), value.shape))
        return {**self.values, **moved}


def replayed(a: Side, b: Side) -> Side:
    """The side on whose values regions are replayed: A, but for a trace as B, which is right on its own values only."""
    return b if isinstance(b, TraceSide) else a


def runnable(a: Side, b: Side) -> GraphSide:
    """A side that can be run: A, but for a trace as A."""
    side = b if isinstance(a, TraceSide) else a
    assert isinstance(side, GraphSide)
    return side


def joined(side: Side, taps: Iterable[str], only: Iterable[str]) -> Side:
    """The same side, not cut at `taps` (`GraphSide.joined`); what a trace recorded stays as it is."""
    return side.joined(taps, only) if isinstance(side, GraphSide) else side
