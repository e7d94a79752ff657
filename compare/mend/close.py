"""Closing: B with every explained region mended, run whole in double precision, against A."""

from __future__ import annotations

import numpy as np

from ...graphs.errors import OpdiffError
from ..explain.faults import Faults
from ..judge.locate import DOUBLE_UNIT, SINGLE_UNIT
from ..result import Closed
from .effect import Effects


def close(faults: Faults, effects: Effects) -> Closed:
    """Whether the causes found are all there are.

    What is left after mending is held against what float32 rounding does to A's own logits, and its share in float64.
    """
    try:
        left = effects.left(effects.logits(faults.named))
    except OpdiffError as e:
        return Closed(None, None, f"not known: B cannot run with A's regions in it ({e})")
    floor = max(effects.floor, SINGLE_UNIT) if np.isfinite(effects.floor) else SINGLE_UNIT
    if not np.isfinite(effects.left(effects.a_logits)):
        return Closed(None, None, "not known: A's own logits hold NaN or Inf, which nothing can be measured against")
    if not np.isfinite(left):
        return Closed(False if faults.unexplained else None, None, _not_finite(faults, effects, floor))
    if faults.unexplained:
        return Closed(False, left, _unnamed(faults, effects, left, floor))
    if left <= floor * (DOUBLE_UNIT / SINGLE_UNIT) ** 0.5:
        return Closed(
            True, left, f"complete: mended by all of them, B meets A to double-precision rounding ({left:.1e})"
        )
    if left <= floor:
        return Closed(
            True,
            left,
            f"complete: mended by all of them, B meets A to rounding ({left:.1e}, float32's own is {floor:.1e})",
        )
    return Closed(
        False,
        left,
        f"not complete: mended by all of them, B is still {left:.2g} from A, and no single region accounts for it",
    )


def close_recorded(faults: Faults, has_logits: bool) -> Closed:
    """Whether the causes are all there are, where a trace cannot run on: every region was held against it, on its own values.

    What comes before the logits is then accounted for region by region, to what float32 resolves.
    """
    text = "every region was run on the trace's own values"
    if faults.unexplained:
        places = ", ".join(tap for one in faults.unexplained for tap in one.taps[:2])
        return Closed(False, None, f"not complete: no convention explains {places}; {text}")
    if not has_logits:
        return Closed(None, None, f"not known: the trace has no logits; {text}, as far as it goes")
    return Closed(
        True,
        None,
        f"complete: {text}, and with these causes all of them meet it to float32's rounding, up to the logits",
    )


def _not_finite(faults: Faults, effects: Effects, floor: float) -> str:
    """What there is to say where B's logits, mended by what has a name, hold NaN or Inf."""
    if not faults.unexplained:
        return "not known: mended by all of them, B's logits hold NaN or Inf still"
    places = ", ".join(tap for one in faults.unexplained for tap in one.taps[:2])
    return f"not complete: no convention explains {places}; mended by the others, B's logits hold NaN or Inf" + _rest(
        faults, effects, floor
    )


def _unnamed(faults: Faults, effects: Effects, left: float, floor: float) -> str:
    places = ", ".join(tap for one in faults.unexplained for tap in one.taps[:2])
    text = f"not complete: no convention explains {places}; mended by the others, B is {left:.2g} from A"
    return text + _rest(faults, effects, floor)


def _rest(faults: Faults, effects: Effects, floor: float) -> str:
    """What is left where the regions without a name are mended too."""
    try:
        rest = effects.left(effects.logits(faults.taps))
    except OpdiffError:
        return ", and there B cannot run with A's regions in it"
    if rest <= floor:
        return f", and mended there too, only rounding is left ({rest:.1e}): these regions are all that differs"
    if not np.isfinite(rest):
        return ", and mended there too, they hold them still"
    return f", and mended there too, still {rest:.2g}"
