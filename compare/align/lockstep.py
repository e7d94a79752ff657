"""Lockstep: B runs again, step by step, and wherever a value of it is one of A's, goes on with A's.

So what differs in one place differs nowhere else. Where a step that both have (by its weight) gives something else, A's
value is put in its place, and the two are known to stand for each other; unless the difference heals by itself.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from ...graphs.adopt.flat import Flat, Ran
from ...graphs.errors import OpdiffError
from ...graphs.products import is_plain_gemm, place_in_memory
from ...graphs.stepping import FLOAT, StepRunner, Typed
from ..measure import both_unmasked, norm
from .anchors import Anchor, Pair, anchors_of, end_of_channels, has_bias, moved, norm_input, paired, root, with_bias
from .arrangement import Plan, arranged, arrangement, by_sizes, layouts, plain
from .values import NEAR, Match, ValueIndex

Kind = Literal["map", "value", "step", "norm", "input", "softmax", "stage", "output"]
_HEALS_WITHIN, _HEALS_OVER = 60, 1  # steps, and among them products with a weight
_LIKELY_LAYOUTS = 3  # the nearest ones, which are tried
_ALMOST = 1e-4  # relative: a value of a step with one weight, as float32 operators may round it otherwise


@dataclass(frozen=True, slots=True)
class Point:
    """A value that both graphs have. B's, laid out as `plan` says A's is to be, has A's shape; `is_equal`, its numbers too.

    kind: how it was found.
    """

    a: str
    b: str
    plan: Plan
    kind: Kind
    is_equal: bool


@dataclass(frozen=True)
class Aligned:
    """The points of two graphs, in the order in which B makes them; the anchors that have a partner, and those without.

    healed: B's values that stand for one of A's, and differ from it where that changes nothing.
    replaced: steps of A and of B that read the same, each with a weight of its own.
    """

    points: tuple[Point, ...]
    pairs: tuple[Pair, ...]
    alone: tuple[tuple[Anchor, ...], tuple[Anchor, ...]]
    healed: tuple[str, ...]
    replaced: tuple[tuple[Anchor, Anchor], ...] = ()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a value of B should be: `ours` of A, where B reads or makes it as `theirs`."""

    kind: Kind
    ours: str
    theirs: str


def lockstep(
    a: Flat,
    b: Flat,
    steps: StepRunner,
    given: Sequence[tuple[str, str]] = (),
    scores: Sequence[Collection[str]] = ((), ()),
    staged: Sequence[tuple[str, str]] = (),
) -> Aligned:
    """Align two graphs that ran on the same input.

    given: values of A and of B that stand for each other, whatever they hold.
    scores: of A and of B, values that are attention scores, of which what is masked is no number.
    staged: values of A and of B that are one stage, with no weight to tell it by.
    """
    ours, theirs = anchors_of(a), anchors_of(b)
    pairs = paired(ours, theirs)
    left = {id(pair.a) for pair in pairs}, {id(pair.b) for pair in pairs}
    alone = (
        tuple(anchor for anchor in ours if id(anchor) not in left[0]),
        tuple(anchor for anchor in theirs if id(anchor) not in left[1]),
    )
    products = [anchor for anchor in theirs if anchor.role == "product"]
    wanted = _wanted(a, b, pairs, given, staged)
    run = _Lockstep(a, b, steps, wanted, alone, products, scores, _same_products(a, b, pairs))
    run.all()
    return Aligned(tuple(run.points.values()), tuple(pairs), alone, tuple(run.healed), tuple(run.replaced))


def _wanted(
    a: Flat, b: Flat, pairs: list[Pair], given: Sequence[tuple[str, str]], staged: Sequence[tuple[str, str]]
) -> dict[str, list[_Wanted]]:
    """For values of B, before they are moved elsewhere, which of A's they should be; in the order in which to ask."""
    found = [_Wanted("map", *names) for names in given]
    found += [_Wanted("stage", *names) for names in staged]
    for pair in pairs:
        is_scaled, is_biased = pair.is_scaled, has_bias(a, pair.a.y) or has_bias(b, pair.b.y)
        ends = [
            end_of_channels(flat, y) if is_scaled else with_bias(flat, y) if is_biased else y
            for flat, y in ((a, pair.a.y), (b, pair.b.y))
        ]
        found.append(_Wanted("step", *ends))
        if pair.a.role == "gain":
            before = norm_input(a, pair.a), norm_input(b, pair.b)
            if before[0] is not None and before[1] is not None:
                found.append(_Wanted("norm", before[0], before[1]))
        if pair.a.role in ("product", "kernel") and pair.a.weight.shape == pair.b.weight.shape:
            found.append(_Wanted("input", pair.a.x, pair.b.x))
    softmaxes = [[node.outputs[0] for node in flat.nodes if node.operator == "Softmax"] for flat in (a, b)]
    if len(softmaxes[0]) == len(softmaxes[1]):
        for names in zip(*softmaxes, strict=True):
            read = a.maker[names[0]].reads[0], b.maker[names[1]].reads[0]
            found += [_Wanted("softmax", *names), _Wanted("softmax", *read)]
    found += [_Wanted("output", *names) for names in _outputs(a, b)]
    order = {"map": -1, "step": 0, "norm": 1, "softmax": 2, "input": 3, "stage": 4, "output": 5}
    by_value: dict[str, list[_Wanted]] = {}
    for wanted in sorted(found, key=lambda one: order[one.kind]):
        if b.is_data(wanted.theirs) and a.is_data(wanted.ours):
            by_value.setdefault(root(b, wanted.theirs)[0], []).append(wanted)
    return by_value


def _same_products(a: Flat, b: Flat, pairs: Sequence[Pair]) -> dict[str, Pair]:
    """The pairs of steps that do nothing but multiply, with a weight that is one array; by what B's step gives."""
    return {
        pair.b.y: pair
        for pair in pairs
        if _only_multiplies(a, pair.a)
        and _only_multiplies(b, pair.b)
        and place_in_memory(pair.a.weight) == place_in_memory(pair.b.weight)
    }


def _only_multiplies(flat: Flat, anchor: Anchor) -> bool:
    """Whether a step is the product of what it reads with its weight, and no more."""
    node = flat.nodes[anchor.place]
    if anchor.role != "product" or node.reads[0] != anchor.x or has_bias(flat, anchor.y):
        return False
    return node.operator == "MatMul" or is_plain_gemm(
        {name: node.attribute(name, default) for name, default in (("transA", 0), ("alpha", 1.0), ("beta", 1.0))}
    )


def _outputs(a: Flat, b: Flat) -> Iterator[tuple[str, str]]:
    """The graphs' outputs that stand for each other: by name, else by place."""
    names, used = list(a.outputs), set[str]()
    for place, (name, theirs) in enumerate(b.outputs.items()):
        ours = name if name in a.outputs else names[place] if place < len(names) else None
        if ours is not None and ours not in used and a.array(a.outputs[ours]).size == b.array(theirs).size:
            used.add(ours)
            yield a.outputs[ours], theirs


class _Lockstep:
    """One run of B beside A."""

    def __init__(
        self,
        a: Flat,
        b: Flat,
        steps: StepRunner,
        wanted: dict[str, list[_Wanted]],
        alone: tuple[Sequence[Anchor], Sequence[Anchor]],
        products: Sequence[Anchor],
        scores: Sequence[Collection[str]],
        same: Mapping[str, Pair],
    ) -> None:
        self._a, self._b, self._steps, self._wanted, self._scores, self._same = a, b, steps, wanted, scores, same
        self._alone = list(alone[0]), {anchor.y: anchor for anchor in alone[1]}
        made = ((name, a.array(name)) for node in a.nodes for name in node.outputs)
        self._index = ValueIndex(made, lambda name: root(a, name)[0])
        self._values: dict[str, Typed] = {name: b.values[name] for name in (*b.constants, *b.inputs)}
        self._products = {anchor.y for anchor in products}
        self._last = {name: readers[-1].place for name, readers in b.readers.items()}
        self._ends_of_a, self._ends = ({root(flat, name)[0] for name in flat.outputs.values()} for flat in (a, b))
        self._used: set[str] = set()
        self.points: dict[str, Point] = {}
        self.healed: list[str] = []
        self.replaced: list[tuple[Anchor, Anchor]] = []

    def all(self) -> None:
        """Run all of B's steps."""
        for node in self._b.nodes:
            made = self._made_by_a(node) or self._b.rerun(node, self._values, self._steps)
            for name, value in made.items():
                self._values[name] = value
                self._settle(name, node)
            for name in filter(None, node.reads):
                if self._b.is_data(name) and self._last[name] == node.place:
                    self._values.pop(name, None)

    def _made_by_a(self, node: Ran) -> dict[str, Typed] | None:
        """What a product gives, where it reads the numbers that A's product with the same weight read; else None."""
        pair = self._same.get(node.outputs[0])
        if pair is None:
            return None
        ours, theirs = self._a.array(pair.a.x), self._values[pair.b.x].array
        width = ours.shape[-1]
        if theirs.shape[-1] != width or not np.array_equal(ours.reshape(-1, width), theirs.reshape(-1, width)):
            return None
        product = self._a.array(pair.a.y)
        return {node.outputs[0]: Typed(product.reshape(*theirs.shape[:-1], product.shape[-1]), FLOAT)}

    def _settle(self, name: str, node: Ran) -> None:
        """Find which of A's values this one is, and go on with that."""
        value = self._values[name].array
        told = next((one for one in self._wanted.get(name, ()) if one.kind == "map"), None)
        if told is not None:
            plan = self._plan_of(told, name)
            if plan is not None:
                self._meet(name, told.ours, plan, "map", _is_almost(arranged(self._a.array(told.ours), plan), value))
                return
        self._want_by_place(name)
        match = self._best(self._index.find(value), node, self._wanted.get(name, ()))
        ends_elsewhere = match is not None and self._ends_elsewhere(name, match)
        if match is not None and not ends_elsewhere and not self._is_of_another_step(name, match):
            self._meet(name, match.name, match.plan, "value", is_equal=True)
            return
        for wanted in self._wanted.get(name, ()):
            plan = None if ends_elsewhere and wanted.kind != "output" else self._plan_of(wanted, name)
            if plan is None:
                continue
            ours = arranged(self._a.array(wanted.ours), plan)
            if _is_almost(ours, value) or (self._are_scores(wanted, name) and _is_almost_scores(ours, value)):
                self._meet(name, wanted.ours, plan, wanted.kind, is_equal=True)
            elif self._heals(name, node, wanted.ours):
                self.healed.append(name)
                continue
            else:
                plan = self._shown_layout(name, node, wanted, plan)
                self._meet(name, wanted.ours, plan, wanted.kind, is_equal=False)
            return

    def _want_by_place(self, name: str) -> None:
        """Where a step with a weight of its own gives this value: the step of A that reads the same with such a weight."""
        anchor = self._alone[1].get(name)
        read = None if anchor is None else self.points.get(root(self._b, anchor.x)[0])
        if anchor is None or read is None:
            return
        ours = root(self._a, read.a)[0]
        for other in self._alone[0]:
            is_like = other.role == anchor.role and other.weight.shape == anchor.weight.shape
            if is_like and root(self._a, other.x)[0] == ours:
                self._alone[0].remove(other)
                self.replaced.append((other, anchor))
                self._wanted.setdefault(name, []).insert(0, _Wanted("step", other.y, name))
                return

    def _is_of_another_step(self, name: str, match: Match) -> bool:
        """Whether this is, by its numbers, what another step of B gave already, and by its weight a step of A's own."""
        steps = [one for one in self._wanted.get(name, ()) if one.kind == "step"]
        ours = root(self._a, match.name)[0]
        return bool(steps) and match.name in self._used and all(root(self._a, one.ours)[0] != ours for one in steps)

    def _ends_elsewhere(self, name: str, match: Match) -> bool:
        """Whether B ends with this, and A goes on from what it is by its numbers: what one side alone does last."""
        is_wanted = any(one.kind == "output" for one in self._wanted.get(name, ()))
        return is_wanted and name in self._ends and root(self._a, match.name)[0] not in self._ends_of_a

    def _best(self, matches: list[Match], node: Ran, wanted: tuple[_Wanted, ...] | list[_Wanted]) -> Match | None:
        """Of several of A's values that are equal: what is wanted here, then one made by such a step, then one that what the
        step reads is already, then one that is free.
        """
        expected = {root(self._a, one.ours)[0] for one in wanted}
        kept = {self.points[name].a for name in node.reads if name in self.points}

        def rank(match: Match) -> tuple:
            maker = self._a.maker[match.name]
            return (
                root(self._a, match.name)[0] not in expected,
                len(match.plan),
                maker.operator != node.operator,
                match.name not in kept,
                match.name in self._used,
            )

        return min(matches, key=rank, default=None)

    def _meet(self, name: str, ours: str, plan: Plan, kind: Kind, is_equal: bool) -> None:
        self.points[name] = Point(ours, name, plan, kind, is_equal)
        self._used.add(ours)
        self._values[name] = _laid_out(self._a.array(ours), plan)

    def _plan_of(self, wanted: _Wanted, name: str) -> Plan | None:
        """How A's value would be laid out to stand in place of B's; None where it cannot.

        It is known where both are read: from there it is followed back over B's moves.
        """
        ours, theirs = self._a.array(wanted.ours), self._b.array(wanted.theirs)
        value = self._values[name].array
        if ours.size != theirs.size or value.size != theirs.size or value.dtype.kind != "f":
            return None
        told = by_sizes(ours.shape, theirs.shape)
        if not told and wanted.kind == "stage":
            return None
        back = self._moved_back(wanted.theirs)
        plans = [(*plan, *back) for plan in told or [(("reshape", theirs.shape),)]]
        if len(plans) == 1:
            return plans[0]
        return min(plans, key=lambda plan: _distance(arranged(ours, plan), value))

    def _shown_layout(self, name: str, node: Ran, wanted: _Wanted, likely: Plan) -> Plan:
        """The layout in which A's value, in place of B's, lets B come to A's values, where sizes do not tell it and another one is
        nearer than the one that seems likely; that one where none does.
        """
        ours, value, back = self._a.array(wanted.ours), self._values[name].array, self._moved_back(wanted.theirs)
        plans = [(*plan, *back) for plan in layouts(ours.shape, self._b.array(wanted.theirs).shape)]
        if not plans:
            return likely
        far = {plan: _distance(arranged(ours, plan), value) for plan in (likely, *plans)}
        nearest = sorted(far, key=far.__getitem__)[:_LIKELY_LAYOUTS]
        for plan in nearest if far[nearest[0]] < far[likely] else ():
            if self._heals(name, node, wanted.ours, {name: _laid_out(ours, plan)}):
                return plan
        return likely

    def _moved_back(self, theirs: str) -> Plan:
        """How a value of B becomes what it was before it was moved."""
        plan: list[tuple[str, tuple[int, ...]]] = []
        for move in root(self._b, theirs)[1]:
            before = self._b.array(moved(self._b, move) or move.reads[0])
            if move.operator == "Transpose":
                order = move.attribute("perm") or tuple(reversed(range(before.ndim)))
                assert isinstance(order, (list, tuple))
                plan.append(("transpose", tuple(int(axis) for axis in np.argsort(order))))
            elif move.operator not in ("Cast", "Identity", "Concat"):
                plan.append(("reshape", before.shape))
        return tuple(plan)

    def _heals(self, name: str, node: Ran, ours: str, instead: Mapping[str, Typed] = MappingProxyType({})) -> bool:
        """Whether a difference dies out by itself: all that hangs on the value comes to be one of A's that hang on A's.

        instead: what stands in the place of B's value.
        """
        if name in self._ends:
            return False
        below, values, n_products = _Below(self._a, ours), dict(instead), 0
        tainted = {name}
        for step in self._b.nodes[node.place + 1 : node.place + 1 + _HEALS_WITHIN]:
            if not tainted.isdisjoint(step.reads):
                if n_products == _HEALS_OVER and not self._products.isdisjoint(step.outputs):
                    return False
                try:
                    made = self._made(step, values)
                except (OpdiffError, KeyError, RecursionError):
                    return False
                for output, value in made.items():
                    if any(match.name in below for match in self._index.find(value.array, NEAR)):
                        continue
                    if output in self._ends:
                        return False
                    tainted.add(output)
                    n_products += output in self._products
            if all(self._last.get(one, -1) <= step.place for one in tainted):
                return True
        return False

    def _made(self, step: Ran, values: dict[str, Typed]) -> dict[str, Typed]:
        """What a step makes, after those on which it waits; `values` gets all of them."""
        for name in filter(None, step.reads):
            if name not in values and name not in self._values:
                self._made(self._b.maker[name], values)
        made = self._b.rerun(step, ChainMap(values, self._values), self._steps)
        values.update(made)
        return made

    def _are_scores(self, wanted: _Wanted, name: str) -> bool:
        """Whether both sides' values are attention scores, whatever each adds to those that it masks."""
        return name in self._scores[1] and root(self._a, wanted.ours)[0] in self._scores[0]


class _Below:
    """A graph's values that hang on one of them; they are looked for only as far as is asked."""

    def __init__(self, flat: Flat, base: str) -> None:
        self._flat, self._base = flat, base
        self._found = {base}
        self._next = flat.maker[base].place + 1 if base in flat.maker else 0

    def __contains__(self, name: str) -> bool:
        """Whether a value that a node makes is one of them, and not the one on which they hang, moved elsewhere."""
        end = self._flat.maker[name].place + 1
        for node in self._flat.nodes[self._next : end]:
            if not self._found.isdisjoint(node.reads):
                self._found.update(node.outputs)
        self._next = max(self._next, end)
        return name in self._found and root(self._flat, name)[0] != root(self._flat, self._base)[0]


def _laid_out(ours: np.ndarray, plan: Plan) -> Typed:
    """A value of A as B goes on with it."""
    return Typed(np.ascontiguousarray(arranged(np.asarray(ours, np.float64), plan)), FLOAT)


def _distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """How far two arrays of as many numbers are from one another; infinite where that is not known."""
    if ours.shape != theirs.shape:
        return float("inf")
    with np.errstate(all="ignore"):
        far = norm(plain(ours) - plain(theirs))
    return far if far == far else float("inf")


def _is_almost_scores(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """The same of scores: where a softmax sees none, on both sides, they may be any."""
    if ours.shape != theirs.shape:
        return False
    seen, other = both_unmasked(ours, theirs)
    return bool(np.array_equal(seen, other)) and _is_almost(np.where(seen, ours, 0), np.where(seen, theirs, 0))


def _is_almost(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return arrangement(plain(ours), plain(theirs), _ALMOST) == ()
