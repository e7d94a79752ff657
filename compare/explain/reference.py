"""Which side is right: whose output, or whose convention, the reference shares on the same values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...graphs.axes import unbatched
from ...graphs.errors import OpdiffError
from ..conventions import Settings
from ..judge.locate import Local, is_equal, judge_region
from ..sides.graph_side import GraphSide
from ..sides.side import Side
from ..sides.trace_side import TraceSide, replayed
from .catalogue import Choice, Explainer


@dataclass(frozen=True, slots=True)
class Judge:
    """The reference, beside the two that it judges. A trace as reference has its channels in A's order.

    explainer: asks the catalogue on the values that A and B were replayed on; for a trace as reference, on its own.
    """

    reference: Side
    a: Side
    b: Side
    explainer: Explainer

    def agreement(self, locals_: Sequence[Local], choice: Choice | None, start: Settings | None) -> str:
        """`a`, `b`, `neither`, `both` (for another reason than this cause) or `unknown`, over all places of a cause."""
        said = {self._at(local, choice, start) for local in locals_}
        said.discard("unknown")
        if len(said) > 1:
            said.discard("both")  # at some places the reference cannot tell, at others it does
        return said.pop() if len(said) == 1 else ("unknown" if not said else "neither")

    def _at(self, local: Local, choice: Choice | None, start: Settings | None) -> str:
        if local.tap not in self.reference.regions or local.a64 is None or local.b64 is None:
            return "unknown"
        if isinstance(self.reference, TraceSide):
            return self._by_trace(self.reference, local.tap, choice, start)
        assert isinstance(self.reference, GraphSide)
        try:
            value = self.reference.run(local.tap, replayed(self.a, self.b).values, "float64")
        except (OpdiffError, KeyError):
            return "unknown"
        with_a, with_b = is_equal(local, local.a64, value), is_equal(local, local.b64, value)
        if with_a or with_b:
            return "a" if with_a and not with_b else "b" if not with_a else "both"
        return self._by_convention(local, value, choice, start) or "neither"

    def _by_convention(
        self, local: Local, value: np.ndarray, choice: Choice | None, start: Settings | None
    ) -> str | None:
        """Whose value of the convention the reference's output has; None where the catalogue does not explain it."""
        if choice is None or start is None:
            return None
        theirs = self.explainer.settings_of(
            self.explainer.case(local.tap, "reference"), local, value, "reference", start
        )
        if not theirs.found:
            return None
        held = theirs.settings.get(choice[0])
        return "a" if held == choice[1] else "b" if held == choice[2] else "neither"

    def _by_trace(self, reference: TraceSide, tap: str, choice: Choice | None, start: Settings | None) -> str:
        """Whose region, on the reference's own values, gives what the reference recorded; else, whose convention it has."""
        graphs = {name: side for name, side in (("a", self.a), ("b", self.b)) if isinstance(side, GraphSide)}
        if not all(set(side.reads(tap)) <= set(reference.values) for side in graphs.values()):
            return "unknown"
        found = {name: judge_region(side, reference, tap) for name, side in graphs.items()}
        met = [name for name, local in found.items() if local.verdict != "semantic"]
        if met:
            return met[0] if len(met) == 1 else "both"
        local = next(iter(found.values()))
        value = unbatched(reference.values[tap], reference.taps[tap].axes)
        return self._by_convention(local, value, choice, start) or "unknown"
