"""Run a side from the tokens on, as it is and with changes, side by side. What a change does not touch is run once."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...graphs.errors import InputError, OpdiffError
from ...graphs.progress import counted
from ...graphs.run import Precision, execution_order
from ..sides.graph_side import GraphSide
from ..sides.side import Values

Ran = dict[str, np.ndarray] | OpdiffError


@dataclass(frozen=True)
class Change:
    """The changes of one run: taps whose region another side runs instead, and taps whose value is set."""

    mended: Mapping[str, GraphSide] = field(default_factory=dict)
    given: Values = field(default_factory=dict)


def run_changed(
    side: GraphSide,
    changes: Sequence[Change],
    wanted: Iterable[str],
    precision: Precision,
    known: Values | None = None,
    by_difference: bool = False,
) -> list[Ran]:
    """Run a side as it is, and once for each change; return the wanted taps of each run, or the error of a run that fails.

    Only what the wanted taps depend on is run, and dropped when nothing reads it any more. Each weight is read once for all runs.

    Args:
        known: the values of the side as it is, where they are known.
        by_difference: only the differences between the runs matter: each is good to seven digits, however small it is,
            while what all runs share may be rounded as in float32.
    """
    wanted = set(wanted)
    first = _Run(side, Change(given=known or {}))
    runs = [first, *(_Run(side, change, first) for change in changes)]
    order = _order(runs, wanted)
    if order is not None:
        return _run_in_order(runs, order, wanted, precision, by_difference)
    alone = [first, *(_Run(side, change) for change in changes)]  # for what changes the order, none may suit all
    return [
        InputError("the regions of both sides read each other in a circle")
        if (own := _order([run], wanted)) is None
        else _run_in_order([run], own, wanted, precision, False)[0]
        for run in alone
    ]


class _Run:
    """One run on its way; what is the same in the side as it is, it reads from there."""

    def __init__(self, side: GraphSide, change: Change, base: _Run | None = None) -> None:
        self.change, self.base = change, base
        self.by = {tap: change.mended.get(tap, side) for tap in side.regions if tap not in change.given}
        self.reads = {tap: [n for n in by.regions[tap].inputs if n in side.regions] for tap, by in self.by.items()}
        self.own = dict(change.given)
        self.values: Mapping[str, np.ndarray] = self.own if base is None else ChainMap(self.own, base.own)
        self._failure: OpdiffError | None = None
        self._other = set(change.given)

    @property
    def failure(self) -> OpdiffError | None:
        """Why it, or what it reads from, could not run on."""
        return self._failure or (None if self.base is None else self.base.failure)

    def take(self, tap: str, value: np.ndarray | OpdiffError) -> None:
        """Keep the result of the tap's region, or its error."""
        if isinstance(value, OpdiffError):
            self._failure = value
        else:
            self.own[tap] = value

    def has_own(self, tap: str) -> bool:
        """Whether the tap is to be run here. Asked in the order of execution."""
        if tap not in self.by or self.failure is not None:
            return False
        if self.base is None or tap in self.change.mended or not self._other.isdisjoint(self.reads[tap]):
            self._other.add(tap)
            return True
        return False


def _order(runs: Sequence[_Run], wanted: Iterable[str]) -> list[str] | None:
    """An order in which all runs can run what the wanted taps depend on; None where there is none."""
    reads: dict[str, list[str]] = {}
    for run in runs:
        for tap, names in run.reads.items():
            reads.setdefault(tap, []).extend(names)
    return execution_order(_needed(reads, wanted))


def _run_in_order(
    runs: Sequence[_Run], order: Sequence[str], wanted: set[str], precision: Precision, by_difference: bool
) -> list[Ran]:
    """Run tap by tap; a value goes when nothing that is left to run reads it."""
    last_reader = {name: tap for tap in order for run in runs for name in (tap, *run.reads.get(tap, ()))}
    going: dict[str, list[str]] = {}
    for name, tap in last_reader.items():
        going.setdefault(tap, []).append(name)
    for tap in counted(order):
        active = [n for n, run in enumerate(runs) if run.has_own(tap)]
        programs = [runs[n].by[tap].running(tap, runs[n].values, precision) for n in active]
        if programs:
            found = runs[active[0]].by[tap].together(programs, by_difference)
            for n, value in zip(active, found, strict=True):
                runs[n].take(tap, value)
        for name in going.get(tap, ()):
            if name not in wanted:
                for run in runs:
                    run.own.pop(name, None)
    return [run.failure or {tap: run.values[tap] for tap in wanted} for run in runs]


def _needed(reads: Mapping[str, Sequence[str]], wanted: Iterable[str]) -> dict[str, Sequence[str]]:
    """Of what each tap reads, the part on which the wanted ones depend."""
    needed: dict[str, Sequence[str]] = {}
    stack = [tap for tap in wanted if tap in reads]
    while stack:
        tap = stack.pop()
        if tap not in needed:
            needed[tap] = reads[tap]
            stack.extend(name for name in reads[tap] if name in reads)
    return needed
