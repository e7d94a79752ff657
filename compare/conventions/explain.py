"""Which conventions reproduce what a region put out: a search outward from given settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from ...graphs.errors import OpdiffError
from .case import Array, Case
from .evaluate import Memo, Reads, evaluate_with_reads
from .fit import Fitted, Question, is_plain
from .registry import REGISTER, Convention, conventions
from .settings import Settings, Value

IsMet = Callable[[Array, Settings], bool]
EVALUATION_WORK = 20_000  # what an evaluation costs beside its elements, counted in elements
WEIGHT_WORK = 1 / 16  # what an element of a weight that is multiplied with costs, besides what its products cost,
ALSO_WORK = 5e7  # what may be spent on finding out what fits as well
PRODUCT_TOKENS = 16  # which is as much again for so many tokens


@dataclass(frozen=True, slots=True)
class Budget:
    """How many elements may be predicted before deviations are given up: single ones, pairs, and triples beyond these;
    and whether last resorts are asked.
    """

    singles: float
    pairs: float
    triples: float
    with_last_resorts: bool


WHOLE = Budget(4e8, 1e8, 4e7, True)  # some seconds
BESIDE_A_REWRITE = Budget(6e7, 3e7, 0, True)  # where the place is known, and that much is other there
NEAR = Budget(1.5e8, 0, 0, False)  # from what explained a block before
BESIDE_AN_EDIT = Budget(6e7, 3e7, 0, False)  # for a name, where the explanation is known


@dataclass(frozen=True, slots=True)
class Deviation:
    """One convention that is another than in the settings that the search started from."""

    convention: str
    from_value: Value
    to_value: Value

    def __str__(self) -> str:
        return f"{self.convention}={_written(self.to_value)} (for {_written(self.from_value)})"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What reproduces a region's output.

    Args:
        found: whether anything in the catalogue does; if not, `deviations` is empty and `settings` is the start.
        settings: the start with the deviations applied.
        deviations: the likeliest explanation; empty with `found` where the start itself reproduces the output.
        also_fits: further explanations of as many deviations that this output cannot tell from the first.
        evaluations: how often the model was run.
        reason: why the catalogue could not be asked, where that is so.
    """

    found: bool
    settings: Settings
    deviations: tuple[Deviation, ...] = ()
    also_fits: tuple[tuple[Deviation, ...], ...] = ()
    evaluations: int = 0
    reason: str = ""

    def __str__(self) -> str:
        if not self.found:
            return "nothing in the catalogue fits" + (f": {self.reason}" if self.reason else "")
        return ", ".join(map(str, self.deviations)) or "no deviation"


def explain(case: Case, output: np.ndarray, start: Settings, is_met: IsMet, budget: Budget = WHOLE) -> Explanation:
    """The fewest deviations from `start` that reproduce `output`: none, one, two, and three where that is cheap.

    All the explanations of the first level that has one are kept. Fitted numbers of more than two significant digits
    count only where nothing else on that level fits, and the catalogue's last resorts only where no pair does.
    A prediction with NaN never fits.

    Args:
        output: the region's output in float64, in canonical axes or flattened.
        is_met: whether a prediction, made with these settings, is the output but for rounding.
    """
    try:
        measured = case.canonical(case.stage, output)
        if np.isnan(measured).any():
            return Explanation(False, start, reason="the output holds NaN")
        search = _Search(case, measured, start, is_met, budget)
        hits = search.first_level_with_hits()
    except OpdiffError as error:
        return Explanation(False, start, reason=str(error))
    evaluations = search.memo.evaluations
    if not hits:
        return Explanation(False, start, evaluations=evaluations)
    deviations = [search.deviations(changes) for changes in hits]
    return Explanation(True, _changed(start, hits[0]), deviations[0], tuple(deviations[1:]), evaluations)


Changes = tuple[tuple[Convention, Value], ...]


@dataclass(frozen=True, slots=True)
class _Trial:
    """Whether a prediction fits, which conventions it read, and which changes gave the very same prediction first."""

    changes: Changes
    fits: bool
    reads: Reads
    first: Changes | None = None


class _Search:
    """One search: tries changes, and remembers which predictions were seen and what they read."""

    def __init__(self, case: Case, output: Array, start: Settings, is_met: IsMet, budget: Budget) -> None:
        self.budget = budget
        self.case, self.output, self.start, self.is_met = case, output, start, is_met
        self.memo = Memo()
        self.order = {entered.name: place for place, entered in enumerate(conventions())}
        self.trials: dict[Changes, _Trial] = {}
        self.offered: dict[tuple[Changes, str], list[Value]] = {}
        self.offered_hits: set[tuple[Changes, str]] = set()
        self.seen: dict[bytes, _Trial] = {}  # by the prediction's digest: what gave it first

    @property
    def work(self) -> float:
        """What was spent, in elements predicted."""
        n_tokens = len(self.case.tokens)
        products = self.memo.n_multiplied * (1 + n_tokens / PRODUCT_TOKENS) * WEIGHT_WORK
        return self.memo.evaluations * (self.output.size + EVALUATION_WORK) + products

    def first_level_with_hits(self) -> list[Changes]:
        """The explanations with the fewest deviations, the likeliest first; none where nothing fits."""
        if self.trial(()).fits:
            return [()]
        levels: list[Callable[[], Iterable[Changes]]] = [partial(self.singled, False), partial(self.doubled, False)]
        if self.budget.with_last_resorts:
            levels += [partial(self.singled, True), partial(self.doubled, True)]
        if self.budget.triples:
            levels.append(self.tripled)
        for level in levels:
            hits = self.in_order(level())
            if hits:
                return [hit for hit in hits if all(is_plain(value) for _, value in hit)] or hits
        return []

    def singled(self, last_resort: bool) -> Iterator[Changes]:
        """The hits with one deviation. Where one that is offered fits, others are solved for only as far as that is cheap."""
        hits = list(self.extended((), last_resort=last_resort, solved=False, limit=self.budget.singles))
        yield from hits
        limit = ALSO_WORK if hits else self.budget.singles
        yield from self.extended((), last_resort=last_resort, solved=True, limit=limit)

    def in_order(self, hits: Iterable[Changes]) -> list[Changes]:
        """Each set of changes once, its own changes in the order of the catalogue, likelier sets first."""
        written = (tuple(sorted(hit, key=lambda change: self.order[change[0].name])) for hit in hits)
        return sorted(
            dict.fromkeys(written),
            key=lambda hit: (sum(entered.rank for entered, _ in hit), [self.order[entered.name] for entered, _ in hit]),
        )

    def extended(self, base: Changes, *, last_resort: bool, solved: bool, limit: float) -> Iterator[Changes]:
        """The hits that have one deviation more than `base`: an alternative that is offered, or one that is solved for."""
        for entered in self.readable(base):
            if self.work > limit:
                return
            if entered.last_resort is last_resort:
                yield from self.solved_by(base, entered) if solved else self.offered_by(base, entered)

    def offered_by(self, base: Changes, entered: Convention) -> Iterator[Changes]:
        """The hits with one of a convention's alternatives more."""
        longer = ((*base, (entered, value)) for value in self.alternatives(base, entered))
        for hit in filter(self.is_hit, longer):
            self.offered_hits.add((base, entered.name))
            yield hit

    def solved_by(self, base: Changes, entered: Convention) -> Iterator[Changes]:
        """The hit with what a convention's fit solves, where none of its alternatives is one."""
        if entered.fit is None or (base, entered.name) in self.offered_hits:
            return
        for fitted in entered.fit(self.question(base)):
            if self.is_hit((*base, (entered, fitted.raw))):
                yield (*base, (entered, self.shortest_that_fits(base, entered, fitted)))
                return

    def shortest_that_fits(self, base: Changes, entered: Convention, fitted: Fitted) -> Value:
        """The shortest way to write a fitted value that still fits."""
        return next(value for value in fitted.values if self.trial((*base, (entered, value))).fits)

    def doubled(self, last_resort: bool) -> Iterator[Changes]:
        """The hits with two deviations: those that are offered, or else those of which one is solved for."""
        for solved in (False, True):
            hits = [
                hit
                for base in self.bases((), self.budget.pairs)
                for hit in self.extended(base, last_resort=last_resort, solved=solved, limit=self.budget.pairs)
            ]
            yield from hits
            if hits:
                return

    def tripled(self) -> Iterator[Changes]:
        """The hits with three deviations, as long as they are cheap."""
        limit = self.work + self.budget.triples
        for first in self.bases((), limit):
            for second in self.bases(first, limit):
                for solved in (False, True):
                    yield from self.extended(second, last_resort=False, solved=solved, limit=limit)

    def bases(self, base: Changes, limit: float) -> Iterator[Changes]:
        """`base` with one alternative more, where that gives a prediction of its own: what is inert is not combined."""
        for entered in self.readable(base):
            for value in () if entered.last_resort else self.alternatives(base, entered):
                longer = (*base, (entered, value))
                if self.work > limit:
                    return
                if self.trial(longer).first is None:
                    yield longer

    def alternatives(self, base: Changes, entered: Convention) -> list[Value]:
        """The standard value and the alternatives of one convention, but for the one that it has.

        None where the convention comes before the base's last in the catalogue: that set is tried in its order.
        """
        if (
            base
            and self.order[entered.name] < self.order[base[-1][0].name]
            and entered.name in self.trials[base[:-1]].reads
        ):
            return []
        key = (base, entered.name)
        if key not in self.offered:
            question, standard = self.question(base), entered.standard(self.case.config)
            current = question.settings.get(entered.name, standard)
            offered = dict.fromkeys(chain([standard], entered.alternatives(question)))
            self.offered[key] = [value for value in offered if value != current]
        return self.offered[key]

    def readable(self, base: Changes) -> list[Convention]:
        """The conventions that have a say in the prediction and are not changed yet, likelier ones first."""
        changed = {entered.name for entered, _ in base}
        names = sorted(self.trials[base].reads.keys() - changed, key=self.order.__getitem__)
        return [REGISTER[name] for name in names]

    def question(self, base: Changes) -> Question:
        """What a convention is asked when `base` is given."""
        return Question(self.case, self.output, _changed(self.start, base), self.memo)

    def is_hit(self, changes: Changes) -> bool:
        """Whether these changes fit, and are not merely another value that predicts the same to the bit."""
        trial = self.trial(changes)
        return trial.fits and (trial.first is None or _names(trial.first) != _names(changes))

    def trial(self, changes: Changes) -> _Trial:
        """What became of a set of changes; each is evaluated once, each prediction judged once."""
        if changes not in self.trials:
            self.trials[changes] = self.tried(changes)
        return self.trials[changes]

    def tried(self, changes: Changes) -> _Trial:
        settings = _changed(self.start, changes)
        try:
            prediction, reads = evaluate_with_reads(self.case, self.case.target, settings, self.memo)
        except OpdiffError:
            if not changes:
                raise
            return _Trial(changes, False, {}, first=changes)
        digest = hashlib.sha256(np.ascontiguousarray(prediction).data).digest()
        if digest in self.seen:
            earlier = self.seen[digest]
            return _Trial(changes, earlier.fits, reads, first=earlier.changes)
        fits = not np.isnan(prediction).any() and bool(self.is_met(prediction, settings))
        self.seen[digest] = _Trial(changes, fits, reads)
        return self.seen[digest]

    def deviations(self, changes: Changes) -> tuple[Deviation, ...]:
        """Changes as they are reported."""
        config, start = self.case.config, self.start
        return tuple(
            Deviation(entered.name, start.get(entered.name, entered.standard(config)), value)
            for entered, value in changes
        )


def _changed(start: Settings, changes: Changes) -> Settings:
    return Settings({**start, **{entered.name: value for entered, value in changes}})


def _names(changes: Changes) -> frozenset[str]:
    return frozenset(entered.name for entered, _ in changes)


def _written(value: Value) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
