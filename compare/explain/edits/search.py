"""Edits for region after region: what explained two programs in one block is tried first in the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from ....graphs.bodies import is_defined
from ....graphs.errors import OpdiffError
from ....graphs.kernels import versions_of
from ....graphs.network import Network
from ....graphs.regions import Region
from ....graphs.sources import Line, lines_of, own_lines
from ....graphs.stages import split_tap_name
from ....graphs.taps import Source
from ...align.values import ValueIndex
from ...conventions.by_stage import Holds
from ...judge.locate import Local
from ...sides.graph_side import GraphSide
from .alignment import Alignment
from .edit import Edit, Place
from .keys import short_name
from .matching import Matching, Numbers
from .parts import part_apart
from .region_search import COARSE, Found, Plan, RegionSearch
from .roundings import PASSED_OVER, roundings_of
from .where import first_of
from .words import Relations, Weights

Nodes = tuple[Source | None, Source | None]  # A's and B's


class EditSearch:
    """Finds edits of A's regions that give what B's give.

    Args:
        weights: every tensor of the checkpoint.
        found: the verdicts: what a region that is right computes too is not what differs.
    """

    def __init__(self, a: GraphSide, b: GraphSide, weights: Weights, found: Mapping[str, Local]) -> None:
        self.a, self.b, self._weights = a, b, weights
        self._right = _nodes_of(b, [tap for tap, local in found.items() if local.verdict != "semantic"])
        self._stepper = a.stepper()
        self._last: tuple[tuple[str, frozenset[str]], tuple[Network, Network]] | None = None
        self._plans: dict[tuple[str, str, frozenset[str]], list[Plan]] = {}
        self._places: dict[tuple[str, str], Place] = {}
        self._met: set[tuple[str, str]] = set()
        self._relations: Relations = {}

    def edit(self, local: Local, is_named: bool = False) -> Edit | None:
        """The edit of one region at fault; None where none was found.

        is_named: whether the fault has a name already, beside which only what is quickly found is told.
        """
        if local.b64 is None:
            return None
        key = self._programs(local.tap)
        self._met.add(key)
        try:
            edit = self._beside_roundings(local, is_named) or self._edit(local, frozenset(), is_named)
        except OpdiffError:
            edit = None
        if edit is not None and not edit.is_rewrite:
            self._places[key] = edit.places[0]
        return edit

    def _beside_roundings(self, local: Local, is_named: bool) -> Edit | None:
        """The edit of a region in which B rounds to whole numbers, told apart from that; None where it does not."""
        a, b = self._networks(local.tap, PASSED_OVER) if self._rounds(local.tap) else (None, None)
        if a is None or b is None:
            return None
        block, canonical = split_tap_name(local.tap)[0], partial(self.b.canonical, local.tap)
        roundings = roundings_of(local, a, b, canonical, lambda label: short_name(label, block))
        if roundings is None or roundings.is_all:
            return None if roundings is None else roundings.edit
        edit = self._edit(roundings.but, PASSED_OVER, is_named)
        return None if edit is None or edit.is_rewrite else roundings.beside(edit)

    def _rounds(self, tap: str) -> bool:
        return any(node.op_type == "QuantizeLinear" for node in self.b.regions[tap].program.model.graph.node)

    def _edit(self, local: Local, opened: frozenset[str], is_named: bool) -> Edit | None:
        """The edit of a region with these operators opened, and others where that helps."""
        plans = self._plans.setdefault((*self._programs(local.tap), opened), [])
        edit = next(filter(None, (self._again(local, plan) for plan in plans)), None)
        if edit is None and (found := self._found(local, opened, is_named)) is not None:
            plans.append(found.plan)
            edit = found.edit
        return edit

    def _again(self, local: Local, plan: Plan) -> Edit | None:
        return self._region(local, plan.opened).again(plan)

    def agreed(self, found: Mapping[str, Local], edits: Mapping[str, Edit]) -> dict[str, Edit]:
        """The edits, with one for all regions of the same programs where one holds in them all: on the values of one block, less
        of it may be enough.
        """
        agreed = dict(edits)
        for (*key, opened), plans in self._plans.items():
            taps = [tap for tap in edits if self._programs(tap) == tuple(key)]
            for plan in plans if len(plans) > 1 and not opened else ():
                try:
                    made = {tap: edit for tap in taps if (edit := self._again(found[tap], plan)) is not None}
                except OpdiffError:
                    continue
                if len(made) == len(taps) and not any(edit.is_rewrite for edit in made.values()):
                    agreed |= made
                    self._places[self._programs(taps[0])] = made[taps[0]].places[0]
                    break
        return agreed

    def _region(self, local: Local, opened: frozenset[str]) -> RegionSearch:
        return RegionSearch(
            local, self.b, *self._networks(local.tap, opened), self._weights, self._relations, self._right
        )

    def _found(self, local: Local, before: frozenset[str], is_named: bool) -> Found | None:
        """The best edit: of the regions as they are, or with what only one side takes as one step taken as several.

        before: what is opened in any case.
        """
        found = self._region(local, before).search(is_named)
        if found is not None:
            found = replace(found, plan=replace(found.plan, opened=before))
        if is_named or (found is not None and found.is_good):
            return found
        opened = self._one_sided(local.tap)
        if opened:
            opened |= before
        other = self._region(local, opened).search() if opened else None
        if other is None:
            return found
        other = replace(other, plan=replace(other.plan, opened=opened))
        return min(filter(None, (found, other)), key=lambda one: (one.edit.is_rewrite, one.cost))

    def _one_sided(self, tap: str) -> frozenset[str]:
        """Operators of one side alone that ONNX defines by others."""
        version = versions_of(self.a.regions[tap].program.model)[""]
        ours, theirs = ({step.operator for step in network.steps if not step.domain} for network in self._networks(tap))
        return frozenset(name for name in ours ^ theirs if is_defined(name, version))

    def place(self, tap: str) -> Nodes:
        """Where the region parts: at its edit; where it has none, at the first step of each side, on the way to the
        output, that has no counterpart.
        """
        key = self._programs(tap)
        return self.nodes(tap, self._places[key] if key in self._places else self.first(tap))

    def first(self, tap: str) -> Place:
        """Where the region parts, in the two programs."""
        key = self._programs(tap)
        if key not in self._places:
            self._places[key] = self._first_steps(tap)
        return self._places[key]

    def is_known(self, tap: str) -> bool:
        """Whether the two programs of this region were met before."""
        return self._programs(tap) in self._met

    def nodes(self, tap: str, place: Place) -> Nodes:
        """The nodes of the two graphs at a place in a region's programs."""
        left, right = self.a.regions[tap], self.b.regions[tap]
        lines = _lines_at(left, place.ours), _lines_at(right, place.theirs)
        a, b = _apart(*lines, *zip((left, right), self._lines, strict=True))
        return _sourced(left, place.ours, a), _sourced(right, place.theirs, b)

    @cached_property
    def _lines(self) -> tuple[_Lines, _Lines]:
        return _Lines.of(self.a.regions.values()), _Lines.of(self.b.regions.values())

    def insides(self, tap: str) -> tuple[Holds, Holds]:
        """For A's region and B's, on A's values, whether it computes a value."""
        a, b = (_Inside(partial(self._network, tap, n)) for n in (0, 1))
        return a, b

    def _network(self, tap: str, n: int) -> Network:
        return self._networks(tap)[n]

    def _programs(self, tap: str) -> tuple[str, str]:
        return self.a.regions[tap].program.signature, self.b.regions[tap].program.signature

    def _first_steps(self, tap: str) -> Place:
        try:
            a, b = self._networks(tap)
            alignment = Alignment(Matching(a, b, Numbers(a), Numbers(b), COARSE))
            expected = a.array(a.output)
            part = b.output
            if expected is not None:
                part = part_apart(b, self.b.own_layout(tap, self.a.canonical(tap, expected)), COARSE)
        except OpdiffError:
            return Place(None, None)
        inside = {maker for name in b.cone(part) if (maker := b.values[name].maker) is not None}
        ours = first_of(a, alignment.between_a)
        theirs = first_of(b, [step for step in alignment.between_b if step in inside] or alignment.between_b)
        return Place.of(ours, theirs)

    def _networks(self, tap: str, opened: frozenset[str] = frozenset()) -> tuple[Network, Network]:
        """Both sides' regions, on A's values; the last ones are kept, with what was made of them."""
        if self._last is None or self._last[0] != (tap, opened):
            a, b = (side.network(tap, self.a.values, self._stepper, opened) for side in (self.a, self.b))
            self._last = (tap, opened), (a, b)
        return self._last[1]


class _Inside:
    """The values that a region computes, found by their numbers. They are made when the first is asked for."""

    def __init__(self, network: Callable[[], Network]) -> None:
        self._network = network
        self._computed: Mapping[str, np.ndarray] | None = None
        self._by_size: dict[int, ValueIndex] = {}

    def __call__(self, value: np.ndarray) -> bool:
        if self._computed is None:
            network = self._network()
            made = ((name, network.array(name)) for step in network.steps for name in step.outputs)
            self._computed = {name: array for name, array in made if array is not None}
        if value.size not in self._by_size:
            alike = ((name, array) for name, array in self._computed.items() if array.size == value.size)
            self._by_size[value.size] = ValueIndex(alike)
        return bool(self._by_size[value.size].find(value))


@dataclass(frozen=True, slots=True)
class _Lines:
    """Every line that regions run, or from which one is called: where they stand, and how they read."""

    places: frozenset[str]
    texts: frozenset[str]

    @classmethod
    def of(cls, regions: Iterable[Region]) -> _Lines:
        nodes = {id(node): node for region in regions for node in region.nodes}
        lines = [line for node in nodes.values() for line in lines_of(node)]
        return cls(frozenset(line.place for line in lines), frozenset(line.text for line in lines))

    def without(self, lines: Sequence[Line]) -> Sequence[Line]:
        """These lines from the first on that is none of them; none where all are."""
        return lines[next((n for n, line in enumerate(lines) if line.place not in self.places), len(lines)) :]


def _lines_at(region: Region, index: int | None) -> list[Line]:
    """The lines of a node, or where none is meant, of the one that makes the tap; one that the exporter left without a
    line has those of the next node that has some.
    """
    return next(filter(None, map(own_lines, region.nodes[-1 if index is None else index :])), [])


def _apart(
    a: Sequence[Line], b: Sequence[Line], runs_a: tuple[Region, _Lines], runs_b: tuple[Region, _Lines]
) -> tuple[Line | None, Line | None]:
    """A's line and B's, of those of a node each: the innermost that the other side does not run, which may call it; where it
    runs them all, the innermost that it does not run in this region.

    A file and its copy have lines that read alike: of two such lines, those that call them are told, from where they part.

    runs_a, runs_b: a side's region, and all that the side runs.
    """
    n = next((n for n, (ours, theirs) in enumerate(zip(a, b, strict=False)) if ours.place != theirs.place), 0)
    a, b = a[n:], b[n:]  # without what both run on the way, such as a helper of one file
    a, b = _not_of(*runs_b, a), _not_of(*runs_a, b)
    all_of_a, all_of_b = runs_a[1].texts, runs_b[1].texts
    if a and b and (a[0].text in all_of_b) != (b[0].text in all_of_a):
        a = [line for line in a if line.text not in all_of_b] or a
        b = [line for line in b if line.text not in all_of_a] or b
    for ours, theirs in zip(a, b, strict=False):
        if not ours.text or ours.text != theirs.text:
            return ours, theirs
    return next(iter(a), None), next(iter(b), None)


def _not_of(region: Region, runs: _Lines, lines: Sequence[Line]) -> Sequence[Line]:
    """From the innermost line on that the other side does not run, or not in this region; all where there is none."""
    return runs.without(lines) or _Lines.of([region]).without(lines) or lines


def _nodes_of(side: GraphSide, taps: Iterable[str]) -> frozenset[int]:
    """The nodes of these regions, by identity."""
    return frozenset(id(node) for tap in taps for node in side.regions[tap].nodes)


def _sourced(region: Region, index: int | None, line: Line | None) -> Source | None:
    if not region.nodes:
        return None
    source = region.source(len(region.nodes) - 1 if index is None else index)
    return replace(source, source=None if line is None else line.place)
