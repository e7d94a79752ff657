"""Inside a piece: which single value of A, if it were one of B's, makes A's own steps give B's result.

It sees through steps that are written otherwise: whatever stands behind the value need not be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations

import numpy as np

from ....graphs.stepping import Typed
from ...align.arrangement import Plan, arrangement, is_close, plain, squeezed
from .alignment import Alignment
from .merged import Cut

Pair = tuple[str, str]
_SINGLES, _NEAREST, _PAIRS, _WORDED = 250, 14, 60, 1000


class CutSearch:
    """Looks for cuts below a value of A that stands for one of B.

    Args:
        cost: what a pair of values is worth: the lower, the sooner it is tried.
        is_spent: whether no more may be tried.
        with_tables: whether a table, which hangs on no data, may be cut too.
    """

    def __init__(
        self, alignment: Alignment, cost: Callable[[Pair], float], is_spent: Callable[[], bool], with_tables: bool
    ) -> None:
        self._alignment, self._cost, self._is_spent, self._with_tables = alignment, cost, is_spent, with_tables
        self._a, self._b = alignment.a, alignment.b

    def found(self, ours: str, theirs: str) -> Iterator[Cut]:
        """Cuts at one pair of values, or two, from which A's steps up to `ours` give what `theirs` is, as near as values
        match.
        """
        wanted = self._alignment.matching.b_numbers.plain(theirs)
        if wanted is None:
            return
        near: list[tuple[float, Pair]] = []
        for pair in sorted(self._simplest(self._candidates(ours, theirs)), key=self._cost)[:_SINGLES]:
            if self._is_spent():
                return
            got = self._run([pair], ours)
            if got is None or got.size != wanted.size:
                continue
            plan = self._plan(got, wanted)
            if plan is not None:
                yield Cut(ours, (pair,), plan)
            elif squeezed(got.shape) == squeezed(wanted.shape):
                near.append((_distance(got, wanted), pair))
        best = [pair for _, pair in sorted(near, key=lambda one: one[0])[:_NEAREST]]
        pairs = [pair for pair in combinations(best, 2) if pair[0][0] != pair[1][0]]
        for two in sorted(pairs, key=lambda pair: self._cost(pair[0]) + self._cost(pair[1]))[:_PAIRS]:
            if self._is_spent():
                return
            got = self._run(two, ours)
            plan = self._plan(got, wanted) if got is not None and got.size == wanted.size else None
            if plan is not None:
                yield Cut(ours, two, plan)

    def _simplest(self, pairs: Iterable[Pair]) -> list[Pair]:
        """Of very many pairs, those that hang on the fewest values: to put them all in words takes too long."""
        found = list(pairs)
        if len(found) <= _WORDED:
            return found
        a, b, shared = self._a, self._b, self._alignment.shared
        at_a = {ours: sum(1 for _ in a.cone(ours, shared - {ours})) for ours in {ours for ours, _ in found}}
        at_b = {theirs: sum(1 for _ in b.cone(theirs)) for theirs in {theirs for _, theirs in found}}
        return sorted(found, key=lambda pair: at_a[pair[0]] + at_b[pair[1]])[:_WORDED]

    def _candidates(self, ours: str, theirs: str) -> Iterator[Pair]:
        """Values of one size on both sides, moved ones too, that are not equal."""
        numbers_a, numbers_b = self._alignment.matching.a_numbers, self._alignment.matching.b_numbers
        stops = {name for name in self._b.cone(theirs) if self._alignment.match(name) is not None}
        left = [
            name for name in self._a.cone(ours, self._alignment.shared) if name != ours and self._may_be_cut("a", name)
        ]
        right = [name for name in self._b.cone(theirs, stops) if name != theirs and self._may_be_cut("b", name)]
        for one in left:
            a = numbers_a.plain(one)
            for other in right:
                b = numbers_b.plain(other)
                if a is None or b is None or a.size != b.size or squeezed(a.shape) != squeezed(b.shape):
                    continue
                if a.dtype.kind == b.dtype.kind and not is_close(
                    a.ravel(), b.ravel(), self._alignment.matching.nearness
                ):
                    yield one, other

    def may_begin(self, ours: str, theirs: str) -> bool:
        """Whether two values, made by steps on both sides, are ones below which cuts are looked for."""
        is_made = self._a.values[ours].maker is not None and self._b.values[theirs].maker is not None
        if not is_made or self._alignment.match(theirs) is not None or not self._may_be_cut("a", ours):
            return False
        return self._a.array(ours) is not None and self._b.array(theirs) is not None

    def _may_be_cut(self, side: str, name: str) -> bool:
        """Data, and, with tables, these."""
        network = self._a if side == "a" else self._b
        value = network.values[name]
        if value.kind == "constant":
            return False
        if value.is_data or not self._with_tables:
            return value.is_data
        array = network.array(name)
        return array is not None and array.size > 1

    def _run(self, pairs: tuple[Pair, ...] | list[Pair], target: str) -> np.ndarray | None:
        given = {}
        for ours, theirs in pairs:
            left, right = self._a.typed(ours), self._b.typed(theirs)
            if left is None or right is None:
                return None
            given[ours] = Typed(right.array.reshape(left.array.shape), right.type)
        made = self._a.rerun(given, target)
        return None if made is None else plain(made.array)

    def _plan(self, got: np.ndarray, wanted: np.ndarray) -> Plan | None:
        return arrangement(got, wanted, self._alignment.matching.nearness)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        difference = (a.ravel() - b.ravel()) if a.dtype.kind == "f" else (a.ravel() != b.ravel()).astype(np.float64)
        return float(np.sum(np.square(difference[np.isfinite(difference)])))
