"""What a piece of an edit is, in words that tell what to change."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ....graphs.network import Step
from ....graphs.stages import split_tap_name
from ....graphs.stream import Stream
from ..arrays import Relation, compare_arrays, differing_part, told_apart
from ..arrays.digits import shown
from .alignment import Alignment
from .expression import Style, formula, operator_name, setting_text, step_formula
from .keys import STREAM, key_of, short_name
from .pieces import Piece
from .repeated import line_text
from .wording import are_reordered, in_another_order, with_letters

Weights = Mapping[str, Callable[[], np.ndarray]]
Relations = dict[Hashable, Relation]
_SHORT, _WHOLE, _LETTERED = Style(depth=7), Style(depth=60), Style(depth=60, with_letters=True)
_DEFINED = re.compile(r", [xyz] = ")  # behind it stands what a letter is
_ARRAY = re.compile(r"constant \[[^]]*\]|[\w.]+\.(?:weight|bias)\b")
READABLE, LONGEST = 160, 320  # characters: a line of no more is told whole; with what its letters are
_NOUNS = {
    "Add": "the sum",
    "Sub": "the difference",
    "Mul": "the product",
    "Div": "the quotient",
    "Pow": "the power",
    "MatMul": "the matrix product",
}
_AFTER = " is applied after "
_SMALL = 64  # entries: so few numbers may be another tensor's by chance
# What it is called where a region reads another tap than A's: by stage, what B reads, what A reads.
_CALLED = {
    ("ffn_norm", STREAM, "attn_residual"): "parallel against sequential residual",
    ("ffn_norm", "attn_residual", STREAM): "sequential against parallel residual",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One piece in words. `key` is the same for the same mistake elsewhere: in another block, on another weight.

    whole: the length of the text with nothing left out of it, but for what x is.
    is_number: whether it is only another number, or another weight.
    is_order: whether it is only the order of steps that both have.
    is_weight: whether it is only which weight is taken.
    """

    text: str
    key: str
    whole: int
    is_number: bool = False
    is_order: bool = False
    is_weight: bool = False


class Writer:
    """Writes pieces of one region's edit.

    Args:
        block: the region's block, whose name is left out of its taps'.
        weights: every tensor of the checkpoint, loaded when asked for: one may stand in another's place.
        known: relations that were found for other regions, by what was compared; new ones are added.
    """

    def __init__(
        self, alignment: Alignment, block: int | None, weights: Weights, stream: Stream, known: Relations
    ) -> None:
        self._alignment, self._block, self._weights, self._stream = alignment, block, weights, stream
        self._known = known
        self._a, self._b = alignment.a, alignment.b
        self._relations: dict[Piece, Relation] = {}

    def line(self, piece: Piece) -> Line:
        """The piece in words."""
        text, key = self._said(piece, _SHORT)
        whole = _DEFINED.split(self._said(piece, _WHOLE)[0] if "..." in text else text)[0]
        is_data = self._b.values[self._b.base(piece.theirs)].is_data
        if piece in self._relations and not is_data:  # what a weight is to another makes a line worth more, not less
            whole = whole.removesuffix(f" ({self._relations[piece].text})")
        if "..." in text or len(text) > READABLE // 2:
            full, full_key = self._said(piece, _LETTERED)
            if len(_DEFINED.split(full)[0]) <= READABLE and len(full) <= LONGEST:
                text, key = full, full_key
        return Line(
            text,
            self._key(key or text),
            len(whole),
            self._is_number(piece),
            _AFTER in text or _is_reordered(_DEFINED.split(text)[0]),
            self._is_weight(piece),
        )

    def repeated(self, ours: Step, theirs: Step) -> Line:
        """What a line of both sides computes, of which these are the last steps."""
        said, more = line_text(self._alignment, ours, theirs, self._atom, self._name)
        return Line(said + more, self._key(said), len(said), is_order=_is_reordered(said))

    def _key(self, text: str) -> str:
        return key_of(text, self._a.region.tap, (self._a.region, self._b.region), self._stream)

    def cost(self, pair: tuple[str, str]) -> float:
        """How long a cut is in words."""
        return len(_DEFINED.split(self._said(Piece("cut", *pair), _WHOLE, is_draft=True)[0])[0])

    def _is_number(self, piece: Piece) -> bool:
        ours = self._a.values[self._a.base(piece.ours)].kind
        theirs = self._b.values[self._b.base(piece.theirs)].kind
        return {ours, theirs} <= {"constant", "weight"} or piece.kind == "attributes"

    def _is_weight(self, piece: Piece) -> bool:
        ours, theirs = self._a.values[self._a.base(piece.ours)], self._b.values[self._b.base(piece.theirs)]
        return ours.kind == theirs.kind == "weight" and ours.label != theirs.label

    def _said(self, piece: Piece, style: Style, is_draft: bool = False) -> tuple[str, str]:
        """The text, and the key where that is another."""
        if piece.kind == "attributes":
            return attributes_text(*self._partner(piece)), ""
        if piece.kind == "literals":
            text = self._of_literals(piece, style)
            return text + self._other_part(piece), text
        if piece.kind in ("order", "view"):
            return self._of_layout(piece, style)
        if piece.kind == "moves":
            return self._of_moves(piece, style)
        return self._of_values(piece, style, is_draft)

    def _compared(
        self,
        a: np.ndarray,
        b: np.ndarray,
        piece: Piece,
        axes: tuple[str, str] | None = None,
        others: Weights | None = None,
        formulas: str = "",
    ) -> Relation:
        """What B's numbers are to A's, found once for each piece, however it is written; and for other blocks, where the
        numbers are the same, or the two formulas are that give them.
        """
        if piece not in self._relations:
            key = formulas or (_digest(a), _digest(b), axes, None if others is None else frozenset(others))
            if key not in self._known:
                self._known[key] = compare_arrays(a, b, axes, others)
            self._relations[piece] = self._known[key]
        return self._relations[piece]

    def _partner(self, piece: Piece) -> tuple[Step, Step]:
        assert piece.step is not None
        return self._alignment.partner[piece.step.number], piece.step

    def _of_literals(self, piece: Piece, style: Style) -> str:
        ours, theirs = self._partner(piece)
        left = step_formula(self._a, ours, self._leaf_of_a, style)
        right = step_formula(self._b, theirs, self._leaf_of_b, style)
        if left != right and theirs.operator != "Split":
            return f"{right} where A has {left}"
        for place in sorted({*ours.literals, *theirs.literals}):
            one, other = ours.literals.get(place), theirs.literals.get(place)
            if one is None or other is None:
                return f"{operator_name(theirs)} {_literal(theirs, place)} where A has {_literal(ours, place)}"
            if not np.array_equal(one, other):
                shown = differing_part(one, other)
                return f"{theirs.operator} with {shown[1]} where A has {shown[0]}"
        return f"{theirs.operator} with other settings"

    def _other_part(self, piece: Piece) -> str:
        """Of a Split: which part is taken where A takes another."""
        ours, theirs = self._partner(piece)
        for reader in self._alignment.between_b if len(theirs.outputs) > 1 else ():
            paired = self._alignment.partner.get(reader.number)
            order = self._alignment.orders.get(reader.number, ())
            for place, name in zip(order, reader.operands if paired is not None else (), strict=False):
                assert paired is not None
                read, other = self._b.values[self._b.base(name)], self._a.values[self._a.base(paired.operands[place])]
                if read.maker is theirs and other.maker is ours and read.output != other.output:
                    return f", and part {read.output + 1} is taken where A takes part {other.output + 1}"
        return ""

    def _of_layout(self, piece: Piece, style: Style) -> tuple[str, str]:
        ours, theirs = self._partner(piece)
        moved = replace(style, with_moves=True)
        if piece.kind == "view":
            left, right = (
                [list(array.shape) for name in step.operands if (array := network.array(name)) is not None]
                for network, step in ((self._a, ours), (self._b, theirs))
            )
            if len(left) == 2 and left == right[::-1] and left != right:
                x, y = (formula(self._b, name, self._leaf_of_b, style, 2) for name in theirs.operands)
                operands = f"{x} and {y}" if x != y else f"x, x = {x}"
                return f"{_noun(theirs)} has its operands the other way round: {operands}", ""
            shapes = f"{_listed(right)} where A has {_listed(left)}"
            return f"{_noun(theirs)} is taken over other axes: over values of shape {shapes}", ""
        a, b = self._a.array(piece.ours), self._b.array(piece.theirs)
        assert a is not None
        assert b is not None
        read = formula(self._b, piece.theirs, self._leaf_of_b, style, 1)
        if a.size == b.size:
            relation = self._compared(a.reshape(b.shape), b, piece)
            start = f"{_noun(theirs)} reads {read} in another order"
            return f"{start}: {relation.text}", f"{start}: {relation.key}"
        return (
            f"{formula(self._b, piece.theirs, self._leaf_of_b, moved)} where A has "
            f"{formula(self._a, piece.ours, self._leaf_of_a, moved)}",
            "",
        )

    def _of_moves(self, piece: Piece, style: Style) -> tuple[str, str]:
        """The same numbers, put elsewhere."""
        moved, base = replace(style, with_moves=True), self._a.base(piece.ours)
        left, right = (
            formula(network, top, _only(network.base(top)), moved)
            for network, top in ((self._a, piece.ours), (self._b, piece.theirs))
        )
        x = formula(self._a, base, self._opened(base), style, 4)
        if left == right:
            a, b = self._a.array(piece.ours), self._b.array(piece.theirs)
            assert a is not None
            assert b is not None
            relation = self._compared(a.reshape(b.shape), b, piece)
            return f"{x} in another order: {relation.text}", relation.key
        return f"{right} where A has {left}, x = {x}", f"{right} where A has {left}"

    def _of_values(self, piece: Piece, style: Style, is_draft: bool) -> tuple[str, str]:
        ours, theirs = self._a.base(piece.ours), self._b.base(piece.theirs)
        left, right = self._a.values[ours], self._b.values[theirs]
        if left.kind in ("constant", "weight") and right.kind in ("constant", "weight"):
            return self._of_leaves(piece, ours, theirs, style)
        match = self._alignment.match(theirs)
        if match is not None:
            return self._of_a_value_of_a(piece, ours, self._a.base(match.name), style)
        if right.kind == "input":
            return self._other_tap(right.label, self._word_of_a(ours, style)), ""
        if self._alignment.is_extra(ours, theirs):
            inside = formula(self._b, piece.theirs, self._hole_in_b(ours), style)
            if inside == "x":
                inside = formula(self._b, piece.theirs, self._hole_in_b(ours), replace(style, with_moves=True))
            x = self._word_of_a(ours, style)
            return f"{inside} is extra, x = {x}", ""
        return self._of_two(piece, ours, theirs, style, is_draft)

    def _other_tap(self, read: str, other: str) -> str:
        before = self._stream.before(self._block or 0)
        named = [STREAM if name == before else name for name in (self._name(read), other)]
        called = _CALLED.get((split_tap_name(self._a.region.tap)[1], named[0], named[1]))
        return f"reads {self._name(read)} where A reads {other}" + (f" ({called})" if called else "")

    def _of_leaves(self, piece: Piece, ours: str, theirs: str, style: Style) -> tuple[str, str]:
        """A constant or weight for another."""
        left, right = self._a.values[ours], self._b.values[theirs]
        a, b = self._a.array(ours), self._b.array(theirs)
        assert a is not None
        assert b is not None
        inside = f", in {self._consumer(piece, style)}" if piece.step is not None else ""
        if a.size == 1 and b.size == 1:
            before, after = _told(a, b)
            return f"{after} where A has {before}{inside}", ""
        read_a, read_b = self._a.array(piece.ours), self._b.array(piece.theirs)
        is_read = read_a is not None and read_b is not None and read_a.shape == read_b.shape
        if is_read and read_a is not None and read_b is not None:
            a, b = read_a, read_b  # as they are read: a transposed weight is compared as it is used
        is_factor = piece.step is not None and piece.step.operator == "MatMul" and piece.operand == 1
        is_weight = is_factor or "weight" in (left.kind, right.kind)
        axes = None if a.ndim != 2 or not is_weight else ("in", "out") if is_read and is_factor else ("out", "in")
        others = {name: load for name, load in self._weights.items() if name != right.label}
        relation = self._compared(a, b, piece, axes, others if a.size > _SMALL else None)
        is_by_name = self._are_of_one_file(ours, theirs) or not self._is_only_of_b(right.label, b)
        if left.kind == right.kind == "weight" and left.label != right.label and is_by_name:
            name, other = self._name(right.label), self._name(left.label)
            return f"takes {name} where A takes {other}{inside}", f"takes {_part(name)} where A takes {_part(other)}"
        named = next((f" {self._name(value.label)}" for value in (left, right) if value.label), "")
        what = "the weight" if is_weight else "the constant"
        return f"{what}{named} is {relation.text}{inside}", f"{what} is {relation.key}"

    def _are_of_one_file(self, ours: str, theirs: str) -> bool:
        """Whether two weights stand in one file, so that their names say which is which."""
        if not self._a.values[ours].kind == self._b.values[theirs].kind == "weight":
            return False
        sides = ((self._a.region, ours), (self._b.region, theirs))
        files = {region.weights[int(name.removeprefix("w"))].identity[0].partition("#")[0] for region, name in sides}
        return len(files) == 1

    def _is_only_of_b(self, label: str, array: np.ndarray) -> bool:
        """Whether A has no weight of this name: what is known by it is B's own."""
        load = self._weights.get(label)
        return load is None or np.may_share_memory(load(), array)

    def _consumer(self, piece: Piece, style: Style) -> str:
        assert piece.step is not None
        return step_formula(self._b, piece.step, self._leaf_of_b, replace(style, depth=3), 3)

    def _of_a_value_of_a(self, piece: Piece, ours: str, met: str, style: Style) -> tuple[str, str]:
        """B takes a value that A has too: what A does to it is left out, or it is another one."""
        if piece.step is not None and self._alignment.is_elsewhere(piece.ours, piece.theirs):
            read, other = self._word_of_a(met, style), self._word_of_a(ours, style)
            reader = _noun(piece.step)
            if self._a.is_below(ours, met):
                inside = formula(self._a, ours, self._hole_in_a(met, ours), style)
                return f"{reader} reads x where A's reads {inside}, x = {read}", ""
            return f"{reader} reads {read} where A's reads {other}", ""
        if met != ours and self._a.is_below(ours, met):
            inside = formula(self._a, ours, self._hole_in_a(met, ours), style)
            if not re.search(r"\bx\b", inside):  # numbers that are known
                within = f", in {self._consumer(piece, style)}" if piece.step is not None else ""
                return f"{self._word_of_a(met, style)} where A has {inside}{within}", ""
            return f"{inside} is left out, x = {self._word_of_a(met, style)} is taken as it is", ""
        if met != ours and self._a.values[met].maker is not None and self._a.is_below(met, ours):
            inside = formula(self._a, met, self._hole_in_a(ours, met), style)
            return f"{inside} is extra, x = {self._word_of_a(ours, style)}", ""
        taken, other = self._word_of_a(met, style), self._word_of_a(ours, style)
        if taken == other:
            return self._of_order(piece, style)
        verb = "reads" if self._a.values[met].kind == "input" else "takes"
        key = f"{verb} {taken} where A {verb} {other}"
        taken, other, letters = with_letters(taken, other)
        return f"{verb} {taken} where A {verb} {other}{letters}", key

    def _of_order(self, piece: Piece, style: Style) -> tuple[str, str]:
        moved = replace(style, with_moves=True)
        left = formula(self._a, piece.ours, self._leaf_of_a, moved)
        right = formula(self._b, piece.theirs, self._leaf_of_b, moved)
        a, b = self._a.array(piece.ours), self._b.array(piece.theirs)
        relation = self._compared(a, b, piece) if a is not None and b is not None and a.shape == b.shape else None
        if left != right:
            return f"{right} where A has {left}" + (f": {relation.text}" if relation and relation.telling else ""), ""
        word = formula(self._b, piece.theirs, self._leaf_of_b, style)
        return (
            (f"{word} in another order: {relation.text}", relation.key)
            if relation
            else (f"{word} in another layout", "")
        )

    def _of_two(self, piece: Piece, ours: str, theirs: str, style: Style, is_draft: bool) -> tuple[str, str]:
        """B's formula where A has another; what one is of the other where that is telling."""
        for one in (style, replace(style, with_moves=True), replace(_WHOLE, with_moves=True)):
            right = formula(self._b, piece.theirs, self._leaf_of_b, one)
            left = formula(self._a, piece.ours, self._opened(ours), one)
            if left != right:
                break
        text = f"{right} where A has {left}"
        if is_draft:
            return text, ""
        turned = self._in_another_order(piece, ours)
        if turned is not None:
            return turned, ""
        if style.with_letters:
            right, left, letters = with_letters(right, left)
            text, key = f"{right} where A has {left}{letters}", f"{right} where A has {left}"
            if left != right and _says_it_all(right, left):
                return text, key
        a, b = self._a.array(ours), self._b.array(theirs)
        if left == right or (a is not None and b is not None and a.shape == b.shape):
            relation = (
                None
                if a is None or b is None
                else self._compared(
                    a.reshape(b.shape) if a.size == b.size else a, b, piece, formulas="" if left == right else text
                )
            )
            is_telling = relation is not None and relation.telling and "but for rounding" not in relation.text
            if relation is not None and (is_telling or left == right):
                start = f"{right} is another" if left == right else text
                return f"{start} ({relation.text})", f"{start} ({relation.key})"
        return text, ""

    def _in_another_order(self, piece: Piece, ours: str) -> str | None:
        """The words for steps of A that B has the other way round; None where that is not it."""
        right = formula(self._b, piece.theirs, self._leaf_of_b, _WHOLE)
        left = formula(self._a, piece.ours, self._opened(ours), _WHOLE)
        found = in_another_order(right, left)
        if found is None:
            return None
        late, early = (text if len(text) <= READABLE // 2 else f"{text[: READABLE // 2]}..." for text in found)
        return f"{early}{_AFTER}{late}, where A applies it before"

    # -- words for values

    def _leaf_of_b(self, name: str) -> str | None:
        """B's value by A's name, where A has it."""
        match = self._alignment.match(name)
        if match is None or self._b.values[name].kind == "constant":
            value = self._b.values[name]
            return self._name(value.label) if value.kind in ("input", "weight") else None
        return self._atom(match.name)

    def _leaf_of_a(self, name: str) -> str | None:
        value = self._a.values[name]
        if value.kind in ("input", "weight"):
            return self._name(value.label)
        return self._atom(name) if name in self._alignment.shared and value.kind == "step" else None

    def _opened(self, top: str) -> Callable[[str], str | None]:
        """As `_leaf_of_a`, but for the value itself, which is gone into."""
        is_step = self._a.values[top].kind == "step"
        return lambda name: None if is_step and name == top else self._leaf_of_a(name)

    def _hole_in_b(self, hole: str) -> Callable[[str], str | None]:
        def leaf(name: str) -> str | None:
            match = self._alignment.match(name)
            if match is not None and self._a.base(match.name) == hole and self._b.values[name].kind != "constant":
                return "x"
            return self._leaf_of_b(name)

        return leaf

    def _hole_in_a(self, hole: str, top: str) -> Callable[[str], str | None]:
        def leaf(name: str) -> str | None:
            return "x" if self._a.base(name) == hole else None if name == top else self._leaf_of_a(name)

        return leaf

    def _word_of_a(self, name: str, style: Style) -> str:
        base = self._a.base(name)
        if self._a.values[base].kind in ("input", "weight"):
            return self._name(self._a.values[base].label)
        return formula(self._a, name, self._opened(base), style, 4)

    def _atom(self, name: str) -> str:
        """A shared value in a few words."""
        value = self._a.values[self._a.base(name)]
        if value.kind in ("input", "weight"):
            return self._name(value.label)

        def leaf(inner: str) -> str | None:
            inside = self._a.values[inner]
            return self._name(inside.label) if inside.kind in ("input", "weight") else None

        return formula(self._a, name, leaf, _SHORT, 3)

    def _name(self, label: str) -> str:
        return short_name(label, self._block)


def _noun(step: Step) -> str:
    """What a step makes, as the subject of a sentence."""
    return _NOUNS.get(step.operator, operator_name(step))


def _is_reordered(text: str) -> bool:
    """Whether a line tells the same two steps in another order."""
    right, _, left = text.partition(" where A has ")
    return are_reordered(right, left)


def _only(hole: str) -> Callable[[str], str | None]:
    return lambda name: "x" if name == hole else None


def attributes_text(ours: Step, theirs: Step) -> str:
    """In which attributes B's step is not A's."""
    names = [
        n for n in sorted({*ours.attributes, *theirs.attributes}) if ours.attributes.get(n) != theirs.attributes.get(n)
    ]
    told = []
    for name in names:
        left, right = (step.attributes.get(name, step.defaults.get(name, "none")) for step in (ours, theirs))
        if isinstance(left, float) and isinstance(right, float):
            left, right = told_apart(left, right)
        told.append(f"{name}={setting_text(right)} where A has {setting_text(left)}")
    return f"{theirs.operator} with {', '.join(told)}"


def _says_it_all(right: str, left: str) -> bool:
    """Whether two formulas are short and leave nothing out, so that no more need be said of what they give."""
    hidden = [sorted(_ARRAY.findall(text)) for text in (right, left)]
    return "..." not in right + left and len(right + left) <= READABLE and hidden[0] == hidden[1]


def _digest(array: np.ndarray) -> tuple:
    return array.shape, array.dtype, hashlib.blake2b(array.tobytes(), digest_size=16).digest()


def _told(a: np.ndarray, b: np.ndarray) -> tuple[str, str]:
    if a.dtype.kind == "f" and b.dtype.kind == "f":
        return told_apart(float(a.ravel()[0]), float(b.ravel()[0]))
    return str(a.ravel()[0]), str(b.ravel()[0])


def _literal(step: Step, place: int) -> str:
    """What says where a step's values stand, in words."""
    literal = step.literals.get(place)
    if step.operator.startswith("Reduce"):
        return "over all axes" if literal is None or not literal.size else f"over axes {shown(literal)}"
    return "with none" if literal is None else f"with {shown(literal)}"


def _part(label: str) -> str:
    return split_tap_name(label)[1]


def _listed(shapes: list[list[int]]) -> str:
    return " and ".join(map(str, shapes))
