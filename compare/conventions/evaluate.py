"""The decoder in float64: any tap from A's values, with the conventions as settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ...graphs.errors import InputError
from ...graphs.stages import split_tap_name, tap_name
from .case import Array, Case
from .settings import Settings, Value
from .tables import MODELS, STANDARDS

Reads = dict[str, Value]
REMEMBERED_PER_STEP = 6


class CannotEvaluate(InputError):
    """A tap that the model has no function for, or a tensor that the checkpoint does not have."""


@dataclass(slots=True)
class Memo:
    """What steps of one case gave, each with the settings that it read: valid wherever those have the same values.

    `n_multiplied` counts the elements of the weights that were multiplied with.
    """

    steps: dict[str, list[tuple[Reads, Array]]] = field(default_factory=dict)
    evaluations: int = 0
    n_multiplied: int = 0

    def find(self, key: str, value_of: Callable[[str], Value]) -> tuple[Reads, Array] | None:
        """What the step gave when every setting that it read had the value that it has now."""
        known = self.steps.get(key, [])
        for place, entry in enumerate(known):
            if all(value_of(name) == value for name, value in entry[0].items()):
                known.append(known.pop(place))
                return entry
        return None

    def keep(self, key: str, reads: Reads, result: Array) -> None:
        """Remember a step, and forget the one longest unused."""
        known = self.steps.setdefault(key, [])
        known.append((reads, result))
        del known[:-REMEMBERED_PER_STEP]


class Run:
    """One evaluation: hands taps, tensors and settings to the model functions, and notes which settings are read."""

    def __init__(self, case: Case, settings: Settings, memo: Memo) -> None:
        self.case, self.config, self.settings, self.memo = case, case.config, settings, memo
        self._reads: list[Reads] = [{}]
        self._values: Reads = {}

    @property
    def reads(self) -> Reads:
        """The settings that were read so far, with their values."""
        return self._reads[0]

    def setting(self, name: str) -> Value:
        """The value of a convention."""
        value = self._value(name)
        self._reads[-1][name] = value
        return value

    def number(self, name: str) -> float:
        """The value of a convention whose values are numbers."""
        value = self.setting(name)
        assert isinstance(value, (int, float)), (name, value)
        return float(value)

    def tap(self, stage: str, block: int | None = None) -> Array:
        """A's value of a stage, or, where A has none or it is the target, the model's; float64, canonical."""
        name = tap_name(stage, block)
        if name != self.case.target and name in self.case.values:
            return self.case.canonical(stage, self.case.values[name])
        if stage not in MODELS:
            raise CannotEvaluate(f"tap {name}: the catalogue has no model of this stage")
        if name == self.case.target:
            return MODELS[stage](self, block)
        return self.step(name, lambda: MODELS[stage](self, block))

    def step(self, key: str, compute: Callable[[], Array]) -> Array:
        """The result of a step, computed anew only when a setting that it reads has changed."""
        found = self.memo.find(key, self._value)
        if found is None:
            self._reads.append({})
            try:
                result = compute()
            finally:
                reads = self._reads.pop()
            self.memo.keep(key, reads, result)
            found = reads, result
        self._reads[-1].update(found[0])
        return found[1]

    def tensor(self, name: str) -> np.ndarray:
        """A tensor of the checkpoint, as stored.

        Raises:
            CannotEvaluate: it has none of this name.
        """
        if name not in self.case.weights:
            raise CannotEvaluate(f"tensor {name}: not in the checkpoint; the region at {self.case.target} needs it")
        return self.case.weights[name]

    def is_target(self, stage: str, block: int | None) -> bool:
        """Whether the region ends at this tap."""
        return tap_name(stage, block) == self.case.target

    def _value(self, name: str) -> Value:
        if name not in self._values:
            self._values[name] = self.settings[name] if name in self.settings else STANDARDS[name](self.config)
        return self._values[name]


def evaluate(case: Case, tap: str, settings: Settings, memo: Memo | None = None) -> Array:
    """The value of a tap, float64 in canonical axes: A's where it is in `case.values`, otherwise the model's.

    The target's own value is never read. Steps are remembered in `memo`, which belongs to one case.

    Raises:
        CannotEvaluate: a stage without a model, or a tensor that the checkpoint does not have.
        ShapeError: a value of A, or a tensor, whose shape does not fit the configuration.
    """
    return evaluate_with_reads(case, tap, settings, Memo() if memo is None else memo)[0]


def evaluate_with_reads(case: Case, tap: str, settings: Settings, memo: Memo) -> tuple[Array, Reads]:
    """The value of a tap, and the settings that had a say in it."""
    block, stage = split_tap_name(tap)
    run = Run(case, settings, memo)
    memo.evaluations += 1
    with np.errstate(all="ignore"):
        result = run.tap(stage, block)
    return result, run.reads
