"""Where along its tokens a region differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...graphs.axes import canonical_axes, same_shape
from ...graphs.errors import OpdiffError
from ..measure import both_unmasked, norm
from ..result import FirstStep
from ..sides.side import Side
from .locate import Local, is_scores

FEW = 16  # tokens: of a long input, so many are asked first


def places_apart(local: Local, axes: Sequence[str], along: str = "token") -> np.ndarray | None:
    """For each place of an axis, whether the region differs there by more than rounding; None where that cannot be said."""
    words = [word for word in canonical_axes(axes) if word != "batch"]
    if local.a64 is None or local.b64 is None or local.a64.ndim != len(words) or along not in words:
        return None
    try:
        left, right = same_shape(local.a64, local.b64)
    except OpdiffError:
        return None
    place = words.index(along)
    if left.ndim <= place or left.shape[place] != local.a64.shape[place]:
        return None
    with np.errstate(invalid="ignore"):
        far = np.where(left == right, 0.0, np.abs(np.nan_to_num(left - right, nan=np.inf)))
    if is_scores(local.tap):
        seen_left, seen_right = both_unmasked(left, right)
        far = np.where(seen_left & seen_right, far, np.where(seen_left == seen_right, 0.0, np.inf))
    rows = np.moveaxis(far, place, 0).reshape(far.shape[place], -1)
    return np.array([norm(row) > local.reach for row in rows])


def first_place(local: Local, axes: Sequence[str]) -> int:
    """Along `token`, or `slot`, the first place at which the region differs by more than rounding; 0 where that cannot be said."""
    return _known_place(local, axes) or 0


def _known_place(local: Local, axes: Sequence[str]) -> int | None:
    apart = places_apart(local, axes, "slot" if "slot" in axes else "token")
    return None if apart is None else int(np.argmax(apart))


def first_step(a: Side, b: Side, taps: Sequence[str], found: Mapping[str, Local]) -> FirstStep | None:
    """At which position, and in which step of each side, the first of these regions differs; None where both are fed whole,
    or that cannot be said.
    """
    if not a.steps or not b.steps or not taps:
        return None
    firsts = []
    for tap in taps:
        axes = b.taps[tap].axes
        place = _known_place(found[tap], axes)
        if place is None:
            continue
        n = b.step_of(tap, place)
        firsts.append((b.steps[n].start if "slot" in axes else place, tap, n))
    if not firsts:
        return None
    position, tap, n = min(firsts, key=lambda one: one[0])
    m = a.step_at(position)
    text = (
        f"they part first at position {position}, in step {m + 1} of {len(a.steps)} of A ({a.schedule.text}) and step {n + 1} of "
        f"{len(b.steps)} of B ({b.schedule.text}), at {tap}"
    )
    return FirstStep(tap, position, m + 1, n + 1, text)
