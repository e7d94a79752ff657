"""Solving a convention's value from what a region put out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from .case import Array, Case
from .distance import norm
from .evaluate import Memo, Run, evaluate
from .settings import Settings, Value

MAX_STEPS = 20
MAX_STEP = 8.0
MAX_HALVINGS = 5
PLAIN_DIGITS = 2


@dataclass(frozen=True, slots=True)
class Question:
    """Which value of one convention, the others as in `settings`, gives `output` at the case's target?"""

    case: Case
    output: Array
    settings: Settings
    memo: Memo

    def run(self) -> Run:
        """A run that hands out the taps above the target under these settings."""
        return Run(self.case, self.settings, self.memo)

    def predict(self, name: str, value: Value) -> Array:
        """The target's value with one convention changed."""
        return evaluate(self.case, self.case.target, self.settings.with_value(name, value), self.memo)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A value as solved, last, and before it shorter ways to write it, the shortest first."""

    values: tuple[Value, ...]

    @property
    def raw(self) -> Value:
        """The value as solved."""
        return self.values[-1]


def shortened(value: float, wrap: Callable[[float], Value] = float) -> Fitted:
    """A solved number with its decimal roundings, from 1 significant digit on; `wrap` makes the setting of it."""
    decimals = [float(f"{value:.{digits}e}") for digits in range(12)]
    return Fitted(tuple(dict.fromkeys(map(wrap, [*decimals, value]))))


def is_plain(value: Value) -> bool:
    """Whether a person would have typed it: text, or numbers of at most two significant digits."""
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    return not isinstance(value, float) or float(f"{value:.{PLAIN_DIGITS - 1}e}") == value


def solve(
    question: Question,
    name: str,
    starts: Iterable[float],
    *,
    logarithmic: bool = False,
    wrap: Callable[[float], Value] = float,
) -> Iterator[Fitted]:
    """The number that brings the prediction nearest to the output, by Gauss-Newton steps from each start.

    It is solved through the whole region, so it is found whatever the other conventions are and however far above the
    target it acts. Nothing is yielded where the steps do not shrink the difference to a small part of the output.

    Args:
        logarithmic: for positive numbers: the steps are taken in the number's logarithm.
        wrap: makes the convention's value of the number.
    """
    for start in starts:
        place = descend(_difference(question, name, logarithmic, wrap), np.log(start) if logarithmic else start)
        if place is not None:
            number = float(np.exp(place) if logarithmic else place)
            if abs(number) > 1e-12 * abs(start):
                yield shortened(number, wrap)
                return


def _difference(
    question: Question, name: str, logarithmic: bool, wrap: Callable[[float], Value]
) -> Callable[[float], Array]:
    """The difference to the output, relative to it, as a function of the number (or of its logarithm)."""
    known = np.isfinite(question.output)
    scale = norm(question.output[known]) or 1.0

    def difference(place: float) -> Array:
        number = float(np.exp(np.clip(place, -200, 200))) if logarithmic else float(place)
        predicted = question.predict(name, wrap(number))
        compared = known & np.isfinite(predicted)
        with np.errstate(invalid="ignore"):
            return np.where(compared, predicted - question.output, 0.0).ravel() / scale

    return difference


def descend(difference: Callable[[float], Array], place: float) -> float | None:
    """Where the difference is least, by damped Gauss-Newton steps in one dimension; None where it hardly shrinks."""
    left = difference(place)
    first = size = norm(left)
    for _ in range(MAX_STEPS):
        nudge = 1e-4 * max(1.0, abs(place))
        slope = (difference(place + nudge) - left) / nudge
        steepness = float(np.square(slope).sum())
        if not np.isfinite(steepness) or steepness == 0:
            return None
        reached = _step(difference, place, -float((slope * left).sum()) / steepness, size)
        if reached is None:
            break
        place, left, size = reached
    return place if size < 1e-3 * first or size < 1e-12 else None


def _step(
    difference: Callable[[float], Array], place: float, step: float, size: float
) -> tuple[float, Array, float] | None:
    """A step, halved until the difference is clearly smaller behind it; None where it never is."""
    step = float(np.clip(step, -MAX_STEP, MAX_STEP))
    for _ in range(MAX_HALVINGS):
        left = difference(place + step)
        reached = norm(left)
        if reached < 0.95 * size:
            return place + step, left, reached
        if abs(step) < 1e-9 * max(1.0, abs(place)):
            return None
        step /= 2
    return None
