"""A result on the terminal: the causes first, in lines that a person can act on; then the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...graphs.stages import LOGITS
from ..result import Divergence, Effect, Position, Result, RootCause, Row
from .words import places

_SHOWN_SHARES = 6
_SHOWN_TOKENS = 2
_LONGEST = 300  # characters of an edit beside a name


def print_result(result: Result, console: Console, every_tap: bool = False) -> None:
    """Print the answer, the causes, the logits, and the table by stage (with `every_tap`: of each tap)."""
    console.print(f"[bold]{escape(_headline(result))}[/bold]")
    if result.first_step is not None:
        console.print(escape(result.first_step.text))
    for number, cause in enumerate(result.root_causes, 1):
        console.print()
        console.print(f"[bold]{number}. {escape(cause.text)}[/bold]")
        for line in _cause_lines(cause, result):
            console.print(f"   {escape(line)}")
    if result.root_causes:
        console.print(f"\n[bold]{escape(result.closed.text)}[/bold]")
    if result.verdict:
        console.print(f"[bold]{escape(result.verdict)}[/bold]")
    for spot in result.blind_spots:
        console.print(f"\n[yellow]This input cannot show:[/yellow] {escape(spot.text)}")
    for note in result.notes:
        console.print(f"\n[dim]Note: {escape(note)}[/dim]")
    for table in _tables(result, every_tap):
        console.print()
        console.print(table)
    console.print(f"\n[dim]{escape(_coverage(result))}[/dim]")


def _headline(result: Result) -> str:
    pair = f"{result.a.name} (A: {result.a.runtime}) and {result.b.name} (B: {result.b.runtime})"
    if result.parity:
        return f"same: {pair} compute the same{_reservations(result)}"
    n = len(result.root_causes)
    first = result.first_divergence
    if first is None:
        return f"differ: {pair} have other logits; {result.closed.text}"
    return f"differ: {pair} part at {first}; {n} root cause{'' if n == 1 else 's'} in {len(result.divergences)} region{'' if len(result.divergences) == 1 else 's'}"


def _reservations(result: Result) -> str:
    """What a reader of "same" should know before taking it for all."""
    text = "" if all(row.propagated.max_abs == 0 for row in result.rows) else "; what differs is rounding"
    far = max((position.max_abs or 0.0 for position in result.positions), default=0.0)
    text += f", which adds up to {far:.2g} at the logits" if text and far else ""
    if result.cancelling:
        taps = [tap for group in result.cancelling for tap in group.split(", ")]
        text = f"{text}, but for {places(taps)}, which differ and agree in what reads them"
    if not any(row.tap == LOGITS for row in result.rows):
        text += "; but the logits were not compared"
    n_alone = len(result.only_a) + len(result.only_b)
    return text + (f"; {len(result.rows)} taps compared, {n_alone} that only one side has were not" if n_alone else "")


def _cause_lines(cause: RootCause, result: Result) -> Iterator[str]:
    if cause.source:
        yield f"B's line: {_from_here(cause.source)}"
    if cause.a_source:
        yield f"A's line: {_from_here(cause.a_source)}"
    first = next(d for d in result.divergences if d.tap == cause.taps[0])
    if first.b_node and first.b_node.name:
        beside = f": {'; and '.join(cause.edit)}" if cause.edit and cause.kind == "convention" else ""
        yield f"node {first.b_node.name}{_shortened(beside)}"
    if cause.effect is not None:
        yield f"effect on the logits: {effect_text(cause.effect)}{_shared_with(cause, result)}"
    without = [d.tap for d in result.divergences if d.tap in cause.taps and d.effect and _is_without(d.effect)]
    if without and len(without) < len(cause.taps):
        yield f"without effect on this input: {places(without)}"
    if cause.harmless_at:
        yield f"computed the same two ways, but equal with these weights: {places(cause.harmless_at)}"
    if cause.also_fits:
        yield f"this input cannot tell it from: {'; '.join(cause.also_fits)}"


def _shared_with(cause: RootCause, result: Result) -> str:
    """Regions are mended whole: which other causes go with this one."""
    taps = set(cause.taps)
    others = [str(n) for n, one in enumerate(result.root_causes, 1) if one is not cause and taps & set(one.taps)]
    return f" (regions are mended whole, and cause {', '.join(others)} is in some of these too)" if others else ""


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _is_without(effect: Effect) -> bool:
    return not effect.changes_logits and effect.finite == "kept"


def effect_text(effect: Effect) -> str:
    """The share of the logits' difference that goes when this is mended, by position."""
    if effect.finite != "kept" or effect.finite_in_order != "kept":
        return _finite_text(effect)
    if not effect.changes_logits:
        return "none: mending it leaves them as they are"
    text = f"mended alone, it moves them by up to {effect.max_change:.3g}, and {_shares(effect.alone)} of the difference goes"
    if effect.in_order == effect.alone:
        return f"{text} (by position)"
    moved = f"after those before it, by up to {effect.max_change_in_order:.2g}"
    return f"{text}; {moved}, and {_shares(effect.in_order)} is gone (by position)"


_FINITE = {
    "kept": "mending it leaves them finite",
    "made": "mending it makes the logits finite",
    "lost": "mending it makes logits NaN or Inf",
    "unlike_a": "A's own logits hold NaN or Inf, so no share can be told",
    "neither": "logits hold NaN or Inf before it is mended and after, so no share can be told",
}


def _finite_text(effect: Effect) -> str:
    """The same, where logits are not finite."""
    alone = f"mended alone: {_FINITE[effect.finite]}"
    if effect.finite == effect.finite_in_order:
        return alone
    return f"{alone}; after those before it: {_FINITE[effect.finite_in_order]}"


def _shares(shares: Sequence[float | None]) -> str:
    """Each position's share; of many positions the least, the middle and the most; where all are one, that one."""
    known = sorted(share for share in shares if share is not None)
    if not known:
        return "-"
    if len(shares) > 1 and _share(known[0]) == _share(known[-1]):
        return _share(known[0])
    if len(shares) <= _SHOWN_SHARES:
        return ", ".join(map(_share, shares))
    return f"{_share(known[0])} to {_share(known[-1])}, at half of the positions more than {_share(known[len(known) // 2])},"


def _share(share: float | None) -> str:
    if share is None:
        return "-"
    percent = 100 * share
    if abs(percent) >= 0.1 or percent == 0:
        return f"{percent:.1f} %"
    return f"{percent:.0e} %"


def _tables(result: Result, every_tap: bool) -> Iterator[Table]:
    if result.positions:
        yield _position_table(result)
    if result.divergences:
        yield _divergence_table(result.divergences)
    yield _tap_table(result.rows) if every_tap else _stage_table(result.rows)


def _position_table(result: Result) -> Table:
    table = Table(title="Logits", title_justify="left")
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
    table = Table(title="Regions at fault (local: on A's values, in double precision)", title_justify="left")
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
            effect = "nothing" if all(_is_without(e) for e in moved) else "NaN"
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


def _from_here(source: str) -> str:
    """A source line, its path from the current folder where it lies below that."""
    path = Path(source)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else source


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
    table = Table(title=title, title_justify="left")
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


def _coverage(result: Result) -> str:
    text = f"{len(result.rows)} taps compared, matched by {result.matched_by}"
    for side, names in ((result.a, result.only_a), (result.b, result.only_b)):
        if names:
            text += f"; only in {side.name}: {places(names)}"
    return text
