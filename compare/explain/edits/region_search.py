"""One region's search for the smallest edit: over ways to align it, each made as small as it can be, all proved."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice
from typing import Literal

import numpy as np

from ....graphs.errors import InputError, OpdiffError
from ....graphs.network import Network, Step
from ....graphs.stages import split_tap_name
from ...judge.locate import Local, is_scores
from ...measure import distance
from ...sides.graph_side import GraphSide
from .alignment import Alignment, Pairs
from .cuts import CutSearch
from .edit import LARGEST, MOST_LINES, WORK, Edit, Place
from .matching import Matching, Numbers
from .merged import Choices, Merged
from .pieces import Piece, differences
from .repeated import OFTEN, changed_line, once, steps_of_line
from .where import first_of, has_other_mask_in, place_of
from .words import LONGEST, Line, Relations, Weights, Writer

# How near two values must be to be one: what rounded constants leave open; where that hides the fault, float64's rounding.
COARSE, TIGHT = 1e-6, 1e-11
_SHORT = 60  # characters: a line of fewer needs no cut to be told
_MOST_CUTS = 8  # of those that match, how many are proved
_GOOD = 200  # the cost below which no other way to align is tried
_PER_LINE, _PER_STEP, _PER_NUMBER, _PER_ORDER, _UNTELLING = 60, 30, 40, 60, 100_000

# "sequence" pairs steps by their order alone; the last two pair none; the last cuts at tables too.
Strategy = Literal["walk", "subsequence", "sequence", "cuts", "tables"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How an edit was found: what to try first on the same two programs in another block.

    pairs: which steps are pairs.
    is_of_many: whether it has so many pieces that what a pair makes counts as one value.
    bound: the pieces without which, each alone, the region cannot run: they only go together.
    unmatched: values that B alone has: one that is A's by chance in another block is none of A's there either.
    opened: the operators that were taken as the steps that ONNX defines them by.
    """

    nearness: float
    pairs: Pairs
    pieces: tuple[Piece, ...]
    choices: Choices
    unmatched: frozenset[str]
    bound: frozenset[Piece] = frozenset()
    is_of_many: bool = False
    opened: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Found:
    """An edit, how it was found, and what it costs: the less it changes and the shorter it is said, the less."""

    plan: Plan
    edit: Edit
    cost: float

    @property
    def is_good(self) -> bool:
        """Whether it says so much in so few words that no other need be looked for."""
        return self.cost < _GOOD and not self.edit.is_rewrite


class RegionSearch:
    """One region's search.

    right: nodes of B, by identity, that regions that are right have too.
    """

    def __init__(
        self,
        local: Local,
        side: GraphSide,
        a: Network,
        b: Network,
        weights: Weights,
        known: Relations,
        right: frozenset[int],
    ) -> None:
        self._local, self._side, self._a, self._b, self._weights, self._known = local, side, a, b, weights, known
        self._right, self._has_other_mask = right, has_other_mask_in(local)
        self._numbers = Numbers(a), Numbers(b)
        self._matchings: dict[float, Matching] = {}
        self._until = a.runner.work + WORK

    def again(self, plan: Plan) -> Edit | None:
        """The edit of a plan, where it holds here too."""
        alignment = self._unpaired(plan.nearness, plan.unmatched, plan.is_of_many)
        alignment.pair_as(plan.pairs)
        if any(piece.step is not None and piece.step.number not in alignment.partner for piece in plan.pieces):
            return None  # other steps of the same programs are pairs, on this block's numbers
        merged = self._merged(alignment, plan.choices)
        if merged is None or merged[0] > self._limit(plan.nearness):
            return None
        return self._edit(alignment, plan.pieces, plan.bound, *merged)[0]

    def search(self, is_named: bool = False) -> Found | None:
        """The edit of the least cost over ways to align; constants' rounding is looked through first.

        is_named: only the first way, and without cuts, which shorten what is said and take the most time.
        """
        for nearness in (COARSE, TIGHT):
            found = list(self._tried(nearness, is_named))
            if found:
                return min(found, key=lambda one: one.cost)
        return None

    def _tried(self, nearness: float, is_named: bool) -> Iterator[Found]:
        of_many = None if is_named else self._of_many(nearness)
        if of_many is not None:
            yield of_many
        best = float("inf") if of_many is None else of_many.cost
        is_rewrite = of_many is None
        strategies: tuple[Strategy, ...] = ("walk", "subsequence", "sequence", "cuts", "tables")
        for strategy in strategies[:1] if is_named else strategies:
            if self._is_spent():
                return
            if strategy == "cuts" and (best < _GOOD or of_many is not None):
                continue
            if strategy in ("sequence", "tables") and not is_rewrite:
                continue
            for found in self._by(strategy, nearness, is_named, with_cuts=of_many is None):
                best, is_rewrite = min(best, found.cost), is_rewrite and found.edit.is_rewrite
                yield found

    def _by(self, strategy: Strategy, nearness: float, is_named: bool, with_cuts: bool) -> Iterator[Found]:
        """The edit of one way to align; and where A's steps cannot read all that their partners read, the edit without those
        pairs.
        """
        with suppress(InputError):
            found = self._with(self._aligned(nearness, strategy), nearness, strategy, is_named, with_cuts)
            if found is None:
                return
            yield found
            apart = {piece.step.number for piece in found.plan.bound if piece.step is not None}
            if apart and not found.is_good and strategy in ("subsequence", "sequence"):
                alignment = self._aligned(nearness, strategy, apart=apart)
                other = self._with(alignment, nearness, strategy, is_named, with_cuts)
                if other is not None:
                    yield other

    def _of_many(self, nearness: float) -> Found | None:
        """Of pieces so many that to cut each would take too long, as a loop has them: an edit that says the same of all."""
        if len(differences(self._aligned(nearness, "walk"))) <= MOST_LINES:
            return None
        ways: tuple[Strategy, ...] = ("subsequence", "sequence")
        tried = (
            self._with(self._aligned(nearness, way, is_of_many=True), nearness, way, with_cuts=False) for way in ways
        )
        return next((found for found in tried if found is not None and not found.edit.is_rewrite), None)

    def _is_spent(self) -> bool:
        return self._a.runner.work > self._until

    def _unpaired(self, nearness: float, refused: frozenset[str] = frozenset(), is_of_many: bool = False) -> Alignment:
        if nearness not in self._matchings:
            self._matchings[nearness] = Matching(self._a, self._b, *self._numbers, nearness)
        return Alignment(self._matchings[nearness], refused, is_of_many)

    def _aligned(
        self, nearness: float, strategy: Strategy, is_of_many: bool = False, apart: Collection[int] = ()
    ) -> Alignment:
        alignment = self._unpaired(nearness, is_of_many=is_of_many)
        if strategy in ("walk", "subsequence"):
            alignment.walk()
        if strategy in ("subsequence", "sequence"):
            alignment.add_common_subsequence(apart)
        return alignment

    def _limit(self, nearness: float) -> float:
        """How near the output must come to B's: rounded constants are looked through, unless they hide the difference itself."""
        is_coarse = nearness == COARSE and self._local.reach < self._local.error
        return self._local.reach if is_coarse else max(self._local.threshold, 0.0)

    def _merged(self, alignment: Alignment, choices: Choices, of_a: bool = False) -> tuple[float, Merged] | None:
        """How far the output is from B's, or from A's, and what was run; None where it cannot run so."""
        merged = Merged(alignment, choices)
        wanted = self._local.a64 if of_a else self._local.b64
        try:
            output = self._side.canonical(self._local.tap, merged.output())
            assert wanted is not None
            return distance(wanted, output, is_scores(self._local.tap)), merged
        except (OpdiffError, ValueError):
            return None

    def _with(
        self, alignment: Alignment, nearness: float, strategy: Strategy, is_named: bool = False, with_cuts: bool = True
    ) -> Found | None:
        """The edit that this alignment gives, made as small as it can be."""
        pieces, choices, limit = differences(alignment), Choices(), self._limit(nearness)
        whole = self._merged(alignment, choices)
        if whole is None or whole[0] > limit or not pieces:
            return None
        if is_named and self._changed(alignment, whole[1])[2] > LARGEST:
            return None  # to bring it down takes most of the time, and the name says it
        pieces, bound, choices = self._minimised(alignment, pieces, choices, limit)
        if with_cuts and not is_named:
            pieces, choices = self._cut(alignment, pieces, choices, limit, strategy == "tables")
        merged = self._merged(alignment, choices)
        if merged is None:
            return None
        edit, cost = self._edit(alignment, tuple(pieces), bound, *merged)
        return Found(
            Plan(nearness, alignment.pairs, tuple(pieces), choices, alignment.unmatched, bound, alignment.with_pairs),
            edit,
            cost,
        )

    def _minimised(
        self, alignment: Alignment, pieces: list[Piece], choices: Choices, limit: float
    ) -> tuple[list[Piece], frozenset[Piece], Choices]:
        """Without the pieces that are not needed: with A's there, B's output is met as well. Beside them those without which the
        region cannot run.
        """
        kept, bound = list(pieces), set[Piece]()
        for piece in pieces:
            if len(kept) == 1 or self._is_spent():
                break
            if piece.step is None or piece.kind == "view":
                continue
            tried = _without(choices, piece)
            merged = self._merged(alignment, tried)
            if merged is None:
                bound.add(piece)
            elif merged[0] <= limit:
                choices = tried
                kept.remove(piece)
        kept = self._without_views(alignment, kept, choices, limit)
        for piece in kept if len(kept) > 1 else ():  # others may say together what A says in its own way
            others = [one for one in kept if one is not piece]
            if self._is_spent() or any(one.step is None or one.kind == "view" for one in others):
                continue
            tried = reduce(_without, others, choices)
            merged = self._merged(alignment, tried)
            if merged is not None and merged[0] <= limit:
                return [piece], frozenset(bound & {piece}), tried
        return kept, frozenset(bound), choices

    def _without_views(self, alignment: Alignment, kept: list[Piece], choices: Choices, limit: float) -> list[Piece]:
        """The pieces without those that only see values in other shapes, where these alone leave A's output as it is."""
        others = [piece for piece in kept if piece.kind != "view"]
        if not others or len(others) == len(kept) or any(piece.step is None for piece in others) or self._is_spent():
            return kept
        merged = self._merged(alignment, reduce(_without, others, choices), of_a=True)
        return others if merged is not None and merged[0] <= limit else kept

    def _cut(
        self, alignment: Alignment, pieces: list[Piece], choices: Choices, limit: float, with_tables: bool
    ) -> tuple[list[Piece], Choices]:
        """With long pieces brought down to single values of A for which B has others."""
        writer = self._writer(alignment)
        search = CutSearch(alignment, writer.cost, self._is_spent, with_tables)
        kept: list[Piece] = []
        for piece in pieces:
            ours, theirs = self._a.base(piece.ours), self._b.base(piece.theirs)
            if piece.kind not in ("operand", "output") or not search.may_begin(ours, theirs):
                kept.append(piece)
                continue
            length = writer.line(piece).whole
            for cut in islice(search.found(ours, theirs), _MOST_CUTS if length >= _SHORT else 0):
                tried = choices.with_cut(theirs, cut)
                merged = self._merged(alignment, tried) if sum(map(writer.cost, cut.given)) < length else None
                if merged is not None and merged[0] <= limit:  # nearer than values must be to match
                    choices = tried
                    kept.extend(piece.cut_at(*pair, is_operand=self._a.base(pair[0]) == ours) for pair in cut.given)
                    break
            else:
                kept.append(piece)
        return kept, choices

    def _changed(self, alignment: Alignment, merged: Merged) -> tuple[list[Step], list[Step], int]:
        """The steps that are taken out of A, those that are put in, and how many these are, whichever is more."""
        partners = {alignment.partner[number].number for number in merged.brought if number in alignment.partner}
        kept = partners | merged.used
        replaced = [step for step in alignment.between_a if step.number not in kept and not step.is_move]
        brought = [
            step for number, step in merged.brought.items() if number not in alignment.partner and not step.is_move
        ]
        return replaced, brought, max(_n_steps(self._a, replaced), _n_steps(self._b, brought))

    def _writer(self, alignment: Alignment) -> Writer:
        return Writer(alignment, split_tap_name(self._local.tap)[0], self._weights, self._side.stream, self._known)

    def _edit(
        self, alignment: Alignment, pieces: tuple[Piece, ...], bound: frozenset[Piece], left: float, merged: Merged
    ) -> tuple[Edit, float]:
        """The edit in words, and what it costs: the less it changes and the shorter it is said, the more it is worth."""
        writer = self._writer(alignment)
        lines: list[Line] = []
        places: list[Place] = []
        readers: list[int | None] = []
        together: set[int] = set()
        pieces = tuple(sorted(pieces, key=lambda one: _place(alignment, one)))
        for piece in pieces:
            line = writer.line(piece)
            if line.is_weight and line.text not in {known.text for known in lines}:
                line = replace(line, key=f"{line.key} {sum(known.is_weight for known in lines) or ''}".rstrip())
            same = next((n for n, known in enumerate(lines) if known.key == line.key), None)
            if same is not None:
                lines[same] = lines[same].also_of(line)
                continue
            if piece in bound:
                together.add(len(lines))
            lines.append(line)
            places.append(place_of(alignment, piece, self._right, self._has_other_mask))
            readers.append(None if piece.step is None else piece.step.index)
        whole = _whole(alignment, writer, pieces, lines)
        if whole is not None:
            ours, theirs = first_of(self._a, alignment.between_a), first_of(self._b, alignment.between_b)
            lines, places, readers, together = [whole], [Place.of(ours, theirs)], [None], set()
        replaced, brought, n_steps = self._changed(alignment, merged)
        if len(pieces) >= OFTEN * len(lines):
            replaced, brought = once(self._a, replaced), once(self._b, brought)
            n_steps = max(_n_steps(self._a, replaced), _n_steps(self._b, brought))
        at = changed_line(alignment, pieces, replaced, brought) if len(lines) > MOST_LINES else None
        if at is not None:
            lines, places, readers, together = [writer.repeated(*at)], [Place.of(*at)], [None], set()
            replaced, brought = ([step] for step in at)
            n_steps = max(steps_of_line(self._a, at[0]), steps_of_line(self._b, at[1]))
        is_order = all(line.is_order for line in lines)
        cost = _PER_ORDER if is_order else sum(map(_cost, lines)) + _PER_STEP * (len(replaced) + len(brought))
        error = self._local.error
        residual = left / error if np.isfinite(error) and error else left
        operators = tuple(step.operator for step in replaced), tuple(step.operator for step in brought)
        told = tuple(lines), tuple(places), n_steps, residual
        return Edit(*told, operators=operators, readers=tuple(readers), together=frozenset(together)), cost


def _without(choices: Choices, piece: Piece) -> Choices:
    """With what A has at a piece's place."""
    assert piece.step is not None
    if piece.kind in ("operand", "order"):
        return choices.with_operand((piece.step.number, piece.operand))
    return choices.with_settings(piece.step.number)


def _whole(alignment: Alignment, writer: Writer, pieces: Sequence[Piece], lines: Sequence[Line]) -> Line | None:
    """The line of the region's whole output, where it says all that several lines of one change say, and is no longer."""
    are_one = any(piece.kind == "output" for piece in pieces) or len({piece.step for piece in pieces}) == 1
    if len(lines) < 2 or not are_one or any(line.is_number for line in lines):
        return None
    whole = writer.line(Piece("output", alignment.a.output, alignment.b.output))
    return whole if len(whole.text) <= min(LONGEST, sum(len(line.text) for line in lines)) else None


def _n_steps(network: Network, steps: Sequence[Step]) -> int:
    """How many steps these are; those that make no data, such as a mask or positions, are one together."""
    n_data = sum(network.values[step.outputs[0]].is_data for step in steps)
    return n_data + (n_data < len(steps))


def _cost(line: Line) -> float:
    left, _, right = line.text.partition(" where A has ")
    if left == right:
        return _UNTELLING
    return _PER_LINE + (_PER_NUMBER if line.is_number else line.whole)


def _place(alignment: Alignment, piece: Piece) -> int:
    """Where a piece stands in B, for an order in which to tell pieces."""
    maker = alignment.b.values[alignment.b.base(piece.theirs)].maker
    return maker.number if maker is not None else piece.step.number if piece.step is not None else -1
