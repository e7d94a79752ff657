"""What a result says of each node of a side, for programs that show its graph."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ...graphs.annotated import Finding
from ...graphs.artifact import read_model
from ...graphs.errors import InputError
from ...graphs.taps import Source
from ..result import Divergence, Result, RootCause, Row

SideLetter = Literal["a", "b"]


def side_of(path: Path, result: Result) -> SideLetter:
    """Which side of the result this file is, by its SHA-256; A, where it is both.

    Raises:
        InputError: it is neither, or cannot be read.
    """
    _, sha256 = read_model(path)
    if sha256 == result.a.sha256:
        return "a"
    if sha256 == result.b.sha256:
        return "b"
    raise InputError(
        f"{path}: neither A ({result.a.path}) nor B ({result.b.path}) of this result, by its SHA-256; give one of these, "
        "or compare again where it was exported anew"
    )


def findings(result: Result, side: SideLetter) -> dict[str, Finding]:
    """For each node of a side's regions, by its name: what was found in its region, and of the culprits that they are."""
    partners = dict(_partners(result, side))
    at_fault = {divergence.tap: divergence for divergence in result.divergences}
    culprits = dict(_culprits(result, side))
    sources = {node.name: node.source for row in result.rows for node in _nodes(row, side)}
    return {
        name: _finding(result, row, at_fault.get(row.tap), name in culprits, sources[name], partners.get(name))
        for name, row in row_of_each_node(result, side).items()
    }


def row_of_each_node(result: Result, side: SideLetter) -> dict[str, Row]:
    """The row to which each node belongs: a culprit's own; of regions that share a node, the one with the most error."""
    rows: dict[str, Row] = {}
    for row in sorted(result.rows, key=lambda row: (row.verdict == "semantic", over_floor(row))):
        rows.update({node.name: row for node in _nodes(row, side) if node.name})
    culprits = dict(_culprits(result, side))
    by_tap = {row.tap: row for row in result.rows}
    return {name: by_tap.get(culprits.get(name, ""), row) for name, row in rows.items()}


def over_floor(row: Row) -> float:
    """The local error over float32's rounding in its region; infinite where it is NaN, or nothing is rounded."""
    if row.error == 0:
        return 0.0
    return row.error / row.floor if row.floor and math.isfinite(row.error) else math.inf


def _nodes(row: Row, side: SideLetter) -> tuple[Source, ...]:
    return row.a_nodes if side == "a" else row.b_nodes


def _culprits(result: Result, side: SideLetter) -> Iterator[tuple[str, str]]:
    """Each node that was found to be at fault, with the tap of its region."""
    for divergence in reversed(result.divergences):  # the first one that names a node is kept
        node = divergence.a_node if side == "a" else divergence.b_node
        if node is not None:
            yield node.name, divergence.tap


def _partners(result: Result, side: SideLetter) -> Iterator[tuple[str, Source]]:
    """Nodes with their partners of the other side: those that make the same tap, and above them the culprits."""
    pairs = [(row.a_nodes[-1], row.b_nodes[-1]) for row in result.rows if row.a_nodes and row.b_nodes]
    pairs += [(d.a_node, d.b_node) for d in reversed(result.divergences) if d.a_node and d.b_node]
    for a, b in pairs:
        yield (a.name, b) if side == "a" else (b.name, a)


def _finding(
    result: Result,
    row: Row,
    divergence: Divergence | None,
    is_culprit: bool,
    source: str | None,
    partner: Source | None,
) -> Finding:
    number = None if divergence is None else divergence.cause
    cause = dict(enumerate(result.root_causes, 1)).get(number or 0)
    here = ", at this node" if is_culprit else ""
    facts = {
        "verdict": row.verdict,
        "cause": f"{number} of {len(result.root_causes)}{here}" if cause else None,
        **_explained(result, divergence, cause),
        "tap": row.tap,
        "local_error": f"{row.error:.3g}",
        "float32_floor": f"{row.floor:.3g}",
        "over_floor": f"{over_floor(row):.3g}",
        "partner": None if partner is None else partner.name,
        "partner_line": None if partner is None else partner.source,
        "source_line": source,
    }
    return Finding(_text(row, number, cause, is_culprit), {key: text for key, text in facts.items() if text})


def _explained(result: Result, divergence: Divergence | None, cause: RootCause | None) -> dict[str, str | None]:
    if divergence is None or cause is None:
        return {}
    named = f"{cause.convention}: {result.b.name} has {cause.b_value}, {result.a.name} has {cause.a_value}"
    return {"convention": named if cause.convention else None, "edit": divergence.difference}


def _text(row: Row, number: int | None, cause: RootCause | None, is_culprit: bool) -> str:
    if cause is not None:
        return f"{'At fault' if is_culprit else f'In the region of {row.tap}, which is at fault'}: cause {number}, {cause.text}"
    said = {
        "semantic": "both sides differ in double precision too",
        "rounding": "both sides differ by rounding alone",
        "same": "both sides compute the same",
    }
    return f"In the region of {row.tap}: {said.get(row.verdict, row.verdict)}"
