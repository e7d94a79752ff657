"""A side's local errors as node data for Model Explorer, which colours its graph by them.

The format is that of `node_data_builder.py` of ai-edge-model-explorer; nodes are called as its adapter for ONNX,
model-explorer-onnx, calls them: by their own names.
"""

from __future__ import annotations

import math
import sys

from ..result import Result, Row
from .findings import SideLetter, over_floor, row_of_each_node

_MOST = float(sys.float_info.max_10_exp)  # decades: stands for an error that is not finite
# up to so many decades above rounding: the colour of the node and of its text; the lightness alone tells them apart
_COLOURS = (
    (0.0, "#eef3fa", "#000000"),
    (1.0, "#fee391", "#000000"),
    (3.0, "#fe9929", "#000000"),
    (6.0, "#cc4c02", "#ffffff"),
    (_MOST, "#662506", "#ffffff"),
)


def node_data(result: Result, side: SideLetter) -> dict[str, object]:
    """Each node's decades of local error above float32's rounding in its region: 0 where it is at or below that.

    As JSON, it is a file that Model Explorer's `--node_data_paths` takes.
    """
    rows = row_of_each_node(result, side)
    return {
        "name": f"local error, decades above float32 rounding: {result.a.name} against {result.b.name}",
        "results": {name: _shown(row) for name, row in rows.items()},
        "hideAggregatedStats": ["sum", "avg"],
        "thresholds": [{"value": most, "bgColor": back, "textColor": text} for most, back, text in _COLOURS],
    }


def _shown(row: Row) -> dict[str, object]:
    """A difference of meaning may be smaller than rounding; it has not the colour of what agrees."""
    value = decades(row)
    is_small = row.verdict == "semantic" and value == 0
    return {"value": value, "bgColor": _COLOURS[1][1]} if is_small else {"value": value}


def decades(row: Row) -> float:
    """log10 of the local error over the floor, between 0 and what a double holds."""
    ratio = over_floor(row)
    if math.isinf(ratio):
        return _MOST
    return round(max(0.0, math.log10(ratio)), 3) if ratio else 0.0
