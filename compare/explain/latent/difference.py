"""One place at which two programs differ, though on this input they give the same numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ....graphs.network import Network, Step

Kind = Literal["attributes", "settings", "constant", "extra", "left out", "written"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One such place.

    kind: what differs of a step that both have: its attributes, a constant or weight that it reads, or more than one of
        these (`settings`); or a step that only B has, or only A; or several steps, which are written otherwise.
    ours, theirs: A's step and B's; where only one side has it, the other's is the one that makes the value that it hands on.
    a_value, b_value: the two constants; else the two values that are the same, though they are made otherwise.
    operand: which of B's operands the constant is, or which of its operands the step hands on.
    """

    kind: Kind
    ours: Step | None
    theirs: Step | None
    a_value: str
    b_value: str
    operand: int = 0

    @property
    def is_of_one_side(self) -> bool:
        """Whether only one side has the step."""
        return self.kind in ("extra", "left out")

    @property
    def step(self) -> Step:
        """The step that differs, B's where both have it."""
        step = self.ours if self.kind == "left out" else self.theirs
        assert step is not None
        return step

    def network(self, a: Network, b: Network) -> Network:
        """The side of that step."""
        return a if self.kind == "left out" else b

    def is_of_data(self, a: Network, b: Network) -> bool:
        """Whether what it makes hangs on what the region reads by more than its shape, as a mask or positions do not."""
        return self.network(a, b).values[self.step.outputs[0]].is_data
