"""From regions at fault to causes: what explains in many places is one, whatever block, head or weight it is seen at."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ...graphs.stages import graph_order, split_tap_name
from ...graphs.taps import Source
from ..conventions import Value
from ..conventions.registry import REGISTER
from .catalogue import Choice, Explained, in_words
from .edits.edit import Edit
from .edits.keys import NUMBER
from .edits.search import Nodes

_LEFT_OUT, _EXTRA, _AS_IT_IS = " is left out, x = ", " is extra, x = ", " is taken as it is"
_TAKEN = re.compile(r"(?:takes|reads) (.*) where A (?:takes|reads) (.*?)(, [yz] = .*)?")
_NUMBER_FOR_ANOTHER = re.compile(rf"({NUMBER} where A has {NUMBER}), in ")
_PART = re.compile(r"\[(?:part )?-?\d[^\[\]]*\]")
Kind = Literal["convention", "edit", "rewrite", "unexplained"]


@dataclass(frozen=True)
class Cause:
    """One cause, and the taps whose regions show it.

    kind: whether a convention names it; an edit of A's region was proved instead; an edit was, but so large that it
        explains nothing; or nothing was found.
    keys: what its edit is, the same for the same change elsewhere.
    n_values: how many values of the convention it has, each in blocks of its own; `choice` is the first one.
    nodes: A's and B's node at the first of the taps.
    written: A's value of the convention and B's, for a reader.
    lines: the edit in words, beside a convention too, as it reads at the first of the taps.
    n_steps: how many steps it changes.
    residual: how far the edit's output is from B's at most, relative to the difference that it explains.
    relations: what B's value is to A's, where no edit was found; of scores, what each side masks.
    """

    kind: Kind
    taps: tuple[str, ...]
    nodes: Nodes
    choice: Choice | None = None
    written: tuple[str, str] = ("", "")
    also_fits: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    n_steps: int | None = None
    residual: float | None = None
    relations: tuple[str, ...] = ()
    keys: frozenset[str] = frozenset()
    n_values: int = 1

    @property
    def is_explained(self) -> bool:
        """Whether it says what differs, by a name or by a small edit."""
        return self.kind in ("convention", "edit")


def by_convention(
    explained: Sequence[Explained],
    nodes: Callable[[str], Nodes],
    edits: Mapping[str, Edit],
    written: Callable[[Choice], tuple[str, str]],
) -> list[Cause]:
    """A cause for each convention: of the candidates that explain a region, the one that explains most regions.

    Args:
        edits: of some of the regions, to be told beside the convention.
        written: both sides' values for a reader.
    """
    votes = Counter(choice for one in explained for candidate in one.candidates for choice in candidate)
    taps: dict[tuple[str, Value, Value], list[str]] = {}
    fits: dict[Choice, list[frozenset[str]]] = {}
    alone: dict[Choice, str] = {}
    for one in explained:
        if not one.candidates:
            continue
        chosen = max(one.candidates, key=lambda candidate: min((votes[c] for c in candidate), default=0))
        others = frozenset(in_words(candidate) for candidate in one.candidates if candidate != chosen)
        for choice in sorted(chosen, key=str):
            taps.setdefault(choice, []).append(one.tap)
            fits.setdefault(choice, []).append(others)
            if len(chosen) == 1 and one.tap in edits:
                alone.setdefault(choice, one.tap)
    causes = []
    for choice, places in taps.items():
        edit = edits.get(alone.get(choice, ""))
        told = () if edit is None or edit.is_rewrite else edit.lines
        causes.append(
            Cause(
                "convention",
                tuple(places),
                nodes(alone.get(choice, places[0])),
                choice,
                written(choice),
                tuple(sorted(frozenset.intersection(*fits[choice]))),
                tuple(line.told for line in told),
                None if edit is None else edit.n_steps,
                keys=frozenset(line.key for line in told),
            )
        )
    return causes


def by_edit(
    edits: Mapping[str, Edit],
    nodes_at: Callable[[str, Edit, int], Nodes],
    relations: Mapping[str, tuple[str, ...]],
) -> list[Cause]:
    """A cause for each piece of an edit, wherever it is found; pieces that are always found together, at one line, or
    where no line is known at one node, are one, and so are those that cannot be mended one by one.

    An edit that changes too much is told whole, and explains nothing.
    """
    places: dict[tuple[str, ...], list[tuple[str, int]]] = {}
    for tap, edit in edits.items():
        if edit.is_rewrite:
            places.setdefault(("", *map(" ".join, edit.operators)), []).append((tap, 0))
            continue
        for n, line in enumerate(edit.lines):
            places.setdefault((line.key,), []).append((tap, n))
    together: dict[tuple, list[tuple[str, ...]]] = {}
    for key, found in places.items():
        tap, n = found[0]
        theirs = nodes_at(tap, edits[tap], n)[1]
        where: object = _line(theirs) or _reader(edits[tap], n) or (key if theirs is None else theirs.name or key)
        if not edits[tap].is_rewrite and n in edits[tap].together:
            where = None
        together.setdefault((key[0] == "", tuple(tap for tap, _ in found), where), []).append(key)
    groups = _with_the_same_numbers(together, places, edits)
    merged = [_of_pieces([places[key] for key in keys], edits, nodes_at, relations) for keys in groups]
    return _with_replaced(_with_moved(_with_copies(_but_for_numbers(merged))))


def _with_the_same_numbers(
    together: Mapping[tuple, Sequence[tuple[str, ...]]],
    places: Mapping[tuple[str, ...], Sequence[tuple[str, int]]],
    edits: Mapping[str, Edit],
) -> list[list[tuple[str, ...]]]:
    """The keys that are one cause; so are those of several lines, at the same taps, that put the same number in the place of
    the same: a constant of which others are made.
    """
    joined: list[tuple[tuple[str, ...], set[str], list[tuple[str, ...]]]] = []
    for (is_rewrite, taps, _), keys in together.items():
        firsts = [places[key][0] for key in keys]
        texts = [] if is_rewrite else [edits[tap].lines[n].text for tap, n in firsts]
        numbers = {found[1] for text in texts if (found := _NUMBER_FOR_ANOTHER.match(text)) is not None}
        same = next((one for one in joined if one[0] == taps and one[1] & numbers), None)
        if same is None:
            joined.append((taps, numbers, list(keys)))
        else:
            same[1].update(numbers)
            same[2].extend(keys)
    return [keys for _, _, keys in joined]


def _line(node: Source | None) -> str | None:
    return None if node is None else node.source


def _reader(edit: Edit, piece: int) -> int | None:
    """The node of B that reads a piece."""
    return edit.readers[piece] if piece < len(edit.readers) else None


def _but_for_numbers(causes: list[Cause]) -> list[Cause]:
    """With what one line does to other regions with other numbers as one cause, told with those of the first."""
    joined: dict[object, Cause] = {}
    for n, cause in enumerate(causes):
        lines = [None if node is None else node.source for node in cause.nodes]
        is_known = cause.kind == "edit" and None not in lines
        key = (*lines, *(re.sub(NUMBER, "#", key) for key in sorted(cause.keys))) if is_known else n
        first = joined.get(key)
        if first is None or not set(first.taps).isdisjoint(cause.taps):
            joined[n if first is not None else key] = cause
            continue
        joined[key] = _joined(first, cause)
    return list(joined.values())


def _with_copies(causes: list[Cause]) -> list[Cause]:
    """With what is at copies of one node, as a loop's turns have them, as one cause, told as of the first."""
    joined: dict[object, Cause] = {}
    for n, cause in enumerate(causes):
        known = [node.copy_of for node in reversed(cause.nodes) if node is not None and node.copy_of is not None]
        key = (cause.kind, known[0]) if known else n
        joined[key] = cause if key not in joined else _joined(joined[key], cause)
    return list(joined.values())


def _joined(first: Cause, other: Cause) -> Cause:
    """Two causes as one, told as the first."""
    return replace(
        first,
        taps=tuple(sorted({*first.taps, *other.taps}, key=graph_order)),
        residual=max(first.residual or 0.0, other.residual or 0.0),
        keys=first.keys | other.keys,
    )


def _with_moved(causes: list[Cause]) -> list[Cause]:
    """With what is left out at one place and extra at another as one cause: it stands elsewhere."""
    joined = list(causes)
    for gone in causes:
        for new in causes:
            what = _only_change(gone, _LEFT_OUT)
            if what is None or what != _only_change(new, _EXTRA) or gone not in joined or new not in joined:
                continue
            where = [re.sub(r".*, x = ", "", one.lines[0]).removesuffix(_AS_IT_IS) for one in (new, gone)]
            line = f"{what} is applied to {where[0]} where A applies it to {where[1]}"
            first, second = sorted((gone, new), key=lambda one: graph_order(one.taps[0]))
            joined[joined.index(first)] = replace(
                first,
                taps=tuple(sorted({*gone.taps, *new.taps}, key=graph_order)),
                lines=(line,),
                n_steps=max(gone.n_steps or 0, new.n_steps or 0),
                residual=max(gone.residual or 0.0, new.residual or 0.0),
            )
            joined.remove(second)
    return joined


def _with_replaced(causes: list[Cause]) -> list[Cause]:
    """With what is left out and what is extra in one line of A, at the same taps, as one cause: the one stands for the other."""
    joined = list(causes)
    for gone in causes:
        for new in causes:
            are_changes = _only_change(gone, _LEFT_OUT) is not None and _only_change(new, _EXTRA) is not None
            line = _line(gone.nodes[0])
            if not are_changes or gone.taps != new.taps or line is None or line != _line(new.nodes[0]):
                continue
            if gone in joined and new in joined:
                joined[joined.index(gone)] = replace(_joined(gone, new), lines=(*gone.lines, *new.lines))
                joined.remove(new)
    return joined


def _only_change(cause: Cause, kind: str) -> str | None:
    """What is left out, or extra, where that is all that a cause is."""
    if cause.kind != "edit" or len(cause.lines) != 1 or kind not in cause.lines[0]:
        return None
    return cause.lines[0].split(kind)[0]


def _of_pieces(
    pieces: Sequence[Sequence[tuple[str, int]]],
    edits: Mapping[str, Edit],
    nodes_at: Callable[[str, Edit, int], Nodes],
    relations: Mapping[str, tuple[str, ...]],
) -> Cause:
    """One cause of pieces that all are at the same taps."""
    first, n = pieces[0][0]
    edit, taps = edits[first], tuple(dict.fromkeys(tap for tap, _ in pieces[0]))
    lines = edit.lines if edit.is_rewrite else [edit.lines[found[0][1]] for found in pieces]
    told = [line.told for line in lines]
    if not edit.is_rewrite:
        told = [_with_other_parts(text, found, edits) for text, found in zip(told, pieces, strict=True)]
    return Cause(
        "rewrite" if edit.is_rewrite else "edit",
        taps,
        nodes_at(first, edit, n),
        lines=tuple(told),
        n_steps=edit.n_steps,
        residual=max(edits[tap].residual for tap in taps),
        also_fits=edit.also_fits,
        relations=relations.get(first, ()),
        keys=frozenset(line.key for line in lines),
    )


def _with_other_parts(text: str, found: Sequence[tuple[str, int]], edits: Mapping[str, Edit]) -> str:
    """A line that says which part of a value B takes, with what it takes at another stage of the same block."""
    taken, block = _TAKEN.fullmatch(text), split_tap_name(found[0][0])[0]
    if taken is None:
        return text
    beside = ((tap, edits[tap].lines[n].text) for tap, n in found[1:] if split_tap_name(tap)[0] == block)
    for tap, other in beside:
        also = _TAKEN.fullmatch(other)
        if also is not None and _PART.findall(text) != _PART.findall(other):
            read, (one, two, letters) = text.split(" ", 1)[0], taken.groups("")
            says = "the other way round" if also.groups()[1::-1] == (one, two) else other
            return f"{read} {one} where A {read} {two}, and {says} at {split_tap_name(tap)[1]}{letters}"
    return text


def with_the_same_edits(conventions: Sequence[Cause], edits: Sequence[Cause]) -> list[Cause]:
    """All causes, where an edit that is found beside a convention is that convention, at places where it has no name. At a stage
    that the convention has nothing to do with, the name is one by chance, and the edit is told.
    """
    joined, rest = list(conventions), []
    for cause in edits:
        same = next((n for n, one in enumerate(joined) if cause.kind == "edit" and cause.keys == one.keys), None)
        if same is None:
            rest.append(cause)
            continue
        taps = tuple(sorted({*joined[same].taps, *cause.taps}, key=graph_order))
        if _may_be_at(joined[same], cause.taps):
            joined[same] = replace(joined[same], taps=taps)
        else:
            del joined[same]
            rest.append(replace(cause, taps=taps))
    return [*joined, *rest]


def _may_be_at(cause: Cause, taps: Sequence[str]) -> bool:
    """Whether the convention of a cause has a say at all of these."""
    assert cause.choice is not None
    return all(split_tap_name(tap)[1] in REGISTER[cause.choice[0]].stages for tap in taps)
