"""What B rounds to whole numbers of fixed scales and makes floats again, passed over: what else differs is seen without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ....graphs.network import ROUNDINGS, Network, Step
from ...judge.locate import Local, is_scores
from ...measure import distance
from ..arrays import shown
from .edit import Edit, Place
from .expression import Style, formula
from .region_search import COARSE
from .words import Line

PASSED_OVER = frozenset({ROUNDINGS})
_STYLE = Style(depth=2)
_CUT_OFF = 1.5  # levels: a value that is off by more has none


@dataclass(frozen=True)
class Roundings:
    """What B rounds in one region, in words, and the verdict on the region as it were without.

    residual: what is left then of the difference.
    is_all: whether that is nothing.
    """

    line: Line
    place: Place
    but: Local
    residual: float
    is_all: bool

    @property
    def edit(self) -> Edit:
        """The edit of a region in which nothing else differs."""
        return Edit((self.line,), (self.place,), 1, self.residual)

    def beside(self, edit: Edit) -> Edit:
        """An edit of the region without them, and they."""
        readers = (*edit.readers, None) if edit.readers else ()
        lines, places = (*edit.lines, self.line), (*edit.places, self.place)
        return replace(edit, lines=lines, places=places, n_steps=edit.n_steps + 1, readers=readers)


def roundings_of(
    local: Local, a: Network, b: Network, canonical: Callable[[np.ndarray], np.ndarray], leaf: Callable[[str], str]
) -> Roundings | None:
    """B's roundings in a region; None where it has none with fixed scales, or A rounds too.

    Args:
        a, b: both networks with roundings passed over.
        leaf: what a tap or weight is called.
    """
    made = b.array(b.output)
    if made is None or local.a64 is None or a.passed_over or not any(map(_is_fixed, b.passed_over)):
        return None
    output = canonical(made)
    if output.shape != local.a64.shape:
        return None
    apart, least = distance(local.a64, output, is_scores(local.tap)), COARSE * local.scale
    but = replace(local, b64=output, error=apart, threshold=min(local.threshold, least), constants=0.0)
    residual = apart / local.error if np.isfinite(local.error) and local.error else apart
    return Roundings(_line(b, leaf), Place(None, b.passed_over[0].index), but, residual, apart <= least)


def _is_fixed(step: Step) -> bool:
    return step.operator == "QuantizeLinear"


def _line(b: Network, name: Callable[[str], str]) -> Line:
    """What is rounded first, and in which steps; how many others are."""

    def leaf(value: str) -> str | None:
        one = b.values[value]
        return name(one.label) if one.kind in ("input", "weight") else None

    first, *others = filter(_is_fixed, b.passed_over)
    scale, whole = b.array(first.operands[1]), b.typed(first.outputs[0])
    assert scale is not None
    assert whole is not None
    what = f"{formula(b, first.operands[0], leaf, _STYLE)}{f' and {len(others)} more' if others else ''}"
    steps = f"{shown(scale.ravel()[0])}{' and others' if others or scale.size > 1 else ''}"
    cut_off = ", which cuts some of their values off" if any(_cuts_off(b, step) for step in (first, *others)) else ""
    bits = whole.array.dtype.itemsize * 8
    text = f"{what} {'are' if others else 'is'} rounded to {bits} bits in fixed steps of {steps}{cut_off}"
    return Line(text, f"rounded to {bits} bits in fixed steps{cut_off}", len(text))


def _cuts_off(b: Network, step: Step) -> bool:
    """Whether values lie so far out that no level is near them; what is infinite is masked."""
    x, scale, whole = (b.array(name) for name in (*step.operands[:2], step.outputs[0]))
    zero = b.array(step.operands[2]) if len(step.operands) > 2 else np.array(0)
    if x is None or scale is None or whole is None or zero is None or scale.size > 1:
        return False
    off = np.abs(x - (whole - np.float64(zero)) * scale)
    return bool(np.any(off[np.isfinite(x)] > _CUT_OFF * scale))
