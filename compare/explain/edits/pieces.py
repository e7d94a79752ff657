"""The pieces of an edit: the places at which B's steps are not A's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from ....graphs.network import Step
from .alignment import Alignment

Kind = Literal["attributes", "literals", "operand", "order", "view", "output", "moves", "cut"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One place at which B is not A.

    kind: what differs of a step that both have: its attributes; its literals; an operand; the order in which an operand is
        read; the shape in which it is. Or the whole output, where the last steps are not one; or how its numbers are moved, where
        they are the same ones. Or, in what one of these replaces, a single value of A for which B has another (`cut`).
    step: B's step, where it has a partner.
    operand: which of its operands.
    ours, theirs: A's value, and B's in its place.
    """

    kind: Kind
    ours: str
    theirs: str
    step: Step | None = None
    operand: int = 0

    def cut_at(self, ours: str, theirs: str, is_operand: bool) -> Piece:
        """The part of this piece that is these two values alone: it has the step that reads it where this one's operand is it."""
        return replace(self, kind="cut", ours=ours, theirs=theirs) if is_operand else Piece("cut", ours, theirs)


def differences(alignment: Alignment) -> list[Piece]:
    """Every place at which paired steps differ, and the output where its steps are no pair, or are moved otherwise."""
    a, b = alignment.a, alignment.b
    if alignment.matching.plan(a.base(a.output), b.base(b.output)) is not None:
        return [Piece("moves", a.output, b.output)]
    found: list[Piece] = []
    for theirs in alignment.between_b:
        ours = alignment.partner.get(theirs.number)
        if ours is not None:
            found.extend(_of_a_pair(alignment, ours, theirs))
    last = b.values[b.base(b.output)].maker
    is_paired = last is not None and alignment.partner.get(last.number) is a.values[a.base(a.output)].maker
    if not is_paired or last is None or last.number not in alignment.partner:
        found.append(Piece("output", a.output, b.output))
    return found


def _of_a_pair(alignment: Alignment, ours: Step, theirs: Step) -> Iterator[Piece]:
    out = ours.outputs[0], theirs.outputs[0]
    n = 0
    if ours.attributes != theirs.attributes:
        n += 1
        yield Piece("attributes", *out, theirs)
    if not (ours.is_move or ours.has_literals_of(theirs)):
        n += 1
        yield Piece("literals", *out, theirs)
    for operand, piece in enumerate(_of_operand(alignment, ours, theirs, k) for k in range(len(theirs.operands))):
        if piece is not None:
            n += 1
            yield Piece(
                piece,
                ours.operands[alignment.orders[theirs.number][operand]],
                theirs.operands[operand],
                theirs,
                operand,
            )
    if not n and _is_seen_otherwise(alignment, ours, theirs):
        yield Piece("view", *out, theirs)


def _of_operand(alignment: Alignment, ours: Step, theirs: Step, operand: int) -> Literal["operand", "order"] | None:
    """What differs in an operand: which value it is, or only the order in which it is read."""
    a, b, matching = alignment.a, alignment.b, alignment.matching
    read, other = ours.operands[alignment.orders[theirs.number][operand]], theirs.operands[operand]
    base, other_base = a.base(read), b.base(other)
    match = alignment.match(other_base)
    if match is None:
        left, right = a.values[base].maker, b.values[other_base].maker
        is_paired = left is not None and right is not None and alignment.partner.get(right.number) is left
        return None if is_paired else "operand"
    if a.base(match.name) != base and match.name != read:
        return None if matching.plan(base, other_base) is not None else "operand"
    sizes = [array.size for array in (a.array(read), b.array(other)) if array is not None]
    if len(sizes) == 2 and sizes[0] == sizes[1] and matching.plan(read, other) is None:
        return "order"
    return None


def _is_seen_otherwise(alignment: Alignment, ours: Step, theirs: Step) -> bool:
    """Whether equal steps read equal values in other shapes: a mean over the whole width for one over each head. What else
    they read has one shape.
    """
    order, is_other = alignment.orders[theirs.number], False
    for place, name in zip(order, theirs.operands, strict=True):
        left, right = alignment.a.array(ours.operands[place]), alignment.b.array(name)
        if left is None or right is None or _leading(left.shape) == _leading(right.shape):
            continue
        if alignment.match(alignment.b.base(name)) is None:
            return False
        is_other = True
    return is_other


def _leading(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the ones that it begins with."""
    n = next((n for n, size in enumerate(shape) if size != 1), len(shape))
    return shape[n:]
