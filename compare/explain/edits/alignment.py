"""Which steps of B are steps of A: backward from the outputs, by equal steps on operands that stand for each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import permutations

import numpy as np

from ....graphs.network import Step
from .matching import Match, Matching

_ANY_ORDER = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum"})
_SAME, _LEAVES, _LIKE, _OTHER = 3.0, 1.5, 1.0, -1.0
_PER_SHARED = 0.1  # of two steps that only are alike: an operand that both read
_CHANGED, _PER_SAME, _PER_GOOD = 0.4, 0.3, 0.1  # of a common subsequence: a step with other settings, and its operands


Pairs = Mapping[int, tuple[int, tuple[int, ...]]]


class Alignment:
    """Pairs of steps, one to one; `orders` says which of A's operands each of B's stands for.

    Only steps that lie between the outputs and values that both sides have are paired: `between_a`, `between_b`.

    Args:
        matching: which values both have.
        refused: values of B that stand for none of A's, whatever their numbers are.
        with_pairs: whether what a pair makes counts as one value, as in a loop, whose turns all read the one before.
    """

    def __init__(self, matching: Matching, refused: frozenset[str] = frozenset(), with_pairs: bool = False) -> None:
        self.matching, self.a, self.b, self.with_pairs = matching, matching.a, matching.b, with_pairs
        self.partner: dict[int, Step] = {}
        self.orders: dict[int, tuple[int, ...]] = {}
        self._used: set[int] = set()
        self._refused = set(refused)
        self.between_b = self._between_b()
        self.between_a = self._between_a()

    def match(self, name: str) -> Match | None:
        """The value of A that a value of B is; the two outputs are never one, for they differ."""
        found = None if self.b.base(name) in self._refused else self.matching.match(name)
        if found is None or self.b.base(name) != self.b.base(self.b.output):
            return found
        return None if self.a.base(found.name) == self.a.base(self.a.output) else found

    @property
    def shared(self) -> frozenset[str]:
        """The values of A at which B's unmatched steps end, and what these are without their moves."""
        return self._shared

    def is_elsewhere(self, ours: str, theirs: str) -> bool:
        """Whether B has both values of A, and only reads another of them."""
        match, ours = self.match(self.b.base(theirs)), self.a.base(ours)
        return match is not None and self.a.base(match.name) != ours and self.has(ours)

    @property
    def unmatched(self) -> frozenset[str]:
        """The values between that B alone has."""
        return frozenset(
            name for step in self.between_b for name in step.outputs if not step.is_move and self.match(name) is None
        )

    def is_extra(self, ours: str, theirs: str) -> bool:
        """Whether B makes its value of A's, so that A has no step of its own there."""
        return any(self.are_one(ours, end) for end in self._ends(theirs))

    def are_one(self, ours: str, other: str) -> bool:
        """Whether two values of A are one, or the same numbers, as what is added to zeros is."""
        ours, other = self.a.base(ours), self.a.base(other)
        if ours == other:
            return True
        a, b = self.a.array(ours), self.a.array(other)
        return a is not None and b is not None and a.size > 1 and np.array_equal(a, b)

    def paired(self, theirs: str) -> str | None:
        """The value of A whose step is paired with the one that makes a value of B, where that counts as one value."""
        maker = self.b.values[theirs].maker
        partner = None if maker is None or not self.with_pairs else self.partner.get(maker.number)
        return None if maker is None or partner is None else partner.outputs[maker.outputs.index(theirs)]

    def _ends(self, theirs: str) -> set[str]:
        """The values of A at which B's value ends, that are no constants."""
        found, top = set(), self.b.base(theirs)
        for base, match in self._down_from(theirs, to_pairs=True):
            ours = match.name if match is not None else None if base == top else self.paired(base)
            if ours is not None and self.b.values[base].kind != "constant":
                found.add(self.a.base(ours))
        return found

    def _down_from(self, theirs: str, to_pairs: bool = False) -> Iterator[tuple[str, Match | None]]:
        """B's values from one on, without their moves, down to those that A has: each with its match.

        to_pairs: whether what a pair makes ends it too, but for the first.
        """
        seen: set[str] = set()
        top = self.b.base(theirs)
        stack = [top]
        while stack:
            base = self.b.base(stack.pop())
            if base in seen:
                continue
            seen.add(base)
            match, maker = self.match(base), self.b.values[base].maker
            yield base, match
            is_end = to_pairs and base != top and self.paired(base) is not None
            if match is None and maker is not None and not is_end:
                stack.extend(maker.operands)

    def has(self, ours: str) -> bool:
        """Whether a value of A is one of B too."""
        return self.a.base(ours) in self._of_both

    @cached_property
    def _of_both(self) -> frozenset[str]:
        found = map(self.match, self.b.cone(self.b.output))
        return frozenset(self.a.base(match.name) for match in found if match is not None)

    def _between_b(self) -> list[Step]:
        steps: dict[int, Step] = {}
        met: set[str] = set()
        for base, match in self._down_from(self.b.output):
            maker = self.b.values[base].maker
            if match is not None:
                met |= {match.name, self.a.base(match.name)}
            elif maker is not None:
                steps[maker.number] = maker
        self._shared = frozenset(met)
        return [steps[number] for number in sorted(steps)]

    def _between_a(self) -> list[Step]:
        steps: dict[int, Step] = {}
        seen: set[str] = set()
        stack = [self.a.output]
        while stack:
            base = self.a.base(stack.pop())
            maker = self.a.values[base].maker
            if base in seen or (base in self._shared and base != self.a.base(self.a.output)) or maker is None:
                continue
            seen.add(base)
            steps[maker.number] = maker
            stack.extend(maker.operands)
        return [steps[number] for number in sorted(steps)]

    @property
    def pairs(self) -> Pairs:
        """B's steps that have a partner in A, its number, and which of A's operands each of B's stands for."""
        return {number: (ours.number, self.orders[number]) for number, ours in self.partner.items()}

    def pair_as(self, pairs: Pairs) -> None:
        """Pair the steps that are pairs elsewhere, of the same two programs, as far as they lie between here."""
        between_a, between_b = ({step.number: step for step in steps} for steps in (self.between_a, self.between_b))
        for number, (ours, order) in pairs.items():
            if number in between_b and ours in between_a:
                self.partner[number], self.orders[number] = between_a[ours], order
                self._used.add(ours)

    def walk(self) -> None:
        """Pair steps from the outputs up, as long as they are equal.

        Where a step of B gives what another step of A gives, but stands where A has such a step that reads something else
        (`score.gather(i)` for `weight.gather(i)`), it is paired with that, as it is written.
        """
        while (theirs := self._walked()) is not None:
            self._refused.add(theirs)
            self.partner, self.orders, self._used = {}, {}, set()
            self.between_b = self._between_b()
            self.between_a = self._between_a()

    def _walked(self) -> str | None:
        """The same, up to the first value of B that is not to be matched by its numbers."""
        inside = {step.number for step in self.between_a}
        queue = deque([(self.a.output, self.b.output)])
        while queue:
            ours, theirs = queue.popleft()
            theirs = self.b.base(theirs)
            left, right = self.a.values[self.a.base(ours)].maker, self.b.values[theirs].maker
            match = self.match(theirs)
            if match is not None and self._is_by_chance(match, left, right):
                return theirs
            if match is not None or left is None or right is None:
                continue
            if right.number in self.partner or left.number in self._used or left.number not in inside:
                continue
            if left.is_like(right) and left.has_settings_of(right):
                order = self._pair(left, right)
                queue.extend(
                    (left.operands[place], theirs) for place, theirs in zip(order, right.operands, strict=True)
                )

        return None

    def _is_by_chance(self, match: Match, ours: Step | None, theirs: Step | None) -> bool:
        """Whether A's step in the same place is the same one, on something else; A's step with the same numbers is not."""
        maker = self.a.values[self.a.base(match.name)].maker
        if ours is None or theirs is None or maker is None or maker is ours or ours.is_move:
            return False
        if (
            len(ours.operands) < 2
            or not ours.is_like(theirs)
            or not ours.has_settings_of(theirs)
            or maker.is_like(theirs)
        ):
            return False
        scores = self._operand_scores(ours, theirs, self._order(ours, theirs))
        return max(scores) >= _SAME and ours.number not in self._used

    def add_common_subsequence(self, apart: Collection[int] = ()) -> None:
        """Pair what is left by the best common subsequence of the two orders of execution: two edits may lie behind
        each other, and the walk ends at the first.

        apart: B's steps, by number, that are left without a partner.
        """
        left = [step for step in self.between_a if step.number not in self._used]
        right = [step for step in self.between_b if step.number not in self.partner and step.number not in apart]
        if not left or not right:
            return
        n, m = len(left), len(right)
        scores = np.array([[self._likeness(one, other) for other in right] for one in left])
        best = np.zeros((n + 1, m + 1))
        for i in range(n - 1, -1, -1):
            for j in range(m - 1, -1, -1):
                here = scores[i, j] + best[i + 1, j + 1] if scores[i, j] else 0.0
                best[i, j] = max(best[i + 1, j], best[i, j + 1], here)
        i = j = 0
        while i < n and j < m:
            if scores[i, j] and np.isclose(best[i, j], scores[i, j] + best[i + 1, j + 1]):
                self._pair(left[i], right[j])
                i, j = i + 1, j + 1
            elif best[i + 1, j] >= best[i, j + 1]:
                i += 1
            else:
                j += 1
        for step in self.between_b:
            if step.number in self.partner:
                self.orders[step.number] = self._order(self.partner[step.number], step)

    def _pair(self, ours: Step, theirs: Step) -> tuple[int, ...]:
        self.partner[theirs.number] = ours
        self._used.add(ours.number)
        self.orders[theirs.number] = self._order(ours, theirs)
        return self.orders[theirs.number]

    def _order(self, ours: Step, theirs: Step) -> tuple[int, ...]:
        n = len(ours.operands)
        as_is = tuple(range(n))
        if ours.operator not in _ANY_ORDER or not 1 < n <= 3:
            return as_is
        return max(permutations(as_is), key=lambda order: sum(self._operand_scores(ours, theirs, order)))

    def _operand_scores(self, ours: Step, theirs: Step, order: Sequence[int]) -> list[float]:
        return [
            self._operand_score(ours.operands[place], name) for place, name in zip(order, theirs.operands, strict=True)
        ]

    def _operand_score(self, ours: str, theirs: str) -> float:
        """How well one operand stands for another."""
        ours, theirs = self.a.base(ours), self.b.base(theirs)
        match = self.match(theirs)
        if match is not None:
            return _SAME if self.a.base(match.name) == ours else _OTHER
        left, right = self.a.values[ours].maker, self.b.values[theirs].maker
        if left is None or right is None:
            is_leaf = left is None and right is None and self.a.values[ours].kind == self.b.values[theirs].kind
            return _LEAVES if is_leaf else 0.0
        if self.partner.get(right.number) is left:
            return _SAME
        if not left.is_like(right) or left not in self.between_a:
            return 0.0
        return _LIKE + _PER_SHARED * self._n_shared(left, right)

    def _n_shared(self, ours: Step, theirs: Step) -> int:
        """How many of the operands of B's step are operands of A's."""
        read = {self.a.base(name) for name in ours.operands}
        found = (self.match(self.b.base(name)) for name in theirs.operands)
        return sum(match is not None and self.a.base(match.name) in read for match in found)

    def _likeness(self, ours: Step, theirs: Step) -> float:
        if not ours.is_like(theirs):
            return 0.0
        is_equal = ours.has_settings_of(theirs)
        scores = self._operand_scores(ours, theirs, self._order(ours, theirs))
        if not scores:
            return 1.0 if is_equal else 0.0
        n_good, n_same = sum(s > 0 for s in scores), sum(s >= _SAME for s in scores)
        if not n_good:
            return 0.0
        return (1.0 if is_equal else _CHANGED) + (_PER_SAME * n_same + _PER_GOOD * n_good) / len(scores)
