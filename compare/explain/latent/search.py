"""Looks for latent differences in the regions that are not at fault, and for an input that shows each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ....graphs.contents import contents
from ....graphs.errors import OpdiffError
from ....graphs.network import Network
from ....graphs.regions import Region
from ...judge.locate import Local, is_identical
from ...sides.graph_side import GraphSide
from ...sides.side import Side
from ..edits.edit import Place
from ..edits.search import EditSearch, Nodes
from ..relations import masks_of
from .proof import Proof
from .walk import Walk
from .wording import key, text_of, with_positions

_MOST_STEPS = 250  # of a region: a longer one is not looked into
_MOST_WEIGHTS = 1 << 24  # elements that a region reads of weights: the head of a large model has more, and takes long
_MOST_TOKENS = 512  # of a longer input, these first ones are run
_BY_LENGTH = frozenset({"Shape", "Size"})


@dataclass(frozen=True, slots=True)
class Dormant:
    """A difference that changes no number of this input.

    taps: whose regions have it.
    nodes: A's node and B's.
    shown_by: what would show it, where that was found and run.
    """

    taps: tuple[str, ...]
    text: str
    nodes: Nodes
    shown_by: str | None


def latent_differences(a: Side, b: Side, found: Mapping[str, Local]) -> tuple[Dormant, ...]:
    """The latent differences of two graphs that were fed whole; of traces and of steps none are known."""
    n_tokens = len(a.tokens) if isinstance(a, GraphSide) else 0
    if type(a) is not GraphSide or type(b) is not GraphSide or a.steps or b.steps:
        return ()
    if len(a.tokens) > _MOST_TOKENS:
        try:
            a, b = a.beginning(_MOST_TOKENS), b.beginning(_MOST_TOKENS)
        except OpdiffError:  # made for so many tokens
            return ()
    return _Search(a, b, n_tokens).search(found)


class _Search:
    def __init__(self, a: GraphSide, b: GraphSide, n_tokens: int) -> None:
        self._a, self._b, self._n_tokens = a, b, n_tokens
        self._proof = Proof(a, b, a.stepper(), n_tokens)
        self._edits = EditSearch(a, b, {}, {})

    def search(self, found: Mapping[str, Local]) -> tuple[Dormant, ...]:
        by_key: dict[str, Dormant] = {}
        for taps in self._groups(found):
            if self._proof.is_spent:
                break
            try:
                told = list(self._of_region(taps))
            except OpdiffError:  # a step that cannot run by itself
                continue
            for name, one in told:
                known = by_key.get(name)
                by_key[name] = one if known is None else _joined(known, one)
        return tuple(by_key.values())

    def _groups(self, found: Mapping[str, Local]) -> list[tuple[str, ...]]:
        """The taps whose regions differ without effect, those together that are two same programs; none that are at fault
        anywhere.
        """
        groups: dict[tuple[str, ...], list[str]] = {}
        at_fault: set[tuple[str, ...]] = set()
        for tap, local in found.items():
            if is_identical(self._a, self._b, tap):
                continue
            ours, theirs = self._a.regions[tap], self._b.regions[tap]
            programs = ours.program.signature, theirs.program.signature
            if local.verdict == "semantic":
                at_fault.add(programs)
            elif programs[0] != programs[1] or ours.weights != theirs.weights:
                groups.setdefault((*programs, *(() if programs[0] != programs[1] else (tap,))), []).append(tap)
        return [
            tuple(taps)
            for programs, taps in groups.items()
            if programs[:2] not in at_fault and self._is_looked_into(taps[0])
        ]

    def _is_looked_into(self, tap: str) -> bool:
        """Whether two regions that are not the same program may be so by more than layout, and are not too long to run."""
        a, b = self._a.regions[tap], self._b.regions[tap]
        ours, theirs = (contents(region.program, self._n_tokens) for region in (a, b))
        is_another = a.program.signature == b.program.signature or ours != theirs
        return is_another and all(map(_is_small, (a, b)))

    def _of_region(self, taps: Sequence[str]) -> Iterator[tuple[str, Dormant]]:
        a, b = self._proof.networks(taps[0], self._a.values)
        walk, is_of_length = Walk(a, b), False
        for difference in walk.differences():
            shown_by, is_open = self._proof.tried(taps[0], a, b, walk, difference)
            if shown_by is None and not is_open:
                continue
            is_of_length |= not difference.is_of_data(a, b)
            text = text_of(a, b, difference)
            nodes = self._edits.nodes(taps[0], Place.of(difference.ours, difference.theirs))
            yield key(text, a, b, self._b.stream), Dormant(tuple(taps), text, nodes, shown_by)
        if walk.has_leapt and not is_of_length:
            yield from self._of_other_writing(taps, a, b)

    def _of_other_writing(self, taps: Sequence[str], a: Network, b: Network) -> Iterator[tuple[str, Dormant]]:
        """What two regions that are written otherwise differ in for more tokens, where that is a mask or a small edit."""
        if not _BY_LENGTH.intersection((*a.region.program.operators, *b.region.program.operators)):
            return
        ours, theirs = (contents(network.region.program, self._n_tokens) for network in (a, b))
        past = [key[1] for key in (ours - theirs) + (theirs - ours) if key[0] == "constant" and type(key[-1]) is int]
        for local, left, right in self._proof.parted(taps[0], past):
            search = EditSearch(left, right, {}, {})
            edit, masks = search.edit(local), masks_of(local, left)
            if edit is None or (edit.is_rewrite and not masks):
                continue
            text = masks[0] if masks else with_positions("; and ".join(line.text for line in edit.lines))
            nodes = search.nodes(taps[0], edit.places[0])
            yield key(text, a, b, self._b.stream), Dormant(tuple(taps), text, nodes, f"{len(left.tokens)} tokens")
            return


def _is_small(region: Region) -> bool:
    is_short = len(region.program.operators) <= _MOST_STEPS
    return is_short and sum(weight.array.size for weight in region.weights) <= _MOST_WEIGHTS


def _joined(one: Dormant, other: Dormant) -> Dormant:
    return replace(one, taps=(*one.taps, *other.taps), shown_by=one.shown_by or other.shown_by)
