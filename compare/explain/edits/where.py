"""Where a piece of an edit stands: the nodes at which A and B part."""

from __future__ import annotations

from collections.abc import Sequence

from ....graphs.network import Network, Step
from ....graphs.sources import lines_of, own_lines
from ...judge.locate import Local, is_scores
from .alignment import Alignment
from .edit import Place
from .expression import MASKED
from .pieces import Piece


def _makes_data(network: Network, steps: Sequence[Step]) -> bool:
    return any(network.values[step.outputs[0]].is_data for step in steps)


def place_of(alignment: Alignment, piece: Piece, right: frozenset[int], has_other_mask: bool) -> Place:
    """A's node and B's: the first steps of the piece; where a side has none there, the step that reads the value.

    right: nodes of B that are right elsewhere, and so are no place to tell it.
    has_other_mask: where that is what differs, it is told where the mask is made.
    """
    a, b = alignment.a, alignment.b
    partner, is_read = _partner(alignment, piece), False
    if piece.kind in ("order", "moves"):
        ours, theirs = _moved(a, piece.ours, partner), _moved(b, piece.theirs, piece.step)
    elif piece.kind in ("attributes", "literals", "view") or alignment.is_elsewhere(piece.ours, piece.theirs):
        ours, theirs = partner, piece.step
    else:
        ours, theirs, is_read = _where_made(alignment, piece, right, has_other_mask)
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
    return Place.of(ours, theirs)


def _partner(alignment: Alignment, piece: Piece) -> Step | None:
    return None if piece.step is None else alignment.partner[piece.step.number]


def _where_made(
    alignment: Alignment, piece: Piece, right: frozenset[int], has_other_mask: bool
) -> tuple[Step | None, Step | None, bool]:
    """For a value that is another: A's step and B's at which it is made; and whether one side's only reads it."""
    a, b, partner = alignment.a, alignment.b, _partner(alignment, piece)
    inside_a, inside_b = (_steps_between(alignment, piece, side) for side in ("a", "b"))
    is_table = partner is not None and not _makes_data(a, inside_a) | _makes_data(b, inside_b)
    is_extra = alignment.is_extra(piece.ours, piece.theirs)
    is_beside = is_extra and _stand_side_by_side(alignment, _maker(a, piece.ours), first_of(b, inside_b))
    # a mask is told where it is made, and so is what B does to a table where A makes it
    are_two = bool(inside_a and inside_b) and _is_of_numbers(a, piece.ours) and not is_beside
    if is_table and _is_weight(a, piece.ours) != _is_weight(b, piece.theirs):
        ours = partner if _is_weight(a, piece.ours) else first_of(a, inside_a)
        theirs = piece.step if _is_weight(b, piece.theirs) else first_of(b, inside_b)
        return ours, theirs, False  # the one is told where it is read, the other where it is made
    if is_table and (are_two or _has_it_ready(alignment, piece, inside_a, inside_b)):
        return partner, piece.step, False  # both are told where it is read
    at_fault = [step for step in inside_b if id(b.region.nodes[step.index]) not in right]
    first_b = piece.step if not at_fault and _makes_data(b, inside_b) else None
    first_b = first_b or first_of(b, _in_own_lines(b, at_fault or inside_b, _texts(a, inside_a)))
    # what A has no step for is told where A reads the value, if B does so in that very line
    is_of_reader = is_extra and _are_in_one_line(b, first_b, piece.step or _reader(b, piece.theirs))
    if alignment.has(piece.ours) and (is_table or is_of_reader or not is_extra):
        first_a = None  # what makes the value stands in B too
    elif is_extra:
        beside = (move for move in reversed(_moves(a, piece.ours)) if _stand_side_by_side(alignment, move, first_b))
        first_a = next(beside, _maker(a, piece.ours))
    else:
        first_a = first_of(a, _in_own_lines(a, inside_a, _texts(b, inside_b)))
    if has_other_mask:
        first_a, first_b = _mask_of(a, inside_a) or first_a, _mask_of(b, inside_b) or first_b
    # a table is told where it is made, but for where the other side's step stands in the line of its reader
    is_made = is_table and not _are_in_one_line(b, first_b, piece.step)
    ours = first_a or _instead(a, piece.ours, is_made, _repeats(b, first_b)) or partner
    is_made = is_table and not _are_in_one_line(a, first_a, partner)
    theirs = first_b or _instead(b, piece.theirs, is_made, _repeats(a, first_a)) or piece.step
    is_read = (ours is partner and first_a is None) != (theirs is piece.step and first_b is None)
    return ours, theirs, is_read


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


def _in_own_lines(network: Network, steps: Sequence[Step], others: frozenset[str]) -> Sequence[Step]:
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


def _texts(network: Network, steps: Sequence[Step]) -> frozenset[str]:
    """How the lines of these steps read, those that call them too."""
    return frozenset(line.text for step in steps for line in lines_of(network.region.nodes[step.index]))


def has_other_mask_in(local: Local) -> bool:
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


def _stand_side_by_side(alignment: Alignment, ours: Step | None, theirs: Step | None) -> bool:
    """Whether two steps are run by two lines of one function, called from the same lines."""
    if ours is None or theirs is None:
        return False
    a, b = (
        [line.text for line in own_lines(network.region.nodes[step.index])]
        for network, step in ((alignment.a, ours), (alignment.b, theirs))
    )
    return bool(a and b) and a[0] != b[0] and a[1:] == b[1:]


def _is_weight(network: Network, name: str) -> bool:
    return network.values[network.base(name)].kind == "weight"


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
        stops |= {name for name in network.cone(top) if alignment.has(name)}
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
