"""What a fault does to the logits: B with the region mended, run on, against A and against B as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ..graphs.axes import same_shape
from ..graphs.run import Precision
from .result import Effect
from .side import Side

LOGITS = "logits"


class Effects:
    """Measures effects for one pair in one precision; A's and B's own runs are made once.

    Mending a region is running A's in its place, on what B has there.
    """

    def __init__(self, a: Side, b: Side, precision: Precision) -> None:
        self._a, self._b, self._precision = a, b, precision
        self.a_values = a.run_whole(precision) if precision != "float32" else dict(a.values)
        self.b_values = b.run_whole(precision) if precision != "float32" else dict(b.values)
        self._difference = self._per_position(self.b_values[LOGITS])

    def of(self, groups: Sequence[Sequence[str]], progress: Callable[[], None] = lambda: None) -> list[Effect]:
        """The effect of each group of regions, mended alone and in order after those before it."""
        results = []
        mended_before: list[str] = []
        before = self.b_values
        for group in groups:
            alone = self.mended_values(group, self.b_values, group)
            mended_before.extend(group)
            after = self.mended_values(mended_before, before, group)
            change = _largest_change(self.b_values[LOGITS], alone[LOGITS])
            in_order = _largest_change(before[LOGITS], after[LOGITS])
            shares = self._shares(alone[LOGITS]), self._shares(after[LOGITS])
            results.append(Effect(*shares, change > 0, change, in_order))
            before = after
            progress()
        return results

    def mended_values(
        self, taps: Iterable[str], values: Mapping[str, np.ndarray], changed: Iterable[str]
    ) -> dict[str, np.ndarray]:
        """B's values with A's regions at `taps`; only what lies below `changed` is run anew, the rest is in `values`."""
        below = {name for tap in changed for name in self._b.downstream(tap)}
        given = {name: value for name, value in values.items() if name not in below}
        return self._b.run_whole(self._precision, {tap: self._a for tap in taps}, given)

    def left(self, logits: np.ndarray) -> float:
        """How far logits are from A's, relative to A's."""
        ours, theirs = same_shape(self.a_values[LOGITS], logits)
        return float(np.linalg.norm(theirs - ours) / max(float(np.linalg.norm(ours)), np.finfo(np.float64).tiny))

    def _per_position(self, logits: np.ndarray) -> np.ndarray:
        ours, theirs = same_shape(self.a_values[LOGITS], logits)
        return np.linalg.norm(theirs - ours, axis=-1).reshape(-1, ours.shape[-2]).max(axis=0)

    def _shares(self, logits: np.ndarray) -> tuple[float | None, ...]:
        rest = self._per_position(logits)
        return tuple(
            float(1 - now / before) if before > 0 else None for now, before in zip(rest, self._difference, strict=True)
        )


def _largest_change(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.max(np.abs(after - before), initial=0.0))
