"""The tables of a result: the logits by position, and every tap's propagated error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ...graphs.axes import same_shape, unbatched
from ...graphs.stages import LOGITS
from ..judge.locate import Local, is_scores
from ..measure import deviation
from ..result import Position, Row
from ..sides.side import Side

_TOP = 5


def rows(a: Side, b: Side, common: Sequence[str], found: Mapping[str, Local]) -> Iterator[Row]:
    """One row for each common tap, in graph order."""
    for tap in common:
        local = found[tap]
        propagated = deviation(a.values[tap], b.values[tap], is_scores(tap))
        yield Row(tap, a.taps[tap].stage, a.taps[tap].block, propagated, local.verdict, local.reason)


def positions(a: Side, b: Side, tokens: Sequence[int]) -> tuple[Position, ...]:
    """The logits of both sides at each position, or the last that there are; none where the logits are no common tap."""
    if LOGITS not in a.values or LOGITS not in b.values:
        return ()
    left, right = (unbatched(side.values[LOGITS], side.taps[LOGITS].axes) for side in (a, b))
    if left.shape != right.shape or len(left) > len(tokens):
        return ()
    left, right = same_shape(left, right)
    first = len(tokens) - len(left)
    return tuple(_position(first + n, int(tokens[first + n]), left[n], right[n]) for n in range(len(left)))


def _position(n: int, token: int, a: np.ndarray, b: np.ndarray) -> Position:
    finite = np.isfinite(a) & np.isfinite(b)
    worst = float(np.max(np.abs(a[finite] - b[finite]))) if finite.any() else None
    return Position(n, token, float(a[0]), float(b[0]), _largest(a), _largest(b), worst)


def _largest(logits: np.ndarray) -> tuple[tuple[int, float], ...]:
    n = min(_TOP, len(logits))
    logits = np.where(np.isnan(logits), -np.inf, logits)  # NaN is no candidate
    among = np.flatnonzero(logits >= np.partition(logits, -n)[-n])
    order = among[np.argsort(-logits[among], kind="stable")][:n]
    return tuple((int(i), float(logits[i])) for i in order if logits[i] > -np.inf)
