"""Closing: B with every region at fault mended, run whole in double precision, against A."""

from __future__ import annotations

import numpy as np

from ...graphs.errors import OpdiffError
from ...graphs.stages import LOGITS
from ..explain.faults import Faults
from ..judge.locate import DOUBLE_UNIT, SINGLE_UNIT
from ..measure import distance, size
from ..result import Closed
from ..sides.graph_side import GraphSide
from ..sides.side import Side
from .effect import Effects

NOTHING_AT_FAULT = Closed(True, True, 0.0, "complete: no region is at fault")


def close_without_fault(a: Side, b: Side) -> Closed:
    """Whether the logits agree as well where every region does. They are run in double precision only where they are apart
    in float32 by more than a sum of roundings is like to make.
    """
    if not (isinstance(a, GraphSide) and isinstance(b, GraphSide) and LOGITS in a.values and LOGITS in b.values):
        return NOTHING_AT_FAULT
    try:
        if distance(a.values[LOGITS], b.values[LOGITS], False) <= SINGLE_UNIT**0.5 * size(a.values[LOGITS], False):
            return NOTHING_AT_FAULT
        effects = Effects(a, b, ())
        left = effects.left(effects.logits(()))
    except OpdiffError:
        return NOTHING_AT_FAULT
    if not left > max(effects.floor, SINGLE_UNIT):
        return NOTHING_AT_FAULT
    text = (
        f"not complete: no region is at fault by itself, and yet B's logits are {left:.2g} from A's in double precision"
    )
    return Closed(False, False, left, text)


def not_known(reason: str) -> Closed:
    """Nothing could be run to see."""
    return Closed(None, None, None, f"not known: {reason}")


def close(faults: Faults, effects: Effects) -> Closed:
    """Whether the regions at fault are all there are, and whether each is explained.

    What is left after mending is held against what float32 rounding does to A's own logits, and its share in float64.
    """
    try:
        left = effects.left(effects.logits(faults.taps))
    except OpdiffError as e:
        return not_known(f"B cannot run with A's regions in it ({e})")
    floor = max(effects.floor, SINGLE_UNIT) if np.isfinite(effects.floor) else SINGLE_UNIT
    if not np.isfinite(effects.left(effects.a_logits)):
        return not_known("A's own logits hold NaN or Inf, which nothing can be measured against")
    if not np.isfinite(left):
        return not_known("mended in every region at fault, B's logits hold NaN or Inf still")
    if left > floor:
        text = f"not complete: mended in every region at fault, B is still {left:.2g} from A, and no single region accounts for it"
        return Closed(False, False, left, text)
    is_double = left <= floor * (DOUBLE_UNIT / SINGLE_UNIT) ** 0.5
    rest = (
        f"double-precision rounding ({left:.1e})"
        if is_double
        else f"rounding ({left:.1e}, float32's own is {floor:.1e})"
    )
    if not faults.unexplained:
        return Closed(True, True, left, f"complete: mended by all of them, B meets A to {rest}")
    return Closed(False, True, left, f"every region is found, and mending them leaves {rest}; {_unexplained(faults)}")


def close_recorded(faults: Faults, has_logits: bool) -> Closed:
    """Whether the causes are all there are, where a trace cannot run on: every region was held against it, on its own values.

    What comes before the logits is then accounted for region by region, to what float32 resolves.
    """
    text = "every region was run on the trace's own values"
    if faults.unexplained:
        return Closed(
            False, True, None, f"every region is found, each run on the trace's own values; {_unexplained(faults)}"
        )
    if not has_logits:
        return not_known(f"the trace has no logits; {text}, as far as it goes")
    met = "and with these causes all of them meet it to float32's rounding, up to the logits"
    return Closed(True, True, None, f"complete: {text}, {met}")


def _unexplained(faults: Faults) -> str:
    n, of = len(faults.unexplained), len(faults.taps)
    kinds = {cause.kind for cause in faults.causes if not cause.is_explained}
    what = "smaller explanation than the region itself" if kinds == {"rewrite"} else "explanation"
    return f"for {n} of {of}, no {what} was found"
