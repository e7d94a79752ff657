"""A's region with an edit in it: B's steps on A's values, run step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ....graphs.errors import InputError
from ....graphs.network import Step
from ....graphs.stepping import Typed
from ...align.arrangement import Plan, arranged
from .alignment import Alignment


@dataclass(frozen=True, slots=True)
class Cut:
    """For `top`, a value of A: A's own steps, from B's values in the place of some of A's on.

    given: A's value, and B's in its place.
    plan: how what comes out is laid out as B has it.
    """

    top: str
    given: tuple[tuple[str, str], ...]
    plan: Plan


@dataclass(frozen=True)
class Choices:
    """What of B is left as A has it: operands, and steps' attributes and literals; and where A's own steps go on."""

    operands: frozenset[tuple[int, int]] = frozenset()
    settings: frozenset[int] = frozenset()
    cuts: Mapping[str, Cut] | None = None

    def with_operand(self, place: tuple[int, int]) -> Choices:
        return Choices(self.operands | {place}, self.settings, self.cuts)

    def with_settings(self, number: int) -> Choices:
        return Choices(self.operands, self.settings | {number}, self.cuts)

    def with_cut(self, theirs: str, cut: Cut) -> Choices:
        return Choices(self.operands, self.settings, {**(self.cuts or {}), theirs: cut})


class Merged:
    """B's output as these choices make it.

    Raises, when asked for a value:
        InputError: a step cannot run.
    """

    def __init__(self, alignment: Alignment, choices: Choices) -> None:
        self._alignment, self._choices = alignment, choices
        self._a, self._b = alignment.a, alignment.b
        self._values: dict[str, Typed] = {}
        self._edited: dict[str, Typed] = {}
        self._open: set[tuple[str, str]] = set()
        self._by_partner = {ours.number: number for number, ours in alignment.partner.items()}
        self._steps_of_b = {step.number: step for step in alignment.between_b}
        self.brought: dict[int, Step] = {}  # B's steps that were run
        self.used: set[int] = set()  # A's steps that were run

    def output(self) -> np.ndarray:
        """B's output, in B's own layout."""
        return self.value(self._b.output).array

    def value(self, name: str) -> Typed:
        """A value of B, as the choices make it."""
        if name not in self._values:
            with self._entered(("b", name)):
                self._values[name] = self._made(name)
        return self._values[name]

    def _made(self, name: str) -> Typed:
        cut = (self._choices.cuts or {}).get(name)
        if cut is not None:
            return self._of_cut(name, cut)
        match = self._alignment.match(name)
        if match is not None:
            ours = _known(self._a.typed(match.name))
            return Typed(arranged(ours.array, match.plan), ours.type)
        step = self._b.values[name].maker
        if step is None:
            return _known(self._b.typed(name))
        self.brought[step.number] = step
        partner = self._alignment.partner.get(step.number)
        operands = [self._operand(step, place, partner) for place in range(len(step.operands))]
        like = None
        if partner is not None and step.number in self._choices.settings:
            order = self._alignment.orders[step.number]
            operands, like = [operands[place] for place in np.argsort(order)], partner
        for output, made in zip(step.outputs, self._b.apply(step, operands, like), strict=True):
            self._values.setdefault(output, made)
        return self._values[name]

    def _of_cut(self, name: str, cut: Cut) -> Typed:
        given = {ours: _shaped(self.value(theirs), _known(self._a.typed(ours))) for ours, theirs in cut.given}
        self.used |= {step.number for step in self._a.path(frozenset(given), cut.top)}
        made = self._a.rerun(given, cut.top)
        if made is None:
            raise InputError("A's steps cannot run on B's values")
        return _shaped(Typed(arranged(made.array, cut.plan), made.type), _known(self._b.typed(name)))

    def _operand(self, step: Step, place: int, partner: Step | None) -> Typed:
        name = step.operands[place]
        if partner is None or (step.number, place) not in self._choices.operands:
            return self.value(name)
        read = partner.operands[self._alignment.orders[step.number][place]]
        ours, theirs = self._edited_value(read), self._b.typed(name)
        if theirs is None or theirs.array.size != ours.array.size:
            return ours
        return _shaped(Typed(arranged(ours.array, self._alignment.matching.layout(read, name)), ours.type), theirs)

    def _edited_value(self, name: str) -> Typed:
        """A value of A, with the edits above it."""
        if name not in self._edited:
            with self._entered(("a", name)):
                self._edited[name] = self._edited_made(name)
        return self._edited[name]

    @contextmanager
    def _entered(self, value: tuple[str, str]) -> Iterator[None]:
        """While a value is made, it may not be asked for: pairs of steps that stand in another order make a circle."""
        if value in self._open:
            raise InputError("the two sides' steps stand in another order")
        self._open.add(value)
        try:
            yield
        finally:
            self._open.discard(value)

    def _edited_made(self, name: str) -> Typed:
        step = self._a.values[name].maker
        if step is None or not self._has_partner_above(name):
            return _known(self._a.typed(name))
        if step.number in self._by_partner and not step.is_move:
            partner = self._steps_of_b[self._by_partner[step.number]]
            theirs = partner.outputs[step.outputs.index(name)]
            made, ours = self.value(theirs), _known(self._a.typed(name))
            if made.array.size != ours.array.size:
                return made
            return Typed(
                _laid_back(made.array, self._alignment.matching.layout(name, theirs), ours.array.shape), made.type
            )
        self.used.add(step.number)
        made_all = self._a.apply(step, [self._edited_value(operand) for operand in step.operands])
        return made_all[step.outputs.index(name)]

    def _has_partner_above(self, name: str) -> bool:
        return any(
            (maker := self._a.values[one].maker) is not None and maker.number in self._by_partner
            for one in self._a.cone(name)
        )


def _known(value: Typed | None) -> Typed:
    if value is None:
        raise InputError("a value of the region is not known")
    return value


def _laid_back(array: np.ndarray, plan: Plan, shape: tuple[int, ...]) -> np.ndarray:
    """An array that is laid out as a plan says, as it was before."""
    if all(what == "reshape" for what, _ in plan):
        return array.reshape(shape)
    places = arranged(np.arange(array.size).reshape(shape), plan)
    before = np.empty_like(array.ravel())
    before[places.ravel()] = array.ravel()
    return before.reshape(shape)


def _shaped(value: Typed, like: Typed) -> Typed:
    return Typed(value.array.reshape(like.array.shape), value.type)
