"""Edits against a trace, or against a graph in other steps: changes of a graph's region are tried on the values on which it
is replayed, and proved on what the other side gives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np

from ....graphs.errors import OpdiffError
from ....graphs.stages import split_tap_name
from ...judge.locate import Local, is_scores
from ...measure import distance
from ...sides.graph_side import GraphSide
from ...sides.side import Values
from ..relations import is_law, relations_of
from .edit import WORK, Edit, Place
from .keys import key_of, short_name
from .solved import solved
from .trials import Region, Trial, trials
from .words import Line, Weights

_MOST_OTHERS = 3  # of the changes that fit as well, so many are told
# Of the difference: what may be left at most, whatever the floor; of one against a trace, and against a graph, which is exact.
_SHARE, _SHARE_OF_EXACT = 1 / 3, 1e-2


class TrialSearch:
    """Finds changes of a graph's regions that give what the other side has.

    Args:
        graph: the side that can be run.
        values: those on which the regions are replayed.
        is_told_of_a: whether the graph is A: the change is then one of A, else the other way round.
        weights: every tensor of the checkpoint.
        is_exact: whether the other side is a graph too, and its values are in double precision.
    """

    def __init__(
        self, graph: GraphSide, values: Values, is_told_of_a: bool, weights: Weights, is_exact: bool = False
    ) -> None:
        self._graph, self._values, self._is_told_of_a, self._weights = graph, values, is_told_of_a, weights
        self._share = _SHARE_OF_EXACT if is_exact else _SHARE
        self._stepper = graph.stepper()
        self._seen: dict[tuple[str, str], str] = {}  # by program and stage, the key of what was found before

    def edit(self, local: Local) -> Edit | None:
        """The change of one region at fault; None where none was found."""
        recorded = local.b64 if self._is_told_of_a else local.a64
        if recorded is None:
            return None
        block, stage = split_tap_name(local.tap)
        try:
            network = self._graph.network(local.tap, self._values, self._stepper)
        except OpdiffError:
            return None
        region = Region(network, len(self._graph.tokens), lambda label: short_name(label, block))
        limit = min(local.reach, self._share * local.error)

        def left(made: np.ndarray | None) -> float:
            if made is None:
                return float("inf")
            try:
                return distance(recorded, self._graph.canonical(local.tap, made), is_scores(local.tap))
            except (OpdiffError, ValueError):
                return float("inf")

        key = self._graph.regions[local.tap].program.signature, stage
        hits = self._hits(region, local, recorded, self._seen.get(key), left, limit)
        if not hits:
            return self._of_the_output(local)
        (_, rest, trial), *others = sorted(hits, key=lambda hit: hit[0])
        self._seen[key] = trial.key
        place = None if trial.step is None else trial.step.index
        line = Line(trial.text, key_of(trial.key, local.tap, [network.region], self._graph.stream), len(trial.text))
        at = Place(place, None) if self._is_told_of_a else Place(None, place)
        also = tuple(dict.fromkeys(o.text for _, _, o in others if o.text != trial.text))[:_MOST_OTHERS]
        return Edit((line,), (at,), 1, rest / local.error, also)

    def _of_the_output(self, local: Local) -> Edit | None:
        """What the recorded value is of the region's, where one law gives it."""
        law = next(filter(is_law, relations_of(local, self._graph)), None)
        if law is None:
            return None
        text = f"what comes out is {law}"
        return Edit((Line(text, re.sub(r"\d[\d.e+-]*", "n", text), len(text)),), (Place(None, None),), 1, 0.0)

    def _hits(
        self,
        region: Region,
        local: Local,
        recorded: np.ndarray,
        before: str | None,
        left: Callable[[np.ndarray | None], float],
        limit: float,
    ) -> list[tuple[int, float, Trial]]:
        """The trials that fit, with their rank and what they leave; only what fitted a block before, where it fits."""
        until, hits = self._stepper.work + WORK, list[tuple[int, float, Trial]]()
        for trial in self._in_order(region, local, recorded, before, lambda made: left(made) <= limit):
            if self._stepper.work > until:
                break
            with np.errstate(all="ignore"):
                rest = left(trial.make())
            if rest <= limit:
                hits.append((trial.rank, rest, trial))
                if trial.key == before:
                    break
        return hits

    def _in_order(
        self,
        region: Region,
        local: Local,
        recorded: np.ndarray,
        before: str | None,
        is_met: Callable[[np.ndarray | None], bool],
    ) -> Iterator[Trial]:
        """The trials; first those that were found for the same program in another block."""
        own = self._graph.own_layout(local.tap, np.asarray(recorded, np.float64))
        plain = list(trials(region, self._weights))
        yield from (trial for trial in plain if trial.key == before)
        yield from (trial for trial in plain if trial.key != before)
        yield from solved(region, own, is_met)
