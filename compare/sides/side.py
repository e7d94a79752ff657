"""What every side of a comparison has: its values of the common taps, and the regions between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Self

import numpy as np

from ...graphs.artifact import Artifact
from ...graphs.facts import tokenizer_named
from ...graphs.regions import Region
from ...graphs.schedule.steps import WHOLE, Schedule, Step
from ...graphs.taps import Tap
from ...graphs.trace import Trace
from ..result import SideInfo

Values = Mapping[str, np.ndarray]


class Side:
    """The values of the common taps, canonical, and the regions between them.

    Args:
        info: where it comes from.
        taps: the common taps, by name.
        regions: what is computed between them. A trace's are not known; it has those of the graph beside it.
        values: canonical, by tap name.

    `spans` are the positions (start, end) of each step in which it was fed, and `ends` those at which caches are looked at;
    of one that was fed all at once, none. `n_others` is how many columns stand behind the keys of its scores that are no position;
    `first_position` that of its first token. `schedule` and `steps` say how it was fed; a side of a comparison of whole prompts
    has no steps.
    """

    schedule: Schedule = WHOLE
    steps: tuple[Step, ...] = ()

    def __init__(
        self, info: SideInfo, taps: Mapping[str, Tap], regions: Mapping[str, Region], values: dict[str, np.ndarray]
    ) -> None:
        self.info, self.taps, self.regions, self.values = info, taps, regions, values
        self.spans: tuple[tuple[int, int], ...] = ()
        self.ends: tuple[int, ...] = ()
        self.n_others = 0
        self.first_position = 0
        self._orders: dict[str, Sequence[int]] = {}

    @property
    def name(self) -> str:
        return self.info.name

    def step_of(self, tap: str, row: int) -> int:
        """The step to which a place along `token`, or `slot`, of a tap's value belongs."""
        if "slot" in self.taps[tap].axes and self.ends:
            row = self.ends[int(np.searchsorted(np.cumsum(self.ends), row, side="right"))] - 1
        return self.step_at(row)

    def step_at(self, position: int) -> int:
        """The step that is fed a position."""
        return next(n for n, step in enumerate(self.steps) if step.end > position)

    def readers(self, taps: Iterable[str]) -> list[str]:
        """The taps outside of `taps` whose regions read one of them."""
        group = set(taps)
        found = {reader for tap in group for reader in self._readers.get(tap, ())} - group
        return sorted(found, key=self._order.__getitem__)

    @property
    def regions(self) -> Mapping[str, Region]:
        return self._regions

    @regions.setter
    def regions(self, regions: Mapping[str, Region]) -> None:
        self._regions = regions
        self._order = {tap: n for n, tap in enumerate(regions)}
        self._readers: dict[str, list[str]] = {}
        for tap, region in regions.items():
            for name in set(region.inputs):
                self._readers.setdefault(name, []).append(tap)

    def reads(self, tap: str) -> tuple[str, ...]:
        """The taps that a region reads."""
        return tuple(name for name in self.regions[tap].inputs if name in self.regions)

    def with_orders(self, orders: Mapping[str, Sequence[int]]) -> Self:
        """The same side, whose channels stand in these orders within each head: channel i holds the other side's order[i]."""
        other = copy(self)
        other._orders = {**self._orders, **orders}
        other.values = {**self.values, **reordered_all(self.values, orders)}
        return other


def info_of(name: str, one: Artifact | Trace) -> SideInfo:
    """Where a graph or a trace comes from."""
    tokenizer = tokenizer_named(one.path, one.facts)
    checkpoint = one.facts.get("checkpoint")
    return SideInfo(
        name, str(one.path), one.runtime, one.sha256, checkpoint, None if tokenizer is None else str(tokenizer)
    )


def in_steps(info: SideInfo, schedule: Schedule) -> SideInfo:
    """The same, whose name says in which steps it was fed, where it was not fed whole."""
    return info if schedule.is_whole else replace(info, name=f"{info.name}[{schedule.text}]")


def reordered_all(values: Values, orders: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Those values that have an order, each back in the other side's."""
    return {tap: reordered(values[tap], np.argsort(order)) for tap, order in orders.items()}


def reordered(value: np.ndarray, order: Sequence[int] | np.ndarray) -> np.ndarray:
    """The channels of each head in this order; the last axis holds one head's, or all heads' one after the other."""
    return value.reshape(-1, len(order))[:, np.asarray(order)].reshape(value.shape)
