"""What the catalogue of conventions says of each region at fault."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from ...graphs.artifact import STORED_IN
from ...graphs.axes import unbatched
from ...graphs.decoder_config import DecoderConfig
from ...graphs.errors import OpdiffError
from ...graphs.stages import split_tap_name
from ..conventions import Case, Deviation, Explanation, Settings, Value, evaluate, explain, standard_settings
from ..conventions.by_stage import Holds, settings_by_stage
from ..conventions.case import Weights
from ..conventions.explain import NEAR, WHOLE, Budget, IsMet
from ..conventions.fit import is_plain
from ..conventions.registry import REGISTER
from ..conventions.rope import STAGES as ROTATED
from ..conventions.rotation import PAIRINGS
from ..conventions.rounding import STORAGE
from ..judge.locate import DOUBLE_UNIT, OTHER_KERNELS, SINGLE_UNIT, Local, is_equal, is_scores
from ..judge.places import FEW, first_place
from ..measure import distance, size
from ..sides.graph_side import GraphSide
from ..sides.side import Side
from .inferred import Inferred

_TWO_ROUNDINGS, _FAR_LESS = 2, 1000  # the table's, and the product's with it
Choice = tuple[str, Value, Value]  # convention, A's value, B's value


@dataclass(frozen=True)
class Explained:
    """What the catalogue says of one region: each candidate is a set of choices that reproduces B's output alone."""

    tap: str
    candidates: tuple[frozenset[Choice], ...]
    settings: Settings | None
    a_settings: Settings | None
    residual: float | None
    reason: str


class SharedWeights:
    """The checkpoint's tensors by name, from whichever side has them as they were stored."""

    def __init__(self, graphs: Sequence[GraphSide]) -> None:
        self._arrays: dict[str, Callable[[], np.ndarray]] = {}
        for side in reversed(graphs):
            file = side.artifact.checkpoint_weights()
            self._arrays |= {} if file is None else {name: partial(file.__getitem__, name) for name in file}
            taps = (tap for tap in side.taps if side.taps[tap].is_weight and tap not in self._arrays)
            self._arrays |= {tap: partial(side.values.__getitem__, tap) for tap in taps}
            weights = side.artifact.weights
            self._arrays |= {name: partial(getattr, weights[name], "array") for name in weights}

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    @property
    def loaders(self) -> Mapping[str, Callable[[], np.ndarray]]:
        """For each tensor, what reads it."""
        return self._arrays


class Explainer:
    """Asks the catalogue about regions. What explained one block's region is tried first on the next block's.

    Args:
        on: the side on whose values regions are replayed.
        sides: all of them, a graph or more among them.
        inferred: the decoder that A shows, where no file describes it.
    """

    def __init__(
        self, on: Side, sides: Sequence[Side], tokens: Sequence[int], inferred: Inferred | None = None
    ) -> None:
        graphs = [side for side in sides if isinstance(side, GraphSide)]
        recorded = (side.artifact.decoder for side in graphs)
        described = next((config for config in recorded if config is not None), None)
        self._inferred = inferred if described is None else None
        self._described = described
        stored = (side.artifact.facts.get(STORED_IN) for side in sides[:2] if isinstance(side, GraphSide))
        self._stored = frozenset(kind for kind in stored if kind is not None)
        self._unlike: set[str] = set()  # the stages of an inferred decoder at which A is none that the catalogue knows
        self._multiply, self._first = graphs[0].multiply, graphs[0].artifact.first_position
        self.weights = SharedWeights(graphs)
        self._tensors: Weights = self.weights if self._inferred is None else self._inferred.weights
        self._tokens = np.asarray(tokens, np.int64)
        self._fed = dict(zip(("a", "b", "reference"), sides, strict=False))
        self._axes = {tap: on.taps[tap].axes for tap in on.values}
        self._values = {tap: unbatched(value, self._axes[tap]) for tap, value in on.values.items()}
        self._seen: dict[tuple[str, str], Settings] = {}
        self._also: dict[tuple[str, str], tuple[tuple[Deviation, ...], ...]] = {}  # what explained it as well

    @cached_property
    def _config(self) -> DecoderConfig | None:
        """What a file describes; else what A shows, its base of RoPE too, where what it rotates tells it, however that is paired."""
        if self._inferred is None:
            return self._described
        config, a = self._inferred.config, self._fed["a"]
        rotated = [tap for tap in a.values if split_tap_name(tap)[1] in ROTATED]
        tap = min(rotated, key=lambda tap: a.values[tap].size, default=None)
        if tap is None:
            return config
        values = {name: unbatched(value, a.taps[name].axes) for name, value in a.values.items()}
        block, stage = split_tap_name(tap)
        case = Case(
            stage, block, values, self._tensors, config, self._tokens, self._multiply, first_position=self._first
        )
        within = Local(
            tap, "rounding", "", threshold=max(OTHER_KERNELS * SINGLE_UNIT, self._angles_off) * size(values[tap], False)
        )
        is_met = partial(_is_met, within, values[tap])
        for pairing in PAIRINGS:
            start = standard_settings(config).with_value("rope.pairing", pairing)
            shown = explain(case, values[tap], start, is_met, NEAR)
            base = shown.settings.get("rope.base")
            if shown.found and isinstance(base, float):
                return replace(config, rope_base=base)
        return config

    def explain(self, local: Local, budget: Budget = WHOLE) -> Explained:
        """What makes B's output of this region."""
        a64, b64 = local.a64, local.b64
        if self._config is None or b64 is None or a64 is None:
            return Explained(local.tap, (), None, None, None, "no configuration of the decoder is recorded")
        local, case = self._as_met(local), self.case(local.tap)
        if case.stage in self._unlike:
            return Explained(local.tap, (), None, None, None, "A is no decoder that the catalogue knows")
        start = standard_settings(self._config)
        ours_budget = WHOLE if self._inferred is None else budget
        ours = self.settings_of(self.case(local.tap, "a"), local, a64, "a", start, ours_budget)
        if not ours.found:
            self._unlike |= set() if self._inferred is None else {case.stage}
            reason = f"A's own output is not what the catalogue expects of it ({ours})"
            return Explained(local.tap, (), None, None, None, reason)
        theirs = self.settings_of(case, local, b64, "b", ours.settings, budget)
        if not theirs.found:
            return Explained(local.tap, (), None, ours.settings, None, str(theirs))
        if theirs.settings == ours.settings:
            theirs = Explanation(True, self._without_idle(case, local, ours.settings))
        return self._explained(case, local, ours.settings, theirs)

    def _as_met(self, local: Local) -> Local:
        """The verdict with what a prediction may be off. A graph by another hand may hold tables that were folded in float32, so
        there it is float32's rounding, of angles too, as long as that is far less than the difference.
        """
        if self._inferred is None:
            return local
        is_rotated = split_tap_name(local.tap)[1] in ROTATED
        off = max(_TWO_ROUNDINGS * local.floor, self._angles_off * local.scale if is_rotated else 0.0)
        return replace(local, threshold=max(local.threshold, min(off, local.error / _FAR_LESS)))

    @property
    def _angles_off(self) -> float:
        """How far the last position's angle in float32 may be from itself, and so what it rotates, as a share of its size."""
        return SINGLE_UNIT * (self._first + len(self._tokens) - 1)

    def is_odd(self, found: Explained) -> bool:
        """Whether a name for a graph that no file describes comes with a number that nobody would have written."""
        return self._inferred is not None and all(
            any(not is_plain(theirs) for _, _, theirs in candidate) for candidate in found.candidates
        )

    def _without_idle(self, case: Case, local: Local, settings: Settings) -> Settings:
        """The settings without what changes nothing as B is fed: A and B are one function then, which A's steps show and B's
        do not, or the other way round.
        """
        assert self._config is not None
        assert local.b64 is not None
        for name, standard, _ in choices(standard_settings(self._config), settings):
            plain = settings.with_value(name, standard)
            settings = plain if self._reproduces(case, plain, partial(_is_met, local, local.b64)) else settings
        return settings

    def _shared(self, local: Local, settings: Settings) -> frozenset[Choice]:
        """Of settings that both sides have, those without which the steps of each side would give the same."""
        assert self._config is not None
        ours, theirs = self.case(local.tap, "a"), self.case(local.tap, "b")
        found = set[Choice]()
        for name, standard, value in choices(standard_settings(self._config), settings):
            plain = settings.with_value(name, standard)
            expected = evaluate(ours, ours.target, plain)  # what A gives as it is fed
            if self._reproduces(theirs, plain, partial(_is_met, local, expected)):
                found.add((name, value, value))
        return frozenset(found)

    def again(self, local: Local) -> Explained | None:
        """The same, where what explained both sides in a block before explains them here too."""
        if self._config is None or local.b64 is None or local.a64 is None:
            return None
        outputs, found = (("a", local.a64), ("b", local.b64)), []
        local = self._as_met(local)
        for side, output in outputs:
            case = self.case(local.tap, side)
            known = self._seen.get((case.stage, side))
            made = None if known is None else self._evaluated(case, known)
            if known is None or made is None or not is_equal(local, output, made):
                return None
            found.append((known, made))
        (ours, _), (theirs, made) = found
        return self._parted(local, ours, theirs, made)

    def _parted(
        self, local: Local, ours: Settings, theirs: Settings, made: np.ndarray | None = None
    ) -> Explained | None:
        """What two settings that are known tell of a region; None where they are one.

        made: the output under B's settings, where it is known.
        """
        if ours == theirs:
            return None
        return self._explained(self.case(local.tap), local, ours, Explanation(True, theirs), made)

    def by_stage(self, local: Local, insides: tuple[Holds, Holds]) -> Explained | None:
        """The same, where the stages inside the region tell it.

        insides: whether A's region, and B's, computes a value.
        """
        if self._config is None or local.b64 is None or local.a64 is None:
            return None
        outputs, local = (local.a64, local.b64), self._as_met(local)
        settings, found = standard_settings(self._config), []
        for side, output, holds in zip("ab", outputs, insides, strict=True):
            case = self.case(local.tap, side)
            guessed = self._guessed(case, settings, holds, partial(_is_met, local, output))
            if guessed is None:
                return None
            settings = guessed
            self._seen[case.stage, side] = settings
            found.append(settings)
        ours, theirs = found
        return self._parted(local, ours, theirs)

    def _guessed(self, case: Case, start: Settings, holds: Holds, is_met: IsMet) -> Settings | None:
        """The settings that stage after stage tells, where they reproduce the output: only the deviations that it needs."""
        try:
            settings = settings_by_stage(case, start, holds)
        except OpdiffError:
            return None
        if not self._reproduces(case, settings, is_met):
            return None
        for name, ours, _ in choices(start, settings):
            without = settings.with_value(name, ours)
            settings = without if self._reproduces(case, without, is_met) else settings
        return settings

    def case(self, tap: str, side: str = "b") -> Case:
        """What this region offers to the catalogue, as the side `a`, `b` or `reference` is fed."""
        block, stage = split_tap_name(tap)
        assert self._config is not None
        case = Case(
            stage,
            block,
            self._values,
            self._tensors,
            self._config,
            self._tokens,
            self._multiply,
            first_position=self._first,
        )
        fed, has_cache = self._fed.get(side), f"blk.{block}.k_cache" in self._values
        return (
            case
            if fed is None
            else replace(case, spans=fed.spans, ends=fed.ends, has_cache=has_cache, n_others=fed.n_others)
        )

    def settings_of(
        self, case: Case, local: Local, output: np.ndarray, side: str, start: Settings, budget: Budget = WHOLE
    ) -> Explanation:
        """The settings that reproduce an output; those of the same stage in a block before are tried first,
        and last with more deviations from them.
        """
        is_met = partial(_is_met, local, output)
        known = self._seen.get((case.stage, side))
        if known is not None and self._reproduces(case, known, is_met):
            others = self._also.get((case.stage, side), ())
            fitting = (one for one in others if self._reproduces(case, changed(start, one), is_met))
            return Explanation(True, known, (), tuple(fitting))
        found = None
        if known is not None and known != start:
            near = explain(case, output, known, is_met, NEAR)
            found = self._needed(case, start, known, near, is_met)
        found = found or self._searched(case, local, output, start, budget)
        if found.found:
            self._seen[case.stage, side], self._also[case.stage, side] = found.settings, found.also_fits
        return found

    def _searched(self, case: Case, local: Local, output: np.ndarray, start: Settings, budget: Budget) -> Explanation:
        """The settings that reproduce an output. Of many tokens the first are asked first, as many as show the difference at
        `FEW` positions: what fits there is tried at all.
        """
        is_met, n = partial(_is_met, local, output), FEW + first_place(local, self._axes[local.tap])
        if case.is_fed_whole and 2 * n <= len(self._tokens) and output.size == np.prod(case.shape(case.stage)):
            first = case.of_first(case.stage, output, n)
            near = explain(case.beginning(n), first, start, partial(_is_met, local, first), budget)
            found = (near.deviations, *near.also_fits) if near.found else ()
            fitting = [one for one in found if self._reproduces(case, changed(start, one), is_met)]
            if fitting:
                return Explanation(True, changed(start, fitting[0]), fitting[0], tuple(fitting[1:]), near.evaluations)
        return explain(case, output, start, is_met, budget)

    def written(self, choice: Choice) -> tuple[str, str]:
        """A's value of a convention and B's, for a reader."""
        name, ours, theirs = choice
        assert self._config is not None
        return REGISTER[name].written(ours, self._config), REGISTER[name].written(theirs, self._config)

    def _needed(
        self, case: Case, start: Settings, known: Settings, near: Explanation, is_met: IsMet
    ) -> Explanation | None:
        """What a search from what explained a block before found, as deviations from the start; None where it found
        nothing, or where some of what explained that block is not needed here.
        """
        if not near.found:
            return None
        for name, ours, _ in choices(start, known):
            if self._reproduces(case, near.settings.with_value(name, ours), is_met):
                return None
        return _from_start(start, known, near)

    def cancels(self, taps: Sequence[str], readers: Sequence[str], settings: Settings, without: Settings) -> bool:
        """Whether two settings, B's and those with A's value of one convention, give the same to all that read these taps, as
        each side is fed, so that their difference is none.
        """
        values = {name: value for name, value in self._values.items() if name not in taps}
        for reader in readers:
            theirs, ours = (replace(self.case(reader, side), values=values) for side in "ba")
            try:
                one, other = evaluate(theirs, reader, settings), evaluate(ours, reader, without)
            except OpdiffError:
                return False
            scores = is_scores(reader)
            if distance(one, other, scores) > size(one, scores) * (SINGLE_UNIT * DOUBLE_UNIT) ** 0.5:
                return False
        return bool(readers)

    def _but_for_storage(self, found: Iterable[Choice]) -> frozenset[Choice]:
        """What differs beside the type in which a side holds all its weights, which is told with the storage of both."""
        every = frozenset(found)
        others = frozenset(one for one in every if one[0] != STORAGE or self._stored.isdisjoint(one[1:]))
        return others or every

    def _reproduces(self, case: Case, settings: Settings, is_met: IsMet) -> bool:
        made = self._evaluated(case, settings)
        return made is not None and is_met(made, settings)

    def _evaluated(self, case: Case, settings: Settings) -> np.ndarray | None:
        """A region's output under these settings; None where the catalogue cannot tell it."""
        try:
            return evaluate(case, case.target, settings)
        except OpdiffError:
            return None

    def _explained(
        self, case: Case, local: Local, ours: Settings, theirs: Explanation, made: np.ndarray | None = None
    ) -> Explained:
        """made: the output under B's settings, where it is known."""
        first = self._but_for_storage(choices(ours, theirs.settings)) or self._shared(local, ours)
        others = [self._but_for_storage(choices(ours, changed(ours, fitting))) for fitting in theirs.also_fits]
        assert local.b64 is not None
        made = evaluate(case, case.target, theirs.settings) if made is None else made
        rest = distance(local.b64, made, is_scores(local.tap))
        residual = rest / local.error if np.isfinite(local.error) and local.error else rest
        # what differs in nothing explains nothing, but where each side is fed otherwise
        candidates = tuple(one for one in (first, *others) if one or not case.is_fed_whole)
        reason = "" if candidates else "the same settings reproduce A's output and B's"
        return Explained(local.tap, candidates, theirs.settings, ours, residual, reason)


def _is_met(local: Local, output: np.ndarray, prediction: np.ndarray, settings: Settings) -> bool:
    return is_equal(local, output, prediction)


def _from_start(start: Settings, known: Settings, found: Explanation) -> Explanation | None:
    """What a search from other settings found, as deviations from the start; None where it found nothing."""
    if not found.found:
        return None
    first = tuple(Deviation(*choice) for choice in choices(start, known))
    others = tuple((*first, *fitting) for fitting in found.also_fits)
    return Explanation(True, found.settings, (*first, *found.deviations), others, found.evaluations)


def choices(ours: Settings, theirs: Settings) -> Iterator[Choice]:
    """The conventions in which two settings differ."""
    for name in theirs:
        if theirs[name] != ours.get(name, theirs[name]):
            yield (name, ours[name], theirs[name])


def changed(settings: Settings, deviations: Sequence[Deviation]) -> Settings:
    """Settings with these deviations."""
    for deviation in deviations:
        settings = settings.with_value(deviation.convention, deviation.to_value)
    return settings


def in_words(candidate: frozenset[Choice]) -> str:
    """A candidate as a person reads it: `rope.pairing=interleaved, rope.base=10000`."""
    return ", ".join(f"{name}={value}" for name, _, value in sorted(candidate, key=str))
