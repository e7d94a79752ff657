"""What a fault does to the logits: B with the region mended, run on, against A and against B as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from ..graphs.axes import same_shape
from ..graphs.errors import OpdiffError
from ..graphs.products import Running
from ..graphs.run import Precision
from ..graphs.stages import LOGITS
from .result import Effect
from .side import GraphSide

_AT_ONCE = 4  # runs, each of which has its logits in memory
T = TypeVar("T")


class Effects:
    """Measures effects for one pair in one precision. Mending a region is running A's in its place, on what B has there.

    Args:
        taps: the regions that may be mended; what lies above all of them is run once, and whatever is mended starts there.
        sets: the regions that will be asked for at once, of which the logits are made together.
    Raises:
        ShapeError: the logits of the two sides have other shapes.
    """

    def __init__(
        self,
        a: GraphSide,
        b: GraphSide,
        taps: Iterable[str],
        precision: Precision,
        sets: Iterable[frozenset[str]] = (),
    ) -> None:
        self._a, self._b, self._precision = a, b, precision
        if precision == "float32":
            self._known: Mapping[str, np.ndarray] = b.values
            self.a_logits, b_logits = a.values[LOGITS], b.values[LOGITS]
        else:
            whole = a.running_whole(precision, [LOGITS]), b.running_whole(precision, [LOGITS, *self._read_above(taps)])
            ours, theirs = map(_unless_failed, a.together(whole))
            self.a_logits = a.keep(ours[LOGITS])
            self._known = {name: b.keep(value) for name, value in theirs.items()}
            b_logits = self._known[LOGITS]
        self._logits: dict[frozenset[str], np.ndarray | OpdiffError] = {frozenset(): b_logits}
        self._difference = self._per_position(b_logits)
        self._measure(sets)

    def after(self, group: Sequence[str], before: frozenset[str]) -> Effect | None:
        """The effect of a group, mended alone, and mended after those before it; None where B cannot run so mended."""
        try:
            alone, earlier, later = self.logits(group), self.logits(before), self.logits(before.union(group))
        except OpdiffError:  # the two sides' regions read each other in a circle, or hand on values of other shapes
            return None
        change = _largest_change(self.logits(()), alone)
        return Effect(self._shares(alone), self._shares(later), change > 0, change, _largest_change(earlier, later))

    def logits(self, mended: Iterable[str]) -> np.ndarray:
        """B's logits with A's regions at these taps."""
        taps = frozenset(mended)
        self._measure([taps])
        return _unless_failed(self._logits[taps])

    def _measure(self, sets: Iterable[frozenset[str]]) -> None:
        new = [taps for taps in dict.fromkeys(sets) if taps not in self._logits]
        for few in (new[n : n + _AT_ONCE] for n in range(0, len(new), _AT_ONCE)):
            for taps, ran in zip(few, self._b.together([self._mended(taps) for taps in few]), strict=True):
                self._logits[taps] = ran if isinstance(ran, OpdiffError) else self._b.keep(ran[LOGITS])

    def _mended(self, taps: frozenset[str]) -> Running[dict[str, np.ndarray]]:
        below = {name for tap in taps for name in self._b.downstream(tap)}
        given = {name: value for name, value in self._known.items() if name not in below}
        return self._b.running_whole(self._precision, [LOGITS], {tap: self._a for tap in taps}, given)

    def _read_above(self, taps: Iterable[str]) -> list[str]:
        """What does not depend on any of these taps, and is read by what does, on either side."""
        below = {name for tap in taps for name in self._b.downstream(tap)}
        read = {name for tap in below for side in (self._a, self._b) for name in side.reads(tap)}
        return [tap for tap in self._b.regions if tap in read and tap not in below]

    def left(self, logits: np.ndarray) -> float:
        """How far logits are from A's, relative to A's."""
        ours, theirs = same_shape(self.a_logits, logits)
        return float(np.linalg.norm(theirs - ours) / max(float(np.linalg.norm(ours)), np.finfo(np.float64).tiny))

    def _per_position(self, logits: np.ndarray) -> np.ndarray:
        ours, theirs = same_shape(self.a_logits, logits)
        return np.linalg.norm(theirs - ours, axis=-1).reshape(-1, ours.shape[-2]).max(axis=0)

    def _shares(self, logits: np.ndarray) -> tuple[float | None, ...]:
        rest = self._per_position(logits)
        return tuple(
            float(1 - now / before) if before > 0 else None for now, before in zip(rest, self._difference, strict=True)
        )


def _unless_failed(result: T | OpdiffError) -> T:
    if isinstance(result, OpdiffError):
        raise result
    return result


def _largest_change(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.max(np.abs(after - before), initial=0.0))
