"""What an edit is: its pieces in words, where they stand, how much they change, and how well they were proved."""

from __future__ import annotations

from dataclasses import dataclass

from ....graphs.network import Step
from .words import Line

LARGEST = 10  # steps: an edit of more is no explanation, but a rewrite
WORK = 1.5e8  # elements, calls counted as some: what a region's search may spend, about a second
MOST_LINES = 4
_LONGEST = 400  # characters of a line


@dataclass(frozen=True, slots=True)
class Place:
    """The nodes at which A's program and B's part, by their place in each."""

    ours: int | None
    theirs: int | None

    @classmethod
    def of(cls, ours: Step | None, theirs: Step | None) -> Place:
        """Where these steps stand, or one of them alone."""
        return cls(None if ours is None else ours.index, None if theirs is None else theirs.index)


@dataclass(frozen=True, slots=True)
class Edit:
    """A proved change of A's region.

    lines: its pieces in words, each of which is needed: without it, B's output is not met.
    places: for each piece, the nodes at which the two part.
    readers: for each piece, the node of B that reads it, where it is one operand of a node that A has too.
    together: which pieces only go together: with one of them alone, the region cannot run.
    n_steps: how many steps it takes out of A or puts in, whichever is more; moves are not counted.
    residual: how far its output is from B's, relative to the difference that it explains.
    also_fits: other changes that give the same on this input, where changes were tried.
    operators: what it takes out of A and what it puts in.
    """

    lines: tuple[Line, ...]
    places: tuple[Place, ...]
    n_steps: int
    residual: float
    also_fits: tuple[str, ...] = ()
    operators: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    readers: tuple[int | None, ...] = ()
    together: frozenset[int] = frozenset()

    @property
    def is_rewrite(self) -> bool:
        """Whether so much changes that it explains nothing: too many steps, or too many words for them."""
        is_long = any(len(line.text) > _LONGEST and not line.is_number for line in self.lines)
        return self.n_steps > LARGEST or len(self.lines) > MOST_LINES or is_long
