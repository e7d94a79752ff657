"""The rows of a result: the logits by position, and of every tap what came through and what its region adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...graphs.axes import canonical_axes, same_shape, unbatched
from ...graphs.cores import on_all_cores
from ...graphs.sources import source_of
from ...graphs.stages import LOGITS
from ...graphs.taps import Source
from ..judge.locate import Local, is_scores
from ..measure import deviation
from ..result import Position, Row
from ..sides.graph_side import GraphSide
from ..sides.side import Side
from .pictures import along_positions, look, picture_of_difference, unseen

_TOP = 5


def rows(
    a: Side, b: Side, common: Sequence[str], found: Mapping[str, Local], with_pictures: bool = True
) -> Iterator[Row]:
    """One row for each common tap, in graph order; on all cores.

    with_pictures: with what only a page or a file shows: the values' pictures, and how far they are apart by position.
    """
    made = on_all_cores(lambda tap: _row(a, b, tap, found[tap], with_pictures), common)
    for tap, row in zip(common, made, strict=True):  # ast, which reads the nodes' scopes, is no thread's
        yield replace(row, a_nodes=_nodes(a, tap), b_nodes=_nodes(b, tap))


def _row(a: Side, b: Side, tap: str, local: Local, with_pictures: bool) -> Row:
    left, right, axes = a.values[tap], b.values[tap], a.taps[tap].axes
    scores = is_scores(tap)
    propagated = deviation(left, right, scores)
    row = Row(
        tap=tap,
        stage=a.taps[tap].stage,
        block=a.taps[tap].block,
        axes=canonical_axes(axes),
        propagated=propagated,
        verdict=local.verdict,
        reason=local.reason,
        error=local.error,
        floor=local.floor,
        threshold=local.reach,
        by_position=(),
        a_nodes=(),
        b_nodes=(),
        a_look=unseen(left),
        b_look=unseen(right),
        difference=None,
    )
    if not with_pictures:
        return row
    a_look = look(left, axes, scores)
    is_equal = propagated.max_abs == 0 and propagated.status == "compared" and left.shape == right.shape
    return replace(
        row,
        by_position=along_positions(left, right, axes, scores),
        a_look=a_look,
        b_look=a_look if is_equal else look(right, b.taps[tap].axes, scores),
        difference=picture_of_difference(left, right, axes, scores),
    )


def _nodes(side: Side, tap: str) -> tuple[Source, ...]:
    """The nodes of the region; a trace has none of its own."""
    return tuple(map(source_of, side.regions[tap].nodes)) if isinstance(side, GraphSide) else ()


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
