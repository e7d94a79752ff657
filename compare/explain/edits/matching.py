"""Which values of B are values of A, on identical inputs: by their numbers, in whatever layout."""

from __future__ import annotations

import numpy as np

from ....graphs.network import Network, Value
from ....graphs.stepping import FLOAT, Typed, is_stored
from ...align.arrangement import Plan, arrangement, plain
from ...align.values import Match
from ...measure import squared

_DEEPEST = 4  # steps above a value, of which it may have its layout
_LARGE = 1 << 20  # elements of a weight that is compared as it is stored


class Numbers:
    """The numbers of a network's values, plain, with a fingerprint that no layout changes."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._plain: dict[str, np.ndarray | None] = {}
        self._prints: dict[str, tuple[int, int, float, float]] = {}

    def plain(self, name: str) -> np.ndarray | None:
        """A value's numbers; None where it cannot be made."""
        if name not in self._plain:
            made = self._network.array(name)
            self._plain[name] = None if made is None else plain(made)
        return self._plain[name]

    def fingerprint(self, name: str) -> tuple[int, int, float, float]:
        """The count, how many are not finite, and the roots of the sums of squares and of fourth powers."""
        if name not in self._prints:
            array = self.plain(name)
            assert array is not None
            flat = np.asarray(array, np.float64).ravel()
            finite = flat[np.isfinite(flat)]
            squares = finite * finite
            self._prints[name] = (
                flat.size,
                flat.size - finite.size,
                float(np.sqrt(squares.sum())),
                squared(squares) ** 0.5,
            )
        return self._prints[name]


class Matching:
    """Matches B's values with A's.

    Args:
        nearness: how near two values must be, relative to their size.
    """

    def __init__(self, a: Network, b: Network, a_numbers: Numbers, b_numbers: Numbers, nearness: float) -> None:
        self.a, self.b, self.nearness = a, b, nearness
        self.a_numbers, self.b_numbers = a_numbers, b_numbers
        self._known: dict[str, Match | None] = {}
        self._plans: dict[tuple[str, str], Plan | None] = {}
        self._among: dict[tuple, list[Value]] = {}
        for value in a.values.values():
            made = a.typed(value.name)
            if made is not None:
                self._among.setdefault(_class(value, made), []).append(value)

    def match(self, name: str) -> Match | None:
        """The value of A that this value of B is: best in the same layout, of the same kind, of the same name."""
        if name not in self._known:
            self._known[name] = self._found(self.b.values[name])
        return self._known[name]

    def _found(self, theirs: Value) -> Match | None:
        made = self.b.typed(theirs.name)
        if made is None:
            return None
        best: tuple[tuple, Match] | None = None
        for ours in self._among.get(_class(theirs, made), ()):
            plan = self._plan(ours, theirs)
            if plan is not None:
                rank = len(plan), ours.kind != theirs.kind, ours.label != theirs.label
                if best is None or rank < best[0]:
                    best = rank, Match(ours.name, plan)
        return None if best is None else best[1]

    def _plan(self, ours: Value, theirs: Value) -> Plan | None:
        left, right = self.a.typed(ours.name), self.b.typed(theirs.name)
        assert left is not None
        assert right is not None
        if _is_same_memory(left.array, right.array):
            return ()
        if max(left.array.size, right.array.size) > _LARGE and (is_stored(left) or is_stored(right)):
            is_equal = left.array.shape == right.array.shape and bool(np.array_equal(left.array, right.array))
            return () if is_equal else None
        if not self._is_alike(ours.name, theirs.name):
            return None
        return self.plan(ours.name, theirs.name)

    def plan(self, ours: str, theirs: str) -> Plan | None:
        """How A's value becomes B's by moving its numbers."""
        if (ours, theirs) not in self._plans:
            self._plans[ours, theirs] = self._planned(ours, theirs)
        return self._plans[ours, theirs]

    def layout(self, ours: str, theirs: str) -> Plan:
        """How a value of A of other numbers would be laid out to stand in place of B's: as what the steps that make them read
        of their shapes is. As it stands where that cannot be told.
        """
        return self._laid_out(ours, theirs, _DEEPEST) or ()

    def _laid_out(self, ours: str, theirs: str, depth: int) -> Plan | None:
        plan = self.plan(ours, theirs)
        left, right = self.a.values[ours].maker, self.b.values[theirs].maker
        if plan is not None or left is None or right is None or not depth:
            return plan
        reads = [
            [name for name in step.operands if _is_data_of_shape(network, name, made)]
            for network, step, made in ((self.a, left, ours), (self.b, right, theirs))
        ]
        found = (self._laid_out(one, other, depth - 1) for one in reads[0] for other in reads[1])
        return next((plan for plan in found if plan is not None), None)

    def _planned(self, ours: str, theirs: str) -> Plan | None:
        a, b = self.a.array(ours), self.b.array(theirs)
        if a is None or b is None or _is_same_memory(a, b):
            return None if a is None or b is None else ()
        left, right = self.a_numbers.plain(ours), self.b_numbers.plain(theirs)
        return None if left is None or right is None else arrangement(left, right, self.nearness)

    def _is_alike(self, ours: str, theirs: str) -> bool:
        a, b = self.a_numbers.fingerprint(ours), self.b_numbers.fingerprint(theirs)
        far = 4 * max(self.nearness, 1e-11)
        return a[:2] == b[:2] and all(abs(a[n] - b[n]) <= far * max(a[n], b[n]) for n in (2, 3))


def _class(value: Value, made: Typed) -> tuple:
    """What two values must share to be compared at all: constants are only ever constants, a bfloat16 no double."""
    return made.array.size, made.type if made.type == FLOAT else made.array.dtype.kind + made.type, value.is_data


def _is_data_of_shape(network: Network, name: str, other: str) -> bool:
    left, right = network.array(name), network.array(other)
    return left is not None and right is not None and left.shape == right.shape and network.values[name].is_data


def _is_same_memory(a: np.ndarray, b: np.ndarray) -> bool:
    ours, theirs = ((x.ctypes.data, x.shape, x.strides, x.dtype) for x in (a, b))
    return ours == theirs
