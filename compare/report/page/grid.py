"""The map of blocks and stages: a line for each stage, a cell for each block, and in it what three scales say of the tap."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ....graphs.stages import graph_order, split_tap_name
from ...result import Divergence, Result, Row
from .numbers import number, power_of_ten, short

_FEW_BLOCKS = 12  # so many columns are wide enough for three digits
_LEVELS = range(1, 10)
_LOCAL, _PROPAGATED, _EFFECT = 0, -7, -6  # the power of ten at which the second level of each scale begins


@dataclass(frozen=True, slots=True)
class Shade:
    """A cell on one scale.

    Args:
        level: `0` nothing, `1` to `9` by powers of ten, `x` not finite or not comparable, `n` not known.
        text: the number, in one digit where there is little room.
    """

    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A tap. `number` is its place among the result's rows."""

    number: int
    tap: str
    is_fault: bool
    local: Shade
    propagated: Shade
    effect: Shade


@dataclass(frozen=True, slots=True)
class Line:
    """A stage: a cell for each block, None where it has no such tap; or one cell alone, where it is in no block."""

    stage: str
    cells: tuple[Cell | None, ...]
    is_wide: bool


@dataclass(frozen=True, slots=True)
class Grid:
    """The whole map.

    Args:
        is_roomy: whether there is room for three digits in a cell.
        first: the tap where one begins to look.
        knows_effects: whether it is known of any fault how far it moves the logits; True where there is none.
        scales: for each scale the least value of each level; of the first, what it is under.
    """

    blocks: tuple[int, ...]
    lines: tuple[Line, ...]
    is_roomy: bool
    first: str | None
    knows_effects: bool
    scales: Mapping[str, tuple[str, ...]]


def grid(result: Result) -> Grid:
    """All taps of a result, in graph order; those that are no stage of a decoder have lines of their own."""
    blocks = tuple(sorted({row.block for row in result.rows if row.block is not None}))
    stages: dict[tuple[str, bool], list[Cell]] = {}
    is_roomy = len(blocks) <= _FEW_BLOCKS
    shades = _Shades({one.tap: one for one in result.divergences}, _of_causes(result), is_roomy)
    for n, row in sorted(enumerate(result.rows), key=lambda one: _place(one[1])):
        stages.setdefault((row.stage, row.block is None), []).append(shades.cell(n, row))
    lines = tuple(_line(stage, cells, () if is_wide else blocks) for (stage, is_wide), cells in stages.items())
    first = result.first_divergence or (result.rows[0].tap if result.rows else None)
    knows = not result.divergences or any(cause.effect is not None for cause in result.root_causes)
    powers = {"local": _LOCAL, "propagated": _PROPAGATED, "effect": _EFFECT}
    return Grid(blocks, lines, is_roomy, first, knows, {name: tuple(_legend(power)) for name, power in powers.items()})


def _legend(power: int) -> Iterator[str]:
    yield f"< {power_of_ten(power)}"
    yield from (power_of_ten(power + level - 2) for level in _LEVELS[1:])


def _place(row: Row) -> tuple[int, int, str]:
    """Where its stage stands, whatever its block."""
    block, place, inner = graph_order(row.tap)
    return (block if row.block is None else 0), place, inner


def _line(stage: str, cells: Sequence[Cell], blocks: Sequence[int]) -> Line:
    by_block = {split_tap_name(cell.tap)[0]: cell for cell in cells}
    return Line(stage, tuple(map(by_block.get, blocks)) if blocks else tuple(cells), not blocks)


def _of_causes(result: Result) -> Mapping[str, float]:
    """How far mending its whole root cause moves the logits, for each tap at fault."""
    moved = [(cause.taps, cause.effect.max_change) for cause in result.root_causes if cause.effect is not None]
    return {tap: change for taps, change in reversed(moved) for tap in taps}


@dataclass(frozen=True, slots=True)
class _Shades:
    """What is needed to shade a cell. `is_roomy`: whether three digits fit."""

    faults: Mapping[str, Divergence]
    of_causes: Mapping[str, float]
    is_roomy: bool

    def cell(self, n: int, row: Row) -> Cell:
        is_roomy = self.is_roomy or row.block is None
        shades = (_shade(value, power, is_roomy) for value, power in self._values(row))
        return Cell(n, row.tap, row.tap in self.faults, *shades)

    def _values(self, row: Row) -> Iterator[tuple[float | None, int]]:
        yield _over_floor(row), _LOCAL
        yield relative(row), _PROPAGATED
        yield self._effect(row.tap), _EFFECT

    def _effect(self, tap: str) -> float | None:
        """How far mending it alone moves the logits; where that was not measured, mending its cause; 0 where it is no fault."""
        found = self.faults.get(tap)
        if found is None:
            return 0.0
        if found.effect is None:
            return self.of_causes.get(tap)
        return found.effect.max_change if found.effect.finite == "kept" else math.nan


def _over_floor(row: Row) -> float:
    if row.error == 0 and row.verdict != "semantic":
        return 0.0
    if row.error == 0 or not math.isfinite(row.error):
        return math.nan  # shapes, masks, or places of NaN that disagree
    return row.error / row.floor if row.floor else math.inf


def relative(row: Row) -> float:
    """How far B's value is from A's, relative to A's; NaN where that cannot be said."""
    p = row.propagated
    return math.nan if p.nmse is None or p.status != "compared" else math.sqrt(p.nmse)


def _shade(value: float | None, power: int, is_roomy: bool) -> Shade:
    """A value on a scale whose second level begins at that power of ten."""
    if value is None:
        return Shade("n", "?")
    if math.isnan(value):
        return Shade("x", "!")
    if value == 0:
        return Shade("0", "·")
    if value == math.inf:
        return Shade(str(_LEVELS[-1]), "∞")
    tens = math.floor(math.log10(value))
    level = min(_LEVELS[-1], max(_LEVELS[0], tens - power + 2))
    return Shade(str(level), number(value) if is_roomy else short(value) if level > 1 else "–")
