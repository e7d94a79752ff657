"""What a fault does to the logits: B with the region mended, run on, against A and against B as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ...graphs.axes import same_shape
from ...graphs.errors import OpdiffError
from ...graphs.stages import LOGITS
from ..judge.locate import DOUBLE_UNIT, SINGLE_UNIT
from ..measure import norm
from ..result import Effect
from ..sides.graph_side import GraphSide
from .runs import Change, run_changed

_ROUNDING = 32 * DOUBLE_UNIT  # of the logits: what is no difference at a position
_BYTES_AT_ONCE = 1 << 28  # of logits, which all runs that are made at once have in memory
Logits = np.ndarray | OpdiffError  # or why there are none
Mending = tuple[Sequence[str], frozenset[str]]  # the regions of a group, and those that were mended before it


def sets_of(group: Sequence[str], before: frozenset[str]) -> tuple[frozenset[str], ...]:
    """What is mended at once, to measure the effect of a group."""
    return frozenset(group), before, before.union(group)


class Effects:
    """Measures effects for one pair, in float64. Mending a region is running A's in its place, on what B has there.

    Args:
        sets: the regions that will be asked for, of which the logits are made together.
    Raises:
        OpdiffError: one of the sides cannot be run, or their logits are of other shapes.
    """

    def __init__(self, a: GraphSide, b: GraphSide, sets: Iterable[frozenset[str]]) -> None:
        self._a, self._b = a, b
        self._all = frozenset(b.regions)
        self._logits: dict[frozenset[str], Logits] = {}
        self._known_shares: dict[frozenset[str], tuple[float | None, ...]] = {}
        self._known_changes: dict[tuple[frozenset[str], frozenset[str]], float] = {}
        self._measure(sets)
        self.a_logits = self.logits(self._all)
        self._difference = self._per_position(self.logits(()))
        self._least = _ROUNDING * self._per_position(np.zeros_like(self.a_logits))

    def after(self, group: Sequence[str], before: frozenset[str]) -> Effect | None:
        """The effect of a group, mended alone, and mended after those before it; None where B cannot run so mended."""
        alone, later, nothing = frozenset(group), before.union(group), frozenset[str]()
        try:
            change, in_order = self._largest_change(nothing, alone), self._largest_change(before, later)
            finite, finite_in_order = self._finiteness(nothing, alone), self._finiteness(before, later)
            changes = change > 0 or finite in ("made", "lost")
            return Effect(self._shares(alone), self._shares(later), changes, change, in_order, finite, finite_in_order)
        except OpdiffError:  # the two sides' regions read each other in a circle, or hand on values of other shapes
            return None

    def logits(self, mended: Iterable[str]) -> np.ndarray:
        """B's logits with A's regions at these taps.

        Raises:
            OpdiffError: B cannot run so.
        """
        taps = frozenset(mended)
        if taps not in self._logits:
            self._measure([taps])
        found = self._logits[taps]
        if isinstance(found, OpdiffError):
            raise found
        return found

    def _measure(self, sets: Iterable[frozenset[str]]) -> None:
        """B as it is, B with all of A's regions, which is A, and with those of each set."""
        both = [frozenset[str](), self._all]
        new = [taps for taps in dict.fromkeys(sets) if taps not in self._logits and taps not in both]
        n_at_once = max(1, _BYTES_AT_ONCE // (2 * self._b.values[LOGITS].nbytes) - len(both))
        for start in range(0, max(len(new), 1), n_at_once):
            asked = [*both, *new[start : start + n_at_once]]
            changes = [Change(dict.fromkeys(taps, self._a)) for taps in asked[1:]]
            ran = run_changed(self._b, changes, [LOGITS], "float64", by_difference=True)
            found = dict(zip(asked, (one if isinstance(one, OpdiffError) else one[LOGITS] for one in ran), strict=True))
            pairs = [(self._logits.setdefault(taps, found[taps]), found.pop(taps)) for taps in both]
            for taps, logits in found.items():
                if isinstance(logits, np.ndarray):
                    logits = _beside(pairs, logits)
                    logits = logits if len(new) <= n_at_once else self._b.keep(logits)
                self._logits[taps] = logits

    def left(self, logits: np.ndarray) -> float:
        """How far logits are from A's, relative to A's."""
        ours, theirs = same_shape(self.a_logits, logits)
        return float(np.linalg.norm(theirs - ours) / max(float(np.linalg.norm(ours)), np.finfo(np.float64).tiny))

    @property
    def floor(self) -> float:
        """How far float32 puts A's own logits from there."""
        return self.left(np.asarray(self._a.logits_by_region(), np.float64))

    def meets_single_precision(self) -> bool:
        """Whether both sides' logits are those that they have in float32, nearer to rounding than to anything else."""
        pairs = ((self.a_logits, self._a.logits_by_region()), (self.logits(()), self._b.logits_by_region()))
        return all(norm(ours - theirs) <= SINGLE_UNIT**0.5 * norm(theirs) for ours, theirs in pairs)

    def _per_position(self, logits: np.ndarray) -> np.ndarray:
        ours, theirs = same_shape(self.a_logits, logits)
        return np.linalg.norm(theirs - ours, axis=-1).reshape(-1, ours.shape[-2]).max(axis=0)

    def _shares(self, mended: frozenset[str]) -> tuple[float | None, ...]:
        if mended not in self._known_shares:
            rest = self._per_position(self.logits(mended))
            self._known_shares[mended] = tuple(
                float(1 - now / then) if then > few and np.isfinite(now + then) else None
                for now, then, few in zip(rest, self._difference, self._least, strict=True)
            )
        return self._known_shares[mended]

    def _largest_change(self, before: frozenset[str], after: frozenset[str]) -> float:
        if (before, after) not in self._known_changes:
            with np.errstate(invalid="ignore"):
                change = self.logits(after) - self.logits(before)
            largest = float(np.max(np.abs(change, out=change), initial=0.0))
            self._known_changes[before, after] = largest if np.isfinite(largest) else _largest_finite(change)
        return self._known_changes[before, after]

    def _finiteness(self, before: frozenset[str], after: frozenset[str]) -> str:
        """Whether mending makes logits finite (`Effect.finite`)."""
        target, then, now = map(_is_finite, (self.a_logits, self.logits(before), self.logits(after)))
        if not target and then and now:
            return "unlike_a"
        return {(True, True): "kept", (False, True): "made", (True, False): "lost", (False, False): "neither"}[
            then, now
        ]


def _is_finite(logits: np.ndarray) -> bool:
    return bool(np.isfinite(np.sum(logits)))


def _largest_finite(change: np.ndarray) -> float:
    return float(np.max(change, where=np.isfinite(change), initial=0.0))


def _beside(pairs: Iterable[tuple[Logits, Logits]], logits: np.ndarray) -> np.ndarray:
    """Logits that were made beside the second of each pair, as they would be beside the first: by what they are other
    than the nearer of the second ones; what all that are made at once are rounded by is then the same.
    """
    then_now = [(then, now) for then, now in pairs if isinstance(then, np.ndarray) and isinstance(now, np.ndarray)]
    near = [
        (float(np.linalg.norm(logits - now)), n) for n, (_, now) in enumerate(then_now) if now.shape == logits.shape
    ]
    near = [(far, n) for far, n in near if np.isfinite(far)]
    if not near:
        return logits
    then, now = then_now[min(near)[1]]
    return logits if then is now else then + (logits - now)
