"""One line that has another number in each block is one cause: a scale by the layer's number, a table with a typo in some rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ...graphs.stages import graph_order, split_tap_name
from ..listed import listed
from .causes import Cause
from .edits.keys import NUMBER

_MOST_NUMBERS = 3  # that are told


def with_other_numbers(causes: Sequence[Cause]) -> list[Cause]:
    """With what one line does in several blocks, with another number in each, as one cause."""
    joined: dict[object, list[Cause]] = {}
    for n, cause in enumerate(causes):
        lines = [None if node is None else node.source for node in cause.nodes]
        is_number = cause.choice is not None and all(re.match(NUMBER, text) for text in cause.written)
        key = (cause.choice[0], *lines) if cause.choice is not None and is_number and None not in lines else n
        joined.setdefault(key, []).append(cause)
    return [one for group in joined.values() for one in ([_in_blocks(group)] if _are_of_other_blocks(group) else group)]


def _are_of_other_blocks(group: Sequence[Cause]) -> bool:
    blocks = [split_tap_name(tap)[0] for cause in group for tap in cause.taps]
    stages = {split_tap_name(tap)[1] for cause in group for tap in cause.taps}
    return len(group) > 1 and len(set(blocks)) * len(stages) == len(blocks)


def _in_blocks(group: Sequence[Cause]) -> Cause:
    """Causes with other numbers in other blocks as one, with the first few of them."""
    written = []
    for side in (0, 1):
        told = {cause.written[side]: _blocks(cause.taps) for cause in reversed(group)}
        few = [f"{text.split(' (')[0]} in {at}" for text, at in reversed(told.items())][:_MOST_NUMBERS]
        rest = len(told) - len(few)
        written.append(next(iter(told)) if len(told) == 1 else listed([*few, *([f"{rest} more"] if rest else [])]))
    taps = tuple(sorted((tap for cause in group for tap in cause.taps), key=graph_order))
    return replace(group[0], taps=taps, written=(written[0], written[1]), also_fits=(), n_values=len(group))


def _blocks(taps: Sequence[str]) -> str:
    blocks = sorted({block for tap in taps if (block := split_tap_name(tap)[0]) is not None})
    return f"block{'s' if len(blocks) > 1 else ''} {listed([str(block) for block in blocks])}"
