"""The command `opdiff align`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from ..graphs.adopt.flat import Flat
from ..graphs.run import Runner
from ..graphs.weights import check_folder, written_beside
from .align.foreign import ForeignPair, align_foreign
from .align.map_file import map_text, read_map
from .command import parse_tokens, read_inputs
from .opening import graph_of
from .report.plain_table import PlainTable, plain
from .report.printing import printing

_LISTED = 12  # values without a partner, on the terminal


def run_align(
    a: Path,
    b: Path,
    tokens: str | None,
    inputs: Path | None,
    inputs_b: Path | None,
    map_path: Path | None,
    out: Path | None,
    json_path: Path | None,
) -> None:
    """Align, print the map, and write it where asked."""
    for path in (out, json_path):
        if path is not None:
            check_folder(path)
    pair = align_foreign(
        graph_of(a),
        graph_of(b),
        None if tokens is None else parse_tokens(tokens),
        Runner(),
        read_inputs(inputs, inputs_b),
        () if map_path is None else read_map(map_path),
    )
    if out is not None:
        _write(out, map_text(pair.entries()))
    if json_path is not None:
        _write(json_path, _json(pair))
    with printing():
        _print(pair, Console(soft_wrap=True))


def _write(path: Path, text: str) -> None:
    with written_beside(path) as partial:
        partial.write_text(text)


def _json(pair: ForeignPair) -> str:
    found = {
        "schema": "opdiff.alignment/1",
        "points": [
            {
                "tap": one.tap,
                "a": one.point.a,
                "b": one.point.b,
                "by": one.point.kind,
                "equal": one.point.is_equal,
                "layout": [list(step) for step in one.point.plan],
            }
            for one in pair.named
        ],
        "shares": {side: pair.share(side) for side in "ab"},
        "left": {side: list(pair.left(side)) for side in "ab"},
        "notes": list(pair.notes),
    }
    return json.dumps(found, indent=1) + "\n"


def _print(pair: ForeignPair, console: Console) -> None:
    table = PlainTable("tap", "A", "B", "found by", "")
    for one in pair.named:
        point = one.point
        told = "" if point.is_equal else "other numbers"
        table.add_row(one.tap, _node(pair.a, point.a), _node(pair.b, point.b), point.kind, told)
    console.print(table)
    for side, flat in (("a", pair.a), ("b", pair.b)):
        left = pair.left(side)
        console.print(
            f"{side.upper()}: {100 * pair.share(side):.0f} % of its values have a partner; {len(left)} have none"
        )
        for line in _left_over(flat, left):
            console.print(f"   {plain(line)}")
    for note in pair.notes:
        console.print(f"[dim]Note: {plain(note)}[/dim]")


def _left_over(flat: Flat, left: tuple[str, ...]) -> Iterator[str]:
    yield from (f"{name} ({flat.maker[name].operator})" for name in left[:_LISTED])
    if len(left) > _LISTED:
        yield f"and {len(left) - _LISTED} more (--json lists all)"


def _node(flat: Flat, name: str) -> str:
    return f"{name} ({flat.maker[name].operator})"
