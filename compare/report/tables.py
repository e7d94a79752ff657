"""The tables of a result on the terminal: the logits by position, the regions at fault, and every tap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from ..result import Divergence, Position, Result, Row
from .plain_table import PlainTable
from .sentences import is_without

_SHOWN_TOKENS = 2


def tables(result: Result, every_tap: bool) -> Iterator[Table]:
    """The logits, the regions at fault, and the taps: by stage, or each."""
    if result.positions:
        yield _position_table(result)
    if result.divergences:
        yield _divergence_table(result.divergences)
    yield _tap_table(result.rows) if every_tap else _stage_table(result.rows)


def _position_table(result: Result) -> Table:
    table = PlainTable(title="Logits", title_justify="left")
    for heading in ("pos", "token", f"logit[0] {result.a.name}", f"logit[0] {result.b.name}", "max abs diff"):
        table.add_column(heading, justify="right")
    for side in (result.a, result.b):
        table.add_column(f"largest, {side.name}")
    for p in result.positions:
        worst = "-" if p.max_abs is None else f"{p.max_abs:.3g}"
        row = (str(p.position), str(p.token), f"{p.a_first:.6f}", f"{p.b_first:.6f}", worst)
        table.add_row(*row, _largest(p, "a"), _largest(p, "b"))
    return table


def _largest(position: Position, side: str) -> str:
    top = position.a_top if side == "a" else position.b_top
    return ", ".join(f"{token}: {logit:.4g}" for token, logit in top[:_SHOWN_TOKENS])


def _divergence_table(divergences: Sequence[Divergence]) -> Table:
    """One line for each stage at fault: its worst block."""
    table = PlainTable(title="Regions at fault (local: on A's values, in double precision)", title_justify="left")
    for heading in ("tap", "local error", "float32 floor", "propagated NMSE", "moves the logits by", "op", "source"):
        is_text = heading in ("tap", "op", "source")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=heading in ("tap", "source"))
    stages: dict[str, list[Divergence]] = {}
    for divergence in divergences:
        stages.setdefault(divergence.stage, []).append(divergence)
    for members in stages.values():
        worst = max(members, key=lambda d: d.error / (d.floor or 1.0))
        moved = [d.effect for d in members if d.effect is not None]
        effect = "-" if not moved else f"{max(e.max_change for e in moved):.3g}"
        if moved and not any(e.changes_logits for e in moved):
            effect = "nothing" if all(is_without(e) for e in moved) else "NaN"
        node, rest = worst.b_node, len(members) - 1
        table.add_row(
            worst.tap + (f" and {rest} more" if rest else ""),
            f"{worst.error:.2e}",
            f"{worst.floor:.1e}",
            _number(worst.propagated.nmse),
            effect,
            node.op_type if node else "-",
            _short(node.source) if node and node.source else "-",
        )
    return table


def _short(source: str) -> str:
    return source.rsplit("/", 1)[-1]


def _stage_table(rows: Sequence[Row]) -> Table:
    """One line for each stage: the worst over its blocks."""
    table = _table("Taps by stage (the worst block; --every-tap lists each)")
    stages: dict[str, list[Row]] = {}
    for row in rows:
        stages.setdefault(row.stage, []).append(row)
    for stage, members in stages.items():
        worst = max(members, key=lambda row: row.propagated.nmse or 0.0)
        where = "" if worst.block is None else str(worst.block)
        verdicts = [row.verdict for row in members]
        verdict = next((v for v in ("semantic", "rounding") if v in verdicts), "same")
        count = verdicts.count(verdict)
        told = verdict if verdict == "same" or len(members) == 1 else f"{verdict} ({count} of {len(members)})"
        table.add_row(stage, where, *_figures(worst), told)
    return table


def _tap_table(rows: Sequence[Row]) -> Table:
    table = _table("Every tap")
    for row in rows:
        table.add_row(row.stage, "" if row.block is None else str(row.block), *_figures(row), row.verdict)
    return table


def _table(title: str) -> Table:
    table = PlainTable(title=title, title_justify="left")
    table.add_column("stage")
    for heading in ("block", "NMSE", "max abs", "cosine"):
        table.add_column(heading, justify="right")
    table.add_column("own region")
    return table


def _figures(row: Row) -> tuple[str, str, str]:
    p = row.propagated
    if p.status != "compared" and p.nmse is None:
        return p.status, "-", "-"
    cosine = "-" if p.cosine is None else f"{p.cosine:.6f}"
    return _number(p.nmse), _number(p.max_abs), cosine + ("" if p.status == "compared" else f" ({p.status})")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"
