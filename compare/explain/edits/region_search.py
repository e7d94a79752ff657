"""One region's search for the smallest edit: over ways to align it, each made as small as it can be, all proved."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np

from ....graphs.errors import InputError, OpdiffError
from ....graphs.network import Network, Step
from ....graphs.sources import lines_of
from ....graphs.stages import split_tap_name
from ...judge.locate import Local, is_scores
from ...measure import distance
from ...sides.graph_side import GraphSide
from .alignment import Alignment
from .cuts import CutSearch
from .edit import LARGEST, MOST_LINES, WORK, Edit, Place
from .expression import MASKED
from .matching import Matching, Numbers
from .merged import Choices, Merged
from .pieces import Piece, differences
from .repeated import changed_line
from .repeated import n_steps as steps_of_line
from .words import LONGEST, Line, Relations, Weights, Writer

# How near two values must be to be one: what rounded constants leave open; where that hides the fault, float64's rounding.
COARSE, TIGHT = 1e-6, 1e-11
_SHORT = 60  # characters: a line of fewer needs no cut to be told
_MOST_CUTS = 8  # of those that match, how many are proved
_GOOD = 200  # the cost below which no other way to align is tried
_PER_LINE, _PER_STEP, _PER_NUMBER, _PER_ORDER, _UNTELLING = 60, 30, 40, 60, 100_000

Strategy = Literal["walk", "subsequence", "cuts", "tables"]  # the last two pair no steps; the last cuts at tables too


@dataclass(frozen=True, slots=True)
class Plan:
    """How an edit was found: what to try first on the same two programs in another block.

    unmatched: values that B alone has: one that is A's by chance in another block is none of A's there either.
    opened: the operators that were taken as the steps that ONNX defines them by.
    """

    nearness: float
    strategy: Strategy
    pieces: tuple[Piece, ...]
    choices: Choices
    unmatched: frozenset[str]
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
        self._right, self._has_other_mask = right, _has_other_mask(local)
        self._numbers = Numbers(a), Numbers(b)
        self._matchings: dict[float, Matching] = {}
        self._until = a.runner.work + WORK

    def again(self, plan: Plan) -> Edit | None:
        """The edit of a plan, where it holds here too."""
        alignment = self._aligned(plan.nearness, plan.strategy, plan.unmatched)
        if any(piece.step is not None and piece.step.number not in alignment.partner for piece in plan.pieces):
            return None  # other steps of the same programs are pairs, on this block's numbers
        merged = self._merged(alignment, plan.choices)
        if merged is None or merged[0] > self._limit(plan.nearness):
            return None
        return self._edit(alignment, plan.pieces, *merged)[0]

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
        best = float("inf")
        is_rewrite = True
        strategies: tuple[Strategy, ...] = ("walk", "subsequence", "cuts", "tables")
        for strategy in strategies[:1] if is_named else strategies:
            is_idle = (strategy == "cuts" and best < _GOOD) or (strategy == "tables" and not is_rewrite)
            if is_idle or self._is_spent():
                return
            try:
                found = self._with(self._aligned(nearness, strategy), nearness, strategy, is_named)
            except InputError:
                continue
            if found is not None:
                best, is_rewrite = min(best, found.cost), is_rewrite and found.edit.is_rewrite
                yield found

    def _is_spent(self) -> bool:
        return self._a.runner.work > self._until

    def _aligned(self, nearness: float, strategy: Strategy, refused: frozenset[str] = frozenset()) -> Alignment:
        if nearness not in self._matchings:
            self._matchings[nearness] = Matching(self._a, self._b, *self._numbers, nearness)
        alignment = Alignment(self._matchings[nearness], refused)
        if strategy in ("walk", "subsequence"):
            alignment.walk()
        if strategy == "subsequence":
            alignment.add_common_subsequence()
        return alignment

    def _limit(self, nearness: float) -> float:
        return self._local.reach if nearness == COARSE else max(self._local.threshold, 0.0)

    def _merged(self, alignment: Alignment, choices: Choices) -> tuple[float, Merged] | None:
        """How far the output is from B's, and what was run; None where it cannot run so."""
        merged = Merged(alignment, choices)
        try:
            output = self._side.canonical(self._local.tap, merged.output())
            assert self._local.b64 is not None
            return distance(self._local.b64, output, is_scores(self._local.tap)), merged
        except (OpdiffError, ValueError):
            return None

    def _with(self, alignment: Alignment, nearness: float, strategy: Strategy, is_named: bool) -> Found | None:
        """The edit that this alignment gives, made as small as it can be."""
        pieces, choices, limit = differences(alignment), Choices(), self._limit(nearness)
        whole = self._merged(alignment, choices)
        if whole is None or whole[0] > limit or not pieces:
            return None
        if is_named and self._changed(alignment, whole[1])[2] > LARGEST:
            return None  # to bring it down takes most of the time, and the name says it
        pieces, choices = self._minimised(alignment, pieces, choices, limit)
        if not is_named:
            pieces, choices = self._cut(alignment, pieces, choices, limit, strategy == "tables")
        merged = self._merged(alignment, choices)
        if merged is None:
            return None
        edit, cost = self._edit(alignment, tuple(pieces), *merged)
        return Found(Plan(nearness, strategy, tuple(pieces), choices, alignment.unmatched), edit, cost)

    def _minimised(
        self, alignment: Alignment, pieces: list[Piece], choices: Choices, limit: float
    ) -> tuple[list[Piece], Choices]:
        """Without the pieces that are not needed: with A's there, B's output is met as well."""
        kept = list(pieces)
        for piece in pieces:
            if len(kept) == 1 or self._is_spent():
                break
            if piece.step is None or piece.kind == "view":
                continue
            is_operand = piece.kind in ("operand", "order")
            tried = (
                choices.with_operand((piece.step.number, piece.operand))
                if is_operand
                else choices.with_settings(piece.step.number)
            )
            merged = self._merged(alignment, tried)
            if merged is not None and merged[0] <= limit:
                choices = tried
                kept.remove(piece)
        return kept, choices

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
                    kept.extend(Piece("cut", *pair) for pair in cut.given)
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

    def _edit(self, alignment: Alignment, pieces: tuple[Piece, ...], left: float, merged: Merged) -> tuple[Edit, float]:
        """The edit in words, and what it costs: the less it changes and the shorter it is said, the more it is worth."""
        writer = self._writer(alignment)
        lines: list[Line] = []
        places: list[Place] = []
        readers: list[int | None] = []
        pieces = tuple(sorted(pieces, key=lambda one: _place(alignment, one)))
        for piece in pieces:
            line = writer.line(piece)
            if line.is_weight and line.text not in {known.text for known in lines}:
                line = replace(line, key=f"{line.key} {sum(known.is_weight for known in lines) or ''}".rstrip())
            if line.key not in {known.key for known in lines}:
                lines.append(line)
                places.append(_nodes(alignment, piece, self._right, self._has_other_mask))
                readers.append(None if piece.step is None else piece.step.index)
        whole = _whole(alignment, writer, pieces, lines)
        if whole is not None:
            ours, theirs = first_of(self._a, alignment.between_a), first_of(self._b, alignment.between_b)
            lines, places, readers = [whole], [Place.of(ours, theirs)], [None]
        replaced, brought, n_steps = self._changed(alignment, merged)
        at = changed_line(alignment, pieces, replaced, brought) if len(lines) > MOST_LINES else None
        if at is not None:
            lines, places, readers, replaced, brought = (
                [writer.repeated(*at)],
                [Place.of(*at)],
                [None],
                [at[0]],
                [at[1]],
            )
            n_steps = max(steps_of_line(self._a, at[0]), steps_of_line(self._b, at[1]))
        is_order = all(line.is_order for line in lines)
        cost = _PER_ORDER if is_order else sum(map(_cost, lines)) + _PER_STEP * (len(replaced) + len(brought))
        error = self._local.error
        residual = left / error if np.isfinite(error) and error else left
        operators = tuple(step.operator for step in replaced), tuple(step.operator for step in brought)
        return Edit(tuple(lines), tuple(places), n_steps, residual, (), operators, tuple(readers)), cost


def _whole(alignment: Alignment, writer: Writer, pieces: Sequence[Piece], lines: Sequence[Line]) -> Line | None:
    """The line of the region's whole output, where it says all that several lines of one change say, and is no longer."""
    are_one = any(piece.kind == "output" for piece in pieces) or len({piece.step for piece in pieces}) == 1
    if len(lines) < 2 or not are_one or any(line.is_number for line in lines):
        return None
    whole = writer.line(Piece("output", alignment.a.output, alignment.b.output))
    return whole if len(whole.text) <= min(LONGEST, sum(len(line.text) for line in lines)) else None


def _makes_data(network: Network, steps: Sequence[Step]) -> bool:
    return any(network.values[step.outputs[0]].is_data for step in steps)


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


def _nodes(alignment: Alignment, piece: Piece, right: frozenset[int], has_other_mask: bool) -> Place:
    """A's node and B's: the first steps of the piece; where a side has none there, the step that reads the value.

    right: nodes of B that are right elsewhere, and so are no place to tell it.
    has_other_mask: where that is what differs, it is told where the mask is made.
    """
    a, b = alignment.a, alignment.b
    partner = None if piece.step is None else alignment.partner[piece.step.number]
    is_read = False
    if piece.kind in ("order", "moves"):
        ours, theirs = _moved(a, piece.ours, partner), _moved(b, piece.theirs, piece.step)
    elif piece.kind in ("attributes", "literals", "view") or alignment.is_elsewhere(piece.ours, piece.theirs):
        ours, theirs = partner, piece.step
    else:
        inside_a, inside_b = (_steps_between(alignment, piece, side) for side in ("a", "b"))
        is_table = partner is not None and not _makes_data(a, inside_a) | _makes_data(b, inside_b)
        are_two = bool(inside_a and inside_b) and _is_of_numbers(a, piece.ours)  # a mask is told where it is made
        if is_table and (are_two or _has_it_ready(alignment, piece, inside_a, inside_b)):
            ours, theirs = partner, piece.step  # both are told where it is read
        else:
            reader = piece.step or _reader(b, piece.theirs)
            are_right = all(id(b.region.nodes[step.index]) in right for step in inside_b)
            first_b = piece.step if are_right and _makes_data(b, inside_b) else None
            first_b = first_b or first_of(b, _in_own_lines(b, inside_b, _texts(a, inside_a)))
            # what A has no step for is told where A reads the value, if B does so in that very line
            is_extra = alignment.is_extra(piece.ours, piece.theirs)
            is_of_reader = is_extra and _are_in_one_line(b, first_b, reader)
            is_of_both = alignment.has(piece.ours) and (is_table or is_of_reader)
            own = _in_own_lines(a, inside_a, _texts(b, inside_b))
            made = _maker(a, piece.ours) if is_extra else first_of(a, own)
            first_a = None if is_of_both else made
            if has_other_mask:
                first_a, first_b = _mask_of(a, inside_a) or first_a, _mask_of(b, inside_b) or first_b
            # a table is told where it is made, but for where the other side's step stands in the line of its reader
            is_made = is_table and not _are_in_one_line(b, first_b, piece.step)
            ours = first_a or _instead(a, piece.ours, is_made, _repeats(b, first_b)) or partner
            is_made = is_table and not _are_in_one_line(a, first_a, partner)
            theirs = first_b or _instead(b, piece.theirs, is_made, _repeats(a, first_a)) or piece.step
            is_read = (ours is partner and first_a is None) != (theirs is piece.step and first_b is None)
        ours, theirs = ours or _reader(a, piece.ours), theirs or _reader(b, piece.theirs)
    is_at_reader = piece.kind in ("operand", "view") and ours is partner and theirs is piece.step
    if is_at_reader or _takes_another(alignment, piece):
        ours, theirs = _on_the_way(alignment, piece) or (ours, theirs)
    if theirs is not None and theirs is piece.step and not _are_own(alignment, theirs):
        own = _first_own(alignment, theirs)  # what another stage makes too is no place to tell it
        ours, theirs = (ours, theirs) if own is None else (alignment.partner[own.number], own)
    elif is_read and ours is partner and piece.step is not None and not _are_own(alignment, piece.step):
        own = _first_own(alignment, piece.step)
        ours = ours if own is None else alignment.partner[own.number]
    return Place.of(ours, theirs, is_read)


def _takes_another(alignment: Alignment, piece: Piece) -> bool:
    """Whether B reads another value of A, of which neither is made of the other."""
    a, ours, match = alignment.a, alignment.a.base(piece.ours), alignment.match(alignment.b.base(piece.theirs))
    if piece.kind != "operand" or piece.step is None or match is None:
        return False
    met = a.base(match.name)
    return met != ours and not a.is_below(ours, met) and not a.is_below(met, ours)


def _on_the_way(alignment: Alignment, piece: Piece) -> tuple[Step, Step] | None:
    """Of values that are moved before a step reads them: the last moves in lines that the other side does not have; None where
    the two are moved in the same lines, or the step reads them in lines of its own.
    """
    assert piece.step is not None
    readers = alignment.partner[piece.step.number], piece.step
    if _texts(alignment.a, [readers[0]]) != _texts(alignment.b, [readers[1]]):
        return None
    if piece.kind == "view":
        chains = _moves(alignment.a, *readers[0].operands), _moves(alignment.b, *readers[1].operands)
    else:
        chains = _moves(alignment.a, piece.ours), _moves(alignment.b, piece.theirs)
    texts = _texts(alignment.a, chains[0]), _texts(alignment.b, chains[1])
    ours = next((step for step in chains[0] if _texts(alignment.a, [step]) - texts[1]), None)
    theirs = next((step for step in chains[1] if _texts(alignment.b, [step]) - texts[0]), None)
    return None if ours is None or theirs is None else (ours, theirs)


def _in_own_lines(network: Network, steps: Sequence[Step], others: Collection[str]) -> Sequence[Step]:
    """Of these steps, those that a line runs which the other side does not have; all where there is none."""
    return [step for step in steps if _texts(network, [step]) - others] or steps


def _moves(network: Network, *names: str) -> list[Step]:
    """The moves of these values, the last one of each first."""
    moves: list[Step] = []
    for name in names:
        while (maker := network.values[name].maker) is not None and (maker.is_move or maker.operator == "Tile"):
            moves.append(maker)
            name = maker.operands[0]
    return moves


def _texts(network: Network, steps: Sequence[Step]) -> set[str]:
    """How the lines of these steps read, those that call them too."""
    return {line.text for step in steps for line in lines_of(network.region.nodes[step.index])}


def _has_other_mask(local: Local) -> bool:
    """Whether both sides mask scores, and not the same ones."""
    if local.a64 is None or local.b64 is None or not is_scores(local.tap) or local.a64.shape != local.b64.shape:
        return False
    ours, theirs = local.a64 <= MASKED, local.b64 <= MASKED
    return bool(ours.any() and theirs.any() and (ours != theirs).any())


def _mask_of(network: Network, steps: Sequence[Step]) -> Step | None:
    """The last of these steps that says what is seen; where none does, the last that makes no data, as a mask is made."""
    own = [step for step in steps if not step.is_move]
    says = [step for step in own if (made := network.array(step.outputs[0])) is not None and made.dtype == bool]
    made_of_none = [step for step in own if not network.values[step.outputs[0]].is_data]
    return next(reversed(says or made_of_none), None)


def _has_it_ready(alignment: Alignment, piece: Piece, inside_a: Sequence[Step], inside_b: Sequence[Step]) -> bool:
    """Whether one side has a table as a constant of its own, which the other computes, or both have one."""
    a, b = alignment.a, alignment.b
    ours, theirs = a.base(piece.ours), b.base(piece.theirs)
    is_leaf_a, is_leaf_b = a.values[ours].maker is None, b.values[theirs].maker is None
    read_a, read_b = (
        {network.base(name) for step in steps for name in step.operands}
        for network, steps in ((a, inside_a), (b, inside_b))
    )
    matches = {match.name for name in read_b if (match := alignment.match(name)) is not None}
    match = alignment.match(theirs)
    is_read = (is_leaf_a and ours in matches) or (is_leaf_b and match is not None and match.name in read_a)
    return (is_leaf_a or is_leaf_b) and not is_read


def _instead(network: Network, name: str, is_table: bool, is_repeated: bool) -> Step | None:
    """What stands for a piece where a side has no steps of it: what makes the table, or the move that repeats the value as
    the other side's first step does.
    """
    made = _maker(network, name) if is_table else None
    return made or (_repeating(network, name) if is_repeated else None)


def _are_in_one_line(network: Network, one: Step | None, reader: Step | None) -> bool:
    """Whether a step stands in the line of its reader, or in one that calls it."""
    if one is None or reader is None:
        return False
    line = network.region.source(one.index).source
    return line in {known.place for known in lines_of(network.region.nodes[reader.index])}


def _is_of_numbers(network: Network, name: str) -> bool:
    array = network.array(name)
    return array is not None and array.dtype.kind == "f"


def _repeats(network: Network, step: Step | None) -> bool:
    """Whether a step makes more numbers of what it reads, as a move may."""
    if step is None or len(step.operands) != 1:
        return False
    read, made = network.array(step.operands[0]), network.array(step.outputs[0])
    return read is not None and made is not None and made.size > read.size


def _repeating(network: Network, name: str) -> Step | None:
    """The move that repeats what stands behind a value."""
    while (maker := network.values[name].maker) is not None and maker.is_move:
        if _repeats(network, maker):
            return maker
        name = maker.operands[0]
    return None


def _first_own(alignment: Alignment, step: Step) -> Step | None:
    """The first step after this one that both sides have, and no other stage does."""
    paired = (one for one in alignment.b.steps[step.number + 1 :] if one.number in alignment.partner)
    return next((one for one in paired if not one.is_move and _are_own(alignment, one)), None)


def _are_own(alignment: Alignment, step: Step) -> bool:
    ours = alignment.partner[step.number]
    return alignment.a.region.is_own(ours.index) and alignment.b.region.is_own(step.index)


def _moved(network: Network, name: str, reader: Step | None) -> Step | None:
    """The last move of a value in a line of its own before a step reads it; where there is none, that step. Of a value that
    nothing reads, the last one that changes the order, or the last.
    """
    moves = _moves(network, name)
    if reader is None:
        made = network.values[moves[-1].operands[0] if moves else name].maker
        return next((move for move in moves if move.operator == "Transpose"), next(iter(moves), made))
    source = network.region.source
    at = source(reader.index).source
    own = (move for move in moves if at is not None and source(move.index).source not in (at, None))
    return next(own, reader)


def _maker(network: Network, name: str) -> Step | None:
    return network.values[network.base(name)].maker


def _reader(network: Network, name: str) -> Step | None:
    """The first step that does more with a value than move it; where none does, the one that makes the output."""
    base = network.base(name)
    reading = (s for s in network.steps if not s.is_move and base in map(network.base, s.operands))
    return next(reading, _maker(network, network.output))


def _steps_between(alignment: Alignment, piece: Piece, side: str) -> list[Step]:
    """The steps of a piece: between its value and those that both sides have."""
    network = alignment.a if side == "a" else alignment.b
    top = network.base(piece.ours if side == "a" else piece.theirs)
    if side == "a":
        match = alignment.match(alignment.b.base(piece.theirs))
        maker = network.values[top].maker
        if match is not None and maker is not None and network.base(match.name) in maker.outputs:
            return [maker]  # another output of the same step
        stops = alignment.shared | ({alignment.a.base(match.name)} if match else set())
        names = list(network.cone(top, stops - {top}))
        inside = [name for name in names if name == top or name not in stops]
    else:
        stops = frozenset(name for name in network.cone(top) if alignment.match(name) is not None)
        inside = [name for name in network.cone(top, stops) if name not in stops]
    makers = {maker.number: maker for name in inside if (maker := network.values[name].maker) is not None}
    paired = alignment.partner if side == "b" else {ours.number for ours in alignment.partner.values()}
    own = [makers[number] for number in sorted(makers)]
    return [step for step in own if step.number not in paired] or own


def first_of(network: Network, steps: Sequence[Step]) -> Step | None:
    """The first of these steps that makes data; where none does, the mask or the positions are it: then the first that
    only this region has.
    """
    no_moves = [step for step in steps if not step.is_move] or steps
    data = [step for step in no_moves if network.values[step.outputs[0]].is_data]
    own = [step for step in no_moves if network.region.is_own(step.index)]
    return min(data or own or no_moves, key=lambda step: step.number, default=None)
