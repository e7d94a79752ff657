"""A map of blocks and stages in characters: how far each region is off, in powers of ten above its rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.text import Text

from ...graphs.printable import printable
from ..result import Row

_WIDTH, _MOST_ROWS = 100, 32
_SAME, _ROUNDING, _NOTHING, _BROKEN = ".", "-", " ", "!"
_STYLES = ((7, "black on red"), (4, "black on dark_orange"), (1, "black on yellow"))
LEGEND = (
    "each region on A's values, in double precision: . same, - rounding, ! not finite or of another shape,",
    "1 to 9 powers of ten above float32's rounding",
)


def heat_map(rows: Sequence[Row]) -> Iterator[Text]:
    """A line for each stage, a column for each block; of more than 32 stages, those alone that are not the same throughout.

    Many blocks share a column, which then shows the worst of them, so that nothing is wider than 100 characters.
    """
    stages: dict[str, list[Row]] = {}
    for row in rows:
        stages.setdefault(row.stage, []).append(row)
    shown = stages if len(stages) <= _MOST_ROWS else {name: own for name, own in stages.items() if _is_off(own)}
    n_blocks = 1 + max((row.block or 0 for row in rows), default=0)
    margin = max((len(name) for name in shown), default=0) + 2
    room = max(8, _WIDTH - margin)
    each = -(-n_blocks // room)
    gap = " " if 2 * n_blocks <= room else ""
    if shown and n_blocks > 1:
        yield _heading(n_blocks, each, margin, len(gap) + 1)
    for name, own in shown.items():
        yield _line(name.ljust(margin), own, n_blocks, each, gap)
    if len(shown) < len(stages):
        yield Text(f"and {len(stages) - len(shown)} stages that are the same")


def _is_off(rows: Sequence[Row]) -> bool:
    return any(row.verdict == "semantic" for row in rows)


def _heading(n_blocks: int, each: int, margin: int, width: int) -> Text:
    """The number of every so many blocks above its column."""
    columns = -(-n_blocks // each)
    text = ""
    for column in range(0, columns, 5):
        text = text.ljust(column * width) + str(column * each)
    return Text("block".ljust(margin) + text, style="dim")


def _line(name: str, rows: Sequence[Row], n_blocks: int, each: int, gap: str) -> Text:
    line = Text(printable(name))
    if all(row.block is None for row in rows):
        return line.append(*_cell(rows))
    for first in range(0, n_blocks, each):
        line.append(*_cell([row for row in rows if row.block is not None and first <= row.block < first + each]))
        line.append(gap)
    line.rstrip()
    return line


def _cell(rows: Sequence[Row]) -> tuple[str, str]:
    """The character of the worst of these regions, and its style."""
    sign = max((_sign(row) for row in rows), key=_SAME_TO_WORST.index, default=_NOTHING)
    style = next((style for least, style in _STYLES if sign.isdigit() and int(sign) >= least), "")
    return sign, "black on red" if sign == _BROKEN else style or "dim"


_SAME_TO_WORST = f"{_NOTHING}{_SAME}{_ROUNDING}123456789{_BROKEN}"


def _sign(row: Row) -> str:
    if row.verdict != "semantic":
        return _SAME if row.verdict == "same" else _ROUNDING
    if not math.isfinite(row.error) or row.propagated.status.startswith("shapes"):
        return _BROKEN
    over = row.error / row.floor if row.floor else math.inf
    return str(min(9, max(1, round(math.log10(max(over, 1.0)))))) if over < math.inf else "9"
