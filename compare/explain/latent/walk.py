"""The walk through two programs from their outputs up: which steps are the same, and where they differ without effect.

Unlike an alignment by numbers, which ends where numbers are the same, it goes on to the inputs: what differs is found though
it changes no number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import numpy as np

from ....graphs.contents import LAYOUT
from ....graphs.errors import OpdiffError
from ....graphs.network import Network, Step, Value
from ...align.arrangement import arrangement, plain
from ...align.values import NEAR
from ..edits.matching import Matching, Numbers
from .difference import Difference
from .leaves import Leaves, are_one
from .passing import can_show, handed_on

_ANY_ORDER = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum"})
HEAVY = frozenset({"MatMul", "Gemm", "Einsum", "Conv", "Softmax"})
_SHORT = 12  # steps, but for these, of which it is asked whether they are written otherwise only on this input
_TOLD, _PASSED, _LEAP, _LEAPT = 1.0, 0.1, 10.0, 1.0  # what each costs; the walk of the least cost is taken


@dataclass(frozen=True, slots=True)
class _Walked:
    """A walk from two values up, and the differences that it met."""

    cost: float = 0.0
    met: tuple[Difference, ...] = ()

    def and_then(self, other: _Walked, cost: float = 0.0, *met: Difference) -> _Walked:
        return _Walked(self.cost + other.cost + cost, (*met, *self.met, *other.met))


_SAME = _Walked()


class Walk:
    """Pairs the steps of two networks whose outputs are the same.

    Where steps are no pair, but give the same, they are written otherwise: they are leapt over, down to values that both have.
    """

    def __init__(self, a: Network, b: Network) -> None:
        self._a, self._b = a, b
        self._numbers = Numbers(a), Numbers(b)
        self.a_leaves, self.b_leaves = Leaves(a), Leaves(b)
        self._known: dict[tuple[str, str], _Walked | None] = {}
        self.has_leapt = False  # whether something is written otherwise

    def differences(self) -> tuple[Difference, ...]:
        """Every place at which the two differ without effect, from the outputs up."""
        walked = self._from(self._a.output, self._b.output)
        self.has_leapt = walked is None or walked.cost >= _LEAP
        return () if walked is None else tuple(dict.fromkeys(walked.met))

    def _from(self, ours: str, theirs: str) -> _Walked | None:
        """The walk of the least cost; None where the two are not the same."""
        key = self._a.base(ours), self._b.base(theirs)
        if key not in self._known:
            self._known[key] = self._found(*key)
        return self._known[key]

    def _found(self, ours: str, theirs: str) -> _Walked | None:
        left, right = self._a.values[ours], self._b.values[theirs]
        if left.kind == right.kind == "input":
            return _SAME if left.label == right.label else None
        if self.a_leaves.is_fixed(ours) and self.b_leaves.is_fixed(theirs):
            return _SAME if self._is_one_constant(ours, theirs) else None
        walks = [*self._as_a_pair(left.maker, right.maker), *self._without_a_step(ours, theirs)]
        if not walks and left.maker is not None and right.maker is not None and self._are_same(ours, theirs):
            return self._leapt(left, right)
        return min(walks, key=lambda walked: walked.cost, default=None)

    def _are_same(self, ours: str, theirs: str) -> bool:
        left, right = self._numbers[0].plain(ours), self._numbers[1].plain(theirs)
        return left is not None and right is not None and arrangement(left, right, NEAR) is not None

    def _is_one_constant(self, ours: str, theirs: str) -> bool:
        if self.a_leaves.is_large(ours) or self.b_leaves.is_large(theirs):
            return True
        is_weight = "weight" in (self._a.values[ours].kind, self._b.values[theirs].kind)
        return are_one(self._a.array(ours), self._b.array(theirs), is_weight)

    def _as_a_pair(self, ours: Step | None, theirs: Step | None) -> Iterator[_Walked]:
        """The walks on which these two are one step."""
        if ours is None or theirs is None or (ours.operator, ours.domain) != (theirs.operator, theirs.domain):
            return
        if ours.places != theirs.places:
            if ours.operator == "Clip":
                yield from self._with_other_bounds(ours, theirs)
            return
        as_is = tuple(range(len(ours.operands)))
        is_free = ours.operator in _ANY_ORDER and not ours.domain and len(as_is) <= 3
        for order in permutations(as_is) if is_free else (as_is,):
            walked = self._in_order(ours, theirs, order)
            if walked is not None:
                yield walked

    def _with_other_bounds(self, ours: Step, theirs: Step) -> Iterator[_Walked]:
        """The walk on which two limit the same value, one of them on one side only."""
        outputs = ours.outputs[0], theirs.outputs[0]
        walked = self._from(ours.operands[0], theirs.operands[0])
        if walked is not None and self._are_same(*outputs):
            yield walked.and_then(_SAME, _TOLD, Difference("settings", ours, theirs, *outputs))

    def _in_order(self, ours: Step, theirs: Step, order: tuple[int, ...]) -> _Walked | None:
        """The walk on which B's operands stand for A's in this order."""
        pairs = [(ours.operands[n], name) for n, name in zip(order, theirs.operands, strict=True)]
        whole, apart, others = _SAME, list(_settings(ours, theirs)), [(ours.outputs[0], theirs.outputs[0])]
        for place, pair in enumerate(pairs):
            walked = self._from(*pair)
            if walked is not None:
                whole = whole.and_then(walked)
                others.append(pair)
            elif self._are_constants(*pair):
                apart.append(Difference("constant", ours, theirs, *pair, place))
            else:
                return None
        if not apart:
            return whole
        if not all(self._are_same(*pair) for pair in others):
            return None
        (one, *more) = apart
        told = Difference("settings", ours, theirs, *others[0]) if more else one
        return whole.and_then(_SAME, _TOLD, told)

    def _are_constants(self, ours: str, theirs: str) -> bool:
        return self.a_leaves.is_fixed(self._a.base(ours)) and self.b_leaves.is_fixed(self._b.base(theirs))

    def _without_a_step(self, ours: str, theirs: str) -> Iterator[_Walked]:
        """The walks on which a step of one side is left out, for it hands on what it reads."""
        a, b = self._a, self._b
        for network, leaves, name in ((a, self.a_leaves, ours), (b, self.b_leaves, theirs)):
            step = network.values[name].maker
            for place in handed_on(network, step) if step is not None else ():
                assert step is not None
                read = step.operands[place]
                walked = self._from(read, theirs) if network is a else self._from(ours, read)
                if walked is None:
                    continue
                if not can_show(network, leaves, step, place):
                    yield walked.and_then(_SAME, _PASSED)
                elif network is a:
                    other = b.values[theirs].maker
                    yield walked.and_then(_SAME, _TOLD, Difference("left out", step, other, ours, theirs, place))
                else:
                    other = a.values[ours].maker
                    yield walked.and_then(_SAME, _TOLD, Difference("extra", other, step, ours, theirs, place))

    def _leapt(self, ours: Value, theirs: Value) -> _Walked:
        """The walk that goes on at the next values that both sides have."""
        pairs, steps = self._below(ours.name, theirs.name)
        is_asked = ours.is_data and theirs.is_data and len(steps) <= _SHORT
        is_asked &= HEAVY.isdisjoint(step.operator for step in (*steps, ours.maker) if step is not None)
        told = Difference("written", ours.maker, theirs.maker, ours.name, theirs.name)
        whole = _Walked(_LEAP + _LEAPT * len(steps), (told,) if is_asked else ())
        for pair in pairs:
            walked = self._from(*pair)
            if walked is not None:
                whole = whole.and_then(walked)
        return whole

    def _below(self, ours: str, theirs: str) -> tuple[list[tuple[str, str]], list[Step]]:
        """Pairs of values, of A's and of B's that stand behind these, that are the same; and B's steps that are not."""
        inside, pairs, steps = set(self._a.cone(ours)) - {ours}, [], list[Step]()
        seen, stack = {theirs}, [theirs]
        while stack:
            name = stack.pop()
            maker = self._b.values[name].maker
            if maker is None:
                continue
            if not maker.is_move:
                steps.append(maker)
            for operand in map(self._b.base, maker.operands):
                if operand in seen:
                    continue
                seen.add(operand)
                met = self._met(operand)
                if met is not None and met in inside:
                    pairs.append((met, operand))
                else:
                    stack.append(operand)
        return pairs, steps

    def _met(self, theirs: str) -> str | None:
        """A's value that a value of B is by its numbers, where these are too many to be the same by chance."""
        value = self._b.values[theirs]
        if self._matching is None or not value.is_data or value.maker is None:
            return None
        array = self._b.array(theirs)
        if array is None or array.size < 2 or array.dtype.kind != "f" or not np.any(array):
            return None
        match = self._matching.match(theirs)
        return None if match is None else self._a.base(match.name)

    @cached_property
    def _matching(self) -> Matching | None:
        try:
            return Matching(self._a, self._b, *self._numbers, NEAR)
        except OpdiffError:
            return None


def are_same(a: Network, b: Network, ours: str, theirs: str) -> bool:
    """Whether two values are the same numbers, in whatever layout; what is masked is masked, by whatever number."""
    left, right = a.array(ours), b.array(theirs)
    return left is not None and right is not None and arrangement(plain(left), plain(right), NEAR) is not None


def _settings(ours: Step, theirs: Step) -> Iterator[Difference]:
    """What two steps have otherwise, beside what they read."""
    names = {*ours.attributes, *theirs.attributes} - LAYOUT
    outputs = ours.outputs[0], theirs.outputs[0]
    if any(ours.attributes.get(name) != theirs.attributes.get(name) for name in names):
        yield Difference("attributes", ours, theirs, *outputs)
    if ours.operator == "Trilu" and not ours.has_literals_of(theirs):
        yield Difference("settings", ours, theirs, *outputs)
