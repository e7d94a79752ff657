"""A tap: one exposed tensor of one graph, under a stage name."""

from __future__ import annotations

from dataclasses import dataclass, field

from .stages import split_tap_name


@dataclass(frozen=True, slots=True)
class Source:
    """Where a node comes from: its name, op type, module scope, source file and line (None where unknown), its attributes in
    words, `axis = -1, to = 1`, and of which node it is a copy, as one in a loop that was unrolled.
    """

    name: str
    op_type: str
    scope: str | None
    source: str | None
    attributes: str = field(default="", compare=False)
    copy_of: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Tap:
    """One exposed tensor: `name` is the tap name and the graph output; `axes` has one word for each dimension."""

    name: str
    axes: tuple[str, ...]
    node: Source

    @property
    def stage(self) -> str:
        return split_tap_name(self.name)[1]

    @property
    def block(self) -> int | None:
        return split_tap_name(self.name)[0]

    @property
    def is_weight(self) -> bool:
        return set(self.axes) == {"out", "in"}
