"""The faults of B against A: which regions, at which node, for which cause; and what differs but is no fault."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...graphs.progress import counted
from ...graphs.stages import graph_order, split_tap_name
from ..conventions.explain import BESIDE_A_REWRITE, BESIDE_AN_EDIT, WHOLE
from ..judge.cancel import cancelling, is_unread
from ..judge.locate import CERTAIN, Local
from ..sides.graph_side import GraphSide
from ..sides.scheduled_side import ScheduledSide
from ..sides.side import Side
from ..sides.trace_side import TraceSide, replayed, runnable
from .catalogue import Explained, Explainer
from .causes import Cause, by_convention, by_edit, with_the_same_edits
from .edits.by_step import StepwiseSearch
from .edits.edit import Edit
from .edits.search import EditSearch, Nodes
from .edits.trial_search import TrialSearch
from .in_blocks import with_other_numbers
from .relations import masks_of, relations_of

_TWO_ROUNDINGS = 2  # each lies about a floor from what float64 gives


@dataclass(frozen=True)
class Faults:
    """All faults. `cancelled` are groups of taps that differ but cancel; of `unread` ones the difference reaches nothing;
    `below` differ by less than float32 resolves.

    edits: of the regions for which one was looked for.
    """

    found: Mapping[str, Local] = field(repr=False)
    taps: tuple[str, ...]
    causes: tuple[Cause, ...]
    explained: Mapping[str, Explained]
    edits: Mapping[str, Edit]
    nodes: Mapping[str, Nodes]
    relations: Mapping[str, tuple[str, ...]]
    cancelled: tuple[tuple[str, ...], ...]
    unread: tuple[str, ...]
    below: tuple[str, ...]

    @property
    def unexplained(self) -> tuple[str, ...]:
        """The taps at fault for which neither a name nor a small edit was found."""
        known = {tap for cause in self.causes if cause.is_explained for tap in cause.taps}
        return tuple(tap for tap in self.taps if tap not in known)


def faults(a: Side, b: Side, found: Mapping[str, Local], explainer: Explainer) -> Faults:
    """Explain every semantic region that does not cancel with others."""
    cancelled = cancelling(a, b, found)
    innocent = {tap for group in cancelled for tap in group}
    suspects = [tap for tap, local in found.items() if local.verdict == "semantic" and tap not in innocent]
    search = _Search(a, b, found, explainer)
    explained = {tap: search.explained(found[tap]) for tap in counted(suspects)}
    search.agree(found)
    causes, dropped = _without_cancelling(
        a,
        b,
        by_convention(list(explained.values()), search.nodes, search.edits, explainer.written),
        explained,
        explainer,
    )
    causes = with_other_numbers(causes)
    named = {tap for cause in causes for tap in cause.taps}
    unnamed = [tap for tap in suspects if not explained[tap].candidates]
    below = tuple(tap for tap in unnamed if _is_below_float32(found[tap], search.edits.get(tap)))
    unnamed = [tap for tap in unnamed if tap not in below]
    related = {tap: relations_of(found[tap], a) for tap in unnamed if tap not in search.edits}
    edited = {tap: search.edits[tap] for tap in unnamed if tap in search.edits}
    masks = {tap: masks_of(found[tap], a) for tap in edited}
    causes = with_the_same_edits(causes, by_edit(edited, search.nodes_at, masks))
    causes += _unexplained(related, search)
    at_fault = tuple(tap for tap in suspects if tap in named or tap in unnamed)
    return Faults(
        found,
        at_fault,
        tuple(sorted(causes, key=lambda cause: (not cause.is_explained, graph_order(cause.taps[0])))),
        explained,
        search.edits,
        {tap: search.nodes(tap) for tap in at_fault},
        related,
        (*cancelled, *dropped),
        tuple(tap for group in cancelled if is_unread(a, b, group, found) for tap in group),
        below,
    )


class _Search:
    """Asks both for a name and for an edit. Where an edit is known, a name is only worth a part of the effort."""

    def __init__(self, a: Side, b: Side, found: Mapping[str, Local], explainer: Explainer) -> None:
        self._a, self._b, self._explainer = a, b, explainer
        self._search: EditSearch | StepwiseSearch | None = None
        if isinstance(a, ScheduledSide) and isinstance(b, ScheduledSide):
            self._search = StepwiseSearch(a, b, found, explainer.weights.loaders)
        elif isinstance(a, GraphSide) and isinstance(b, GraphSide):
            self._search = EditSearch(a, b, explainer.weights.loaders, found)
        on, is_exact = replayed(a, b).values, self._search is not None
        is_told_of_a = is_exact or isinstance(b, TraceSide)
        self._trials = TrialSearch(runnable(a, b), on, is_told_of_a, explainer.weights.loaders, is_exact)
        self.edits: dict[str, Edit] = {}

    def explained(self, local: Local) -> Explained:
        """What the catalogue says of a region; its edit is looked for where that says nothing, or is new."""
        if self._search is None:
            return self._against_a_trace(local)
        named = self._explainer.again(local)
        if named is not None and self._search.is_known(local.tap):
            return named
        named = named or self._explainer.by_stage(local, self._search.insides(local.tap))
        edit = self._search.edit(local, is_named=named is not None)
        if named is None and (edit is None or edit.is_rewrite) and not _is_below_float32(local, edit):
            edit = self._tried(local) or edit
        if edit is not None:
            self.edits[local.tap] = edit
        budget = WHOLE if edit is None else BESIDE_A_REWRITE if edit.is_rewrite else BESIDE_AN_EDIT
        found = named or self._explainer.explain(local, budget)
        is_said = edit is not None and not edit.is_rewrite
        return replace(found, candidates=()) if is_said and self._explainer.is_odd(found) else found

    def agree(self, found: Mapping[str, Local]) -> None:
        """Have one edit for regions of the same programs, where one holds in them all."""
        if self._search is not None:
            self.edits = self._search.agreed(found, self.edits)

    def _tried(self, local: Local) -> Edit | None:
        """A change of A's region alone, for one that B computes in other steps."""
        assert self._search is not None
        edit = self._trials.edit(local)
        if edit is None:
            return None
        first, ours = self._search.first(local.tap), edit.places[0].ours
        return replace(edit, places=(first if ours is None else replace(first, ours=ours),))

    def _against_a_trace(self, local: Local) -> Explained:
        """A name, or what is tried where there is none."""
        found = self._explainer.explain(local)
        edit = None if found.candidates else self._trials.edit(local)
        if edit is not None:
            self.edits[local.tap] = edit
        return found

    def nodes(self, tap: str) -> Nodes:
        """A's and B's node at which a region parts; against a trace, which has no insides, those that make the tap."""
        if self._search is None:
            return self._a.taps[tap].node, self._b.taps[tap].node
        return self._search.place(tap)

    def nodes_at(self, tap: str, edit: Edit, piece: int) -> Nodes:
        """The same for one piece of an edit."""
        if self._search is not None:
            return self._search.nodes(tap, edit.places[piece])
        (ours, theirs), place = self.nodes(tap), edit.places[piece]
        return (
            ours if place.ours is None else self._a.regions[tap].source(place.ours),
            theirs if place.theirs is None else self._b.regions[tap].source(place.theirs),
        )


def harmless_places(a: Side, b: Side, cause: Cause, found: Mapping[str, Local]) -> tuple[str, ...]:
    """Regions computed as differently as those of a cause, by the same programs, that yet agree with their weights.

    A trace has no programs, so none are known of it.
    """
    if not (isinstance(a, GraphSide) and isinstance(b, GraphSide)):
        return ()
    programs = {(a.regions[t].program.signature, b.regions[t].program.signature) for t in cause.taps}
    programs = {(ours, theirs) for ours, theirs in programs if ours != theirs}  # else they only read other values
    return tuple(
        tap
        for tap in b.regions
        if found[tap].verdict != "semantic"
        and (a.regions[tap].program.signature, b.regions[tap].program.signature) in programs
    )


def _is_below_float32(local: Local, edit: Edit | None) -> bool:
    """Whether a difference without a name is no more than two evaluations in float32 may lie apart in this region, and no
    plain number or weight that is another.
    """
    is_plain = edit is not None and edit.n_steps == 0
    is_small = local.error <= _TWO_ROUNDINGS * local.floor < np.inf
    return is_small and not is_plain and local.certain < CERTAIN


def _without_cancelling(
    a: Side, b: Side, causes: Sequence[Cause], explained: Mapping[str, Explained], explainer: Explainer
) -> tuple[list[Cause], list[tuple[str, ...]]]:
    """Leave out causes that change nothing for all that read their taps: one more on the positions of q and k alike."""
    kept, dropped = [], []
    for cause in causes:
        if len(cause.taps) > 1 and _changes_nothing(a, b, cause, explained, explainer):
            dropped.append(cause.taps)
        else:
            kept.append(cause)
    return kept, dropped


def _changes_nothing(a: Side, b: Side, cause: Cause, explained: Mapping[str, Explained], explainer: Explainer) -> bool:
    assert cause.choice is not None
    name, ours, _ = cause.choice
    by_block: dict[int | None, list[str]] = {}
    for tap in cause.taps:
        by_block.setdefault(split_tap_name(tap)[0], []).append(tap)
    for block, taps in by_block.items():
        around = [tap for tap in explained if split_tap_name(tap)[0] == block]
        settings = explained[taps[0]].settings
        assert settings is not None
        for tap in around:
            fitting = explained[tap].candidates
            for key, _, value in next((one for one in fitting if cause.choice in one), next(iter(fitting), ())):
                settings = settings.with_value(key, value)
        readers = [tap for tap in dict.fromkeys((*a.readers(around), *b.readers(around))) if tap not in around]
        if not explainer.cancels(around, readers, settings, settings.with_value(name, ours)):
            return False
    return True


def _unexplained(related: Mapping[str, tuple[str, ...]], search: _Search) -> Iterator[Cause]:
    """Causes of which nothing is known but the node and a relation: one for all blocks that show the same."""
    groups: dict[tuple, list[str]] = {}
    for tap, found in related.items():
        operators = tuple(None if node is None else node.op_type for node in search.nodes(tap))
        groups.setdefault((split_tap_name(tap)[1], operators, found[:1]), []).append(tap)
    for taps in groups.values():
        yield Cause("unexplained", tuple(taps), search.nodes(taps[0]), relations=related[taps[0]])
