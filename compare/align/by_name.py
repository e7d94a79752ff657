"""Alignment: which tap of one graph stands for which of the other."""

from __future__ import annotations

from dataclasses import dataclass

from ...graphs.artifact import Artifact
from ...graphs.errors import InputError
from ...graphs.stages import graph_order
from ...graphs.trace import Trace


@dataclass(frozen=True, slots=True)
class Alignment:
    """The taps that both sides have, in graph order, and those that only one has. Pairs are matched by tap name."""

    common: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    matched_by: str = "tap name"


def align(a: Artifact | Trace, b: Artifact | Trace) -> Alignment:
    """Match the taps of two sides.

    Raises:
        InputError: the two have no tap in common.
    """
    left, right = (set(side.tap_names) for side in (a, b))
    common = tuple(sorted(left & right, key=graph_order))
    if not common:
        raise InputError(
            f"{a.path} and {b.path}: no taps in common ({_some(left)} against {_some(right)}); "
            "give both the stage names of the vocabulary"
        )
    return Alignment(common, tuple(sorted(left - right, key=graph_order)), tuple(sorted(right - left, key=graph_order)))


def _some(names: set[str]) -> str:
    first = sorted(names, key=graph_order)[:3]
    return ", ".join(first) + (", ..." if len(names) > 3 else "")
