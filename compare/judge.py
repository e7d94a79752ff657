"""Which side is right: whose output, or whose convention, the reference shares on the same values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..graphs.errors import OpdiffError
from .causes import Choice, Explainer
from .conventions import Settings
from .locate import Local, is_equal
from .side import Side


def agreement(
    reference: Side,
    a: Side,
    locals_: Mapping[str, Local],
    taps: Sequence[str],
    choice: Choice | None,
    explainer: Explainer,
    start: Settings | None,
) -> str:
    """`a`, `b`, `neither`, `both` (for another reason than this cause) or `unknown`, over all places of a cause."""
    said = {_at(reference, a, locals_[tap], choice, explainer, start) for tap in taps}
    said.discard("unknown")
    return said.pop() if len(said) == 1 else ("unknown" if not said else "neither")


def _at(
    reference: Side, a: Side, local: Local, choice: Choice | None, explainer: Explainer, start: Settings | None
) -> str:
    if local.tap not in reference.regions or local.a64 is None or local.b64 is None:
        return "unknown"
    try:
        value = reference.run(local.tap, a.values, "float64")
    except (OpdiffError, KeyError):
        return "unknown"
    with_a, with_b = is_equal(local, local.a64, value), is_equal(local, local.b64, value)
    if with_a or with_b:
        return "a" if with_a and not with_b else "b" if not with_a else "both"
    if choice is None or start is None:
        return "neither"
    theirs = explainer.settings_of(explainer.case(local.tap), local, value, "reference", start)
    if not theirs.found:
        return "neither"
    held = theirs.settings.get(choice[0])
    return "a" if held == choice[1] else "b" if held == choice[2] else "neither"
