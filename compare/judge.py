"""Which side is right: whose output, or whose convention, the reference shares on the same values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..graphs.errors import OpdiffError
from .causes import Choice, Explainer
from .conventions import Settings
from .locate import Local, is_equal, judge_region
from .side import GraphSide, Side
from .trace_side import TraceSide, replayed


@dataclass(frozen=True, slots=True)
class Judge:
    """The reference, beside the two that it judges. A trace as reference has its channels in A's order."""

    reference: Side
    a: Side
    b: Side
    explainer: Explainer

    def agreement(self, locals_: Sequence[Local], choice: Choice | None, start: Settings | None) -> str:
        """`a`, `b`, `neither`, `both` (for another reason than this cause) or `unknown`, over all places of a cause."""
        said = {self._at(local, choice, start) for local in locals_}
        said.discard("unknown")
        return said.pop() if len(said) == 1 else ("unknown" if not said else "neither")

    def _at(self, local: Local, choice: Choice | None, start: Settings | None) -> str:
        if local.tap not in self.reference.regions or local.a64 is None or local.b64 is None:
            return "unknown"
        if isinstance(self.reference, TraceSide):
            return self._by_trace(self.reference, local.tap)
        assert isinstance(self.reference, GraphSide)
        try:
            value = self.reference.run(local.tap, replayed(self.a, self.b).values, "float64")
        except (OpdiffError, KeyError):
            return "unknown"
        with_a, with_b = is_equal(local, local.a64, value), is_equal(local, local.b64, value)
        if with_a or with_b:
            return "a" if with_a and not with_b else "b" if not with_a else "both"
        if choice is None or start is None:
            return "neither"
        theirs = self.explainer.settings_of(self.explainer.case(local.tap), local, value, "reference", start)
        if not theirs.found:
            return "neither"
        held = theirs.settings.get(choice[0])
        return "a" if held == choice[1] else "b" if held == choice[2] else "neither"

    def _by_trace(self, reference: TraceSide, tap: str) -> str:
        """Whose region, on the reference's own values, gives what the reference recorded."""
        graphs = {name: side for name, side in (("a", self.a), ("b", self.b)) if isinstance(side, GraphSide)}
        if not all(set(side.reads(tap)) <= set(reference.values) for side in graphs.values()):
            return "unknown"
        met = [name for name, side in graphs.items() if judge_region(side, reference, tap).verdict != "semantic"]
        if len(met) == 2:
            return "both"
        return met[0] if met else "neither" if len(graphs) == 2 else "unknown"
