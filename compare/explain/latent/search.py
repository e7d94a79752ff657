"""Looks for latent differences in the regions that are not at fault, and for an input that shows each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ....graphs.contents import contents
from ....graphs.errors import InputError, OpdiffError
from ....graphs.network import Network
from ....graphs.regions import Region
from ...judge.locate import Local, is_identical, judge_graphs
from ...sides.graph_side import GraphSide
from ...sides.side import Side, Values
from ..edits.search import EditSearch, Nodes
from .difference import Difference
from .passing import hands_on
from .probes import FEW, Probe, bounds, lengths, probes
from .walk import Walk, are_same
from .wording import key, text_of

_MOST_STEPS = 250  # of a region: a longer one is not looked into
_MOST_WEIGHTS = (
    1 << 24
)  # elements that a region reads of weights: of more, as the head has, it is a product that takes long
_WORK = 1.5e8  # elements, calls counted as some: what is spent on one comparison, about a second
_MOST_TOKENS = 512  # of a longer input, these first ones are run
_MOST_JUDGED = 256  # tokens: for more, a mask is made, but not what reads it
_MOST_PROBED = 12  # differences for which an input is looked for
_HEAVY = frozenset({"MatMul", "Gemm", "Einsum", "Conv", "Softmax"})


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
        self._stepper = a.stepper()
        self._edits = EditSearch(a, b, {})
        self._n_probed = 0

    def search(self, found: Mapping[str, Local]) -> tuple[Dormant, ...]:
        by_key: dict[str, Dormant] = {}
        for taps in self._groups(found):
            if self._stepper.work > _WORK:
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

    def _networks(self, tap: str, values: Values) -> tuple[Network, Network]:
        a, b = (side.network(tap, values, self._stepper) for side in (self._a, self._b))
        return a, b

    def _of_region(self, taps: Sequence[str]) -> Iterator[tuple[str, Dormant]]:
        a, b = self._networks(taps[0], self._a.values)
        walk = Walk(a, b)
        for difference in walk.differences():
            shown_by, is_open = self._tried(taps[0], a, b, walk, difference)
            if shown_by is None and not is_open:
                continue
            text = text_of(a, b, difference)
            place = tuple(None if step is None else step.index for step in (difference.ours, difference.theirs))
            nodes = self._edits.nodes(taps[0], (place[0], place[1]))
            yield key(text, a, b, self._b.stream), Dormant(tuple(taps), text, nodes, shown_by)

    def _tried(self, tap: str, a: Network, b: Network, walk: Walk, difference: Difference) -> tuple[str | None, bool]:
        """The first other input on which the two differ, run; and where none does, whether others still may show it.

        Of a mask or positions, which hang on nothing but the number of tokens, none does where it was run past every bound:
        then it is another way of writing.
        """
        self._n_probed += 1
        is_spent = self._n_probed > _MOST_PROBED or self._stepper.work > _WORK
        if difference.is_of_data(a, b):
            tried = () if is_spent else probes(self._a, tap)
            return next((probe.text for probe in tried if self._parts(tap, probe, difference)), None), True
        leaves, n_tokens = (walk.a_leaves, walk.b_leaves), self._n_tokens
        open_bounds, is_another = bounds(difference, leaves, n_tokens), False
        for n in () if is_spent else lengths(open_bounds, n_tokens):
            try:
                longer = self._parted_at(tap, n, difference)
                if longer is not None and n > _MOST_JUDGED:
                    return f"{n} tokens, for which it alone was run", True
                if longer is not None and _is_shown(judge_graphs(*longer, tap, longer[0].values)):
                    return f"{n} tokens", True
            except (OpdiffError, ValueError):  # a graph of a fixed length
                continue
            is_another |= longer is not None
            open_bounds = tuple(bound for bound in open_bounds if bound >= n)
        return None, is_another or bool(open_bounds)

    def _parts(self, tap: str, probe: Probe, difference: Difference) -> bool:
        """Whether the two regions give other numbers on other values, and this difference does."""
        try:
            if not _differs(*self._networks(tap, probe.values), difference):
                return False
            local = judge_graphs(self._a, self._b, tap, probe.values)
        except OpdiffError:
            return False
        return _is_shown(local)

    def _parted_at(self, tap: str, n: int, difference: Difference) -> tuple[GraphSide, GraphSide] | None:
        """The sides as if they had so many tokens, where what does not hang on data is another then: it alone is run.

        Raises:
            OpdiffError: it cannot be.
        """
        reads = dict.fromkeys((*self._a.reads(tap), *self._b.reads(tap)))
        a, b = (side.stretched(n, reads) for side in (self._a, self._b))
        wanted = _values_of(difference)
        ours, theirs = (
            Network(_small_part(side.regions[tap], names, n), side.feeds(side.regions[tap], a.values), self._stepper)
            for side, names in zip((a, b), wanted, strict=True)
        )
        return (a, b) if _differs(ours, theirs, difference) else None


def _is_shown(local: Local) -> bool:
    """Whether two regions differ by more than rounding, and in numbers."""
    return local.verdict == "semantic" and bool(np.isfinite(local.error))


def _is_small(region: Region) -> bool:
    is_short = len(region.program.operators) <= _MOST_STEPS
    return is_short and sum(weight.array.size for weight in region.weights) <= _MOST_WEIGHTS


def _joined(one: Dormant, other: Dormant) -> Dormant:
    return replace(one, taps=(*one.taps, *other.taps), shown_by=one.shown_by or other.shown_by)


def _values_of(difference: Difference) -> tuple[list[str], list[str]]:
    """The values of A and of B by which a difference shows."""
    if difference.is_of_one_side:
        names = [difference.step.outputs[0], difference.step.operands[difference.operand]]
        return (names, []) if difference.kind == "left out" else ([], names)
    assert difference.ours is not None
    return [difference.ours.outputs[0]], [difference.step.outputs[0]]


def _differs(a: Network, b: Network, difference: Difference) -> bool:
    """Whether the two are not the same on the values of these networks."""
    if difference.is_of_one_side:
        return not hands_on(difference.network(a, b), difference.step, difference.operand)
    (ours,), (theirs,) = _values_of(difference)
    return not are_same(a, b, ours, theirs)


def _small_part(region: Region, names: Sequence[str], n_tokens: int) -> Region:
    """The part of a region that makes some values.

    Raises:
        InputError: that is too much for so many tokens.
    """
    part = region.up_to(names)
    if n_tokens > FEW and _HEAVY.intersection(part.program.operators):
        raise InputError(f"a mask of {n_tokens} tokens takes products to make")
    return part
