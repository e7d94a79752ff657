"""What a page's scripts draw from: the result's taps, cut down to what is shown of them, as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from ....graphs.printable import printable
from ....graphs.taps import Source
from ...result import Divergence, Result, Row, as_plain
from ..sentences import effect_text, from_here
from .grid import relative

_SHOWN_AS_IT_IS = (
    "tap", "stage", "block", "axes", "propagated", "verdict", "reason", "error", "floor", "threshold", "by_position", "difference"
)  # fmt: skip


def data(result: Result) -> object:
    """Plain dicts, lists, numbers and text; a tap is known by its place in `taps`."""
    places, faults = tap_places(result), {fault.tap: fault for fault in result.divergences}
    causes = [
        {"what": cause.what, "kind": cause.kind, "taps": [places[tap] for tap in cause.taps]}
        for cause in result.root_causes
    ]
    told = {
        "a": result.a.name,
        "b": result.b.name,
        "tokens": [token_text(result, token) for token in result.tokens],
        "taps": [_tap(row, faults.get(row.tap)) for row in result.rows],
        "causes": causes,
    }
    return _readable(as_plain(told))


def tap_places(result: Result) -> dict[str, int]:
    """Where each tap stands among the result's rows."""
    return {row.tap: n for n, row in enumerate(result.rows)}


def token_text(result: Result, token: int) -> str:
    """A token as a reader knows it: its text where that is known, else its number."""
    return repr(result.pieces[token]) if token in result.pieces else str(token)


def _tap(row: Row, fault: Divergence | None) -> dict[str, object]:
    return {
        **{name: getattr(row, name) for name in _SHOWN_AS_IT_IS},
        "relative": relative(row),
        "looks": [row.a_look, row.b_look],
        "nodes": [_nodes(row.a_nodes), _nodes(row.b_nodes)],
        "fault": None if fault is None else _fault(fault),
    }


def _fault(fault: Divergence) -> dict[str, object]:
    return {
        "cause": fault.cause,
        "by_position": fault.by_position,
        "difference": fault.difference,
        "relations": fault.relations,
        "residual": fault.residual,
        "effect": None if fault.effect is None else effect_text(fault.effect),
        "nodes": [None if node is None else node.name for node in (fault.a_node, fault.b_node)],
    }


def _nodes(nodes: Sequence[Source]) -> list[tuple[str | None, ...]]:
    """Each as name, operator, attributes, source line, module: a page of many blocks has thousands."""
    return [
        (one.name, one.op_type, one.attributes, from_here(one.source) if one.source else None, one.scope)
        for one in nodes
    ]


def _readable(value: object) -> object:
    """The same with all text printable."""
    if isinstance(value, dict):
        return {key: _readable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return printable(value) if isinstance(value, str) else value
