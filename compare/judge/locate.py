"""Which regions are at fault: B's region and A's, both on A's values, in single and in double precision.

A difference that is rounding shrinks with the precision; one of meaning stays. So nothing is held against a tolerance: the
float64 difference is held against what float32 rounding does to the same region, and what it would do in float64.

A trace has no region to run in float64. There the graph's region, run on the trace's values, is held against what the
trace recorded, and a difference against what other float32 kernels may make of the same region.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ...graphs.axes import same_shape, unbatched
from ...graphs.constants import Exact, constant_arrays, constant_fingerprints, fingerprint, is_constant
from ...graphs.cores import on_all_cores
from ...graphs.errors import ShapeError
from ...graphs.progress import counted
from ..measure import Deviation, comparable, deviation, distance, size, squared
from ..sides.graph_side import GraphSide
from ..sides.side import Side, Values
from ..sides.trace_side import TraceSide

Verdict = Literal["same", "rounding", "semantic"]
SINGLE_UNIT, DOUBLE_UNIT = 2.0**-24, 2.0**-53
# Times the measured floor. Sums taken one by one in a plain loop reached 4.4 over 1536 terms of SmolLM2, and grow with
# the root of their number: this leaves room for 20 000 terms.
OTHER_KERNELS = 16
CERTAIN = 0.5  # the share of a difference that no rounding comes near, from which on it is one


@dataclass(frozen=True)
class Local:
    """The local verdict on one region, with what it rests on. Distances are Euclidean, in the tap's own unit.

    `floor` is float32's rounding in this region as measured; `constants` how far rounded constants move it (for the
    verdict, those alone in which the sides are not bit for bit the same);
    `threshold` lies half-way (on a log scale) between float32's rounding and float64's; against a trace, or where a side
    has an operator that onnxruntime runs in float32 only, it is `OTHER_KERNELS` times the floor. The values themselves, `a64` and `b64`, are kept of semantic regions only.
    `certain` is the share of the squared difference at entries where both sides' own float32 is far nearer to their float64
    than they are to one another: elsewhere, as behind a floor() of a whole number, float32's rounding decides.
    """

    tap: str
    verdict: Verdict
    reason: str
    error: float = 0.0
    floor: float = 0.0
    constants: float = 0.0
    threshold: float = 0.0
    scale: float = 0.0
    local: Deviation | None = None
    a64: np.ndarray | None = field(default=None, repr=False)
    b64: np.ndarray | None = field(default=None, repr=False)
    certain: float = 0.0

    @property
    def reach(self) -> float:
        """How near a prediction must come to be called equal: rounding, of values or of constants; of values alone where that of
        constants would hide the difference.
        """
        return self.threshold if self.error <= self.constants else max(self.threshold, self.constants)


def is_scores(tap: str) -> bool:
    """Whether a tap holds attention scores, where a masked entry is no number to compare."""
    return tap.endswith("attn_scores")


def is_equal(local: Local, value: np.ndarray, prediction: np.ndarray) -> bool:
    """Whether a prediction meets a float64 value of this region."""
    try:
        return distance(value, prediction, is_scores(local.tap)) <= local.reach
    except ShapeError:
        return False


def locate(a: Side, b: Side) -> dict[str, Local]:
    """The local verdict for each common tap, in B's graph order; on all cores."""
    judged = on_all_cores(lambda tap: judge_region(a, b, tap), b.regions)
    return dict(zip(counted(b.regions), judged, strict=True))


def judge_region(a: Side, b: Side, tap: str) -> Local:
    """A's and B's region for one tap, both on the same values of the taps that they read: A's, or a trace's."""
    if isinstance(b, TraceSide):
        assert isinstance(a, GraphSide)
        return _judge_recorded(a, b, tap, graph_first=True)
    assert isinstance(b, GraphSide)
    if isinstance(a, TraceSide):
        return _judge_recorded(b, a, tap, graph_first=False)
    assert isinstance(a, GraphSide)
    return judge_graphs(a, b, tap)


def judge_graphs(a: GraphSide, b: GraphSide, tap: str, others: Values | None = None) -> Local:
    """Two graphs' regions for one tap, both on A's values, or on others of the taps that they read."""
    if is_identical(a, b, tap):
        return Local(tap, "same", "the same nodes on the same weights")
    values, scores = a.values if others is None else others, is_scores(tap)
    try:
        if _is_same_product(a, b, tap, values):
            return Local(tap, "same", "the same numbers times the same weight")
        a32, b32 = a.by_region[tap] if others is None else a.run(tap, values), b.run(tap, values)
        same_shape(a32, b32)
        a64, b64 = a.run_abreast([side.running(tap, values, "float64") for side in (a, b)])
    except ShapeError as e:
        return _misfit(tap, e)
    error, scale = distance(a64, b64, scores), size(a64, scores)
    local = deviation(a64, b64, scores)
    if error == 0:
        return Local(tap, "same", "equal in double precision", scale=scale, local=local)
    floor = max(distance(a32, a64, scores), distance(b32, b64, scores))
    single = max(floor if np.isfinite(floor) else 0.0, SINGLE_UNIT * scale)
    threshold, reason = single * (DOUBLE_UNIT / SINGLE_UNIT) ** 0.5, "shrinks with the precision"
    if a.kept_in_single(tap) or b.kept_in_single(tap):
        threshold, reason = OTHER_KERNELS * single, "no more than float32 kernels may differ here"
    if error <= threshold:
        return Local(tap, "rounding", reason, error, floor, 0.0, threshold, scale, local)
    weights = _small_weights((a, b), tap)
    exact = weights | (constant_fingerprints(a.regions[tap]) & constant_fingerprints(b.regions[tap]))
    rounded = [(a32, a64), (b32, b64)]
    moved = list(zip(_moved((a, b), tap, values, exact), (a64, b64), strict=True))
    constants = reach = _farthest(moved, scores)
    if error <= constants and _certain(a64, b64, [*rounded, *moved], scores) < CERTAIN:
        reason = "no more than a rounded constant does"
        return Local(tap, "rounding", reason, error, floor, constants, threshold, scale, local)
    kept = {
        name: a.keep(unbatched(value, side.taps[tap].axes)) for name, value, side in (("a64", a64, a), ("b64", b64, b))
    }
    if exact != weights:
        reach = _farthest(zip(_moved((a, b), tap, values, weights), (a64, b64), strict=True), scores)
    certain = _certain(a64, b64, rounded, scores)
    reason = "stays in double precision"
    return Local(tap, "semantic", reason, error, floor, reach, threshold, scale, local, **kept, certain=certain)


def _certain(
    a64: np.ndarray, b64: np.ndarray, rounded: Iterable[tuple[np.ndarray, np.ndarray]], is_scores: bool
) -> float:
    """The share of a squared difference at entries where no rounding comes near it; what both mask, by whatever number, is none.

    rounded: values, and the same ones as they are in double precision.
    """
    ours, theirs, masks_agree = comparable(a64, b64, is_scores)
    if not masks_agree:
        return 1.0
    with np.errstate(invalid="ignore"):
        apart = np.abs(ours - theirs)
        apart = np.where(np.isfinite(apart), apart, 0.0)
        is_certain = np.ones(apart.shape, bool)
        for one, exact in rounded:
            nearer, far = same_shape(np.abs(np.subtract(*same_shape(one, exact))), apart)
            is_certain &= far > OTHER_KERNELS * nearer
    whole = squared(apart)
    return squared(apart[is_certain]) / whole if whole else 0.0


def _judge_recorded(graph: GraphSide, trace: TraceSide, tap: str, graph_first: bool) -> Local:
    """The graph's region on the trace's values, in float64, against what the trace recorded."""
    scores, theirs = is_scores(tap), trace.values[tap]
    try:
        ours, single = graph.run(tap, trace.values, "float64"), graph.run(tap, trace.values)
        same_shape(ours, theirs)
    except ShapeError as e:
        return _misfit(tap, e)
    error, scale = distance(ours, theirs, scores), size(ours, scores)
    pair = (ours, theirs) if graph_first else (theirs, ours)
    local = deviation(*pair, scores)
    floor = distance(single, ours, scores)
    recorded = size(theirs, scores)  # which may be the larger: what explains it can only be met to its own rounding
    floor = max(floor if np.isfinite(floor) else 0.0, trace.unit(tap) * max(scale, recorded))
    if error > OTHER_KERNELS * floor:
        moved = graph.run(tap, trace.rounded_otherwise(graph.reads(tap)), "float64")
        floor = max(floor, distance(moved, ours, scores))
    threshold = OTHER_KERNELS * floor
    if error <= threshold:
        reason = "no more than float32 kernels may differ here"
        return Local(tap, "rounding", reason, error, floor, 0.0, threshold, scale, local)
    otherwise = _moved((graph,), tap, trace.values, _small_weights((graph,), tap))
    constants = _farthest(zip(otherwise, (ours,), strict=True), scores)
    if error <= constants:
        reason = "no more than a rounded constant does"
        return Local(tap, "rounding", reason, error, floor, constants, threshold, scale, local)
    kept = [graph.keep(unbatched(value, side.taps[tap].axes)) for value, side in ((ours, graph), (theirs, trace))]
    a64, b64 = kept if graph_first else kept[::-1]
    reason = "more than float32 kernels may differ here"
    return Local(tap, "semantic", reason, error, floor, constants, threshold, scale, local, a64, b64)


def _misfit(tap: str, error: ShapeError) -> Local:
    text = f"shapes {error}"
    return Local(tap, "semantic", text, float("inf"), local=Deviation(text, None, None, None, None))


def _moved(sides: Sequence[GraphSide], tap: str, values: Values, exact: Exact) -> list[np.ndarray]:
    """The region's output on each side, with its constants, but for the exact ones, as float32 may round them otherwise."""
    return sides[0].run_abreast([side.running(tap, values, "float64", exact) for side in sides])


def _farthest(pairs: Iterable[tuple[np.ndarray, np.ndarray]], scores: bool) -> float:
    far = max(distance(right, moved, scores) for moved, right in pairs)
    return far if np.isfinite(far) else 0.0


def _small_weights(sides: Sequence[GraphSide], tap: str) -> Exact:
    """The weights that one side reads from outside: where the other has them inside its graph, they are no constants."""
    regions = [side.regions[tap] for side in sides]
    inside = {array.size for region in regions for array in constant_arrays(region.program).values()}
    weights = {weight.identity: weight.array for region in regions for weight in region.weights}
    return frozenset(fingerprint(array) for array in weights.values() if array.size in inside and is_constant(array))


def _is_same_product(a: GraphSide, b: GraphSide, tap: str, values: Values) -> bool:
    ours = a.as_product(tap, values)
    theirs = ours and b.as_product(tap, values)
    return bool(ours and theirs and ours.equals(theirs))


def is_identical(a: GraphSide, b: GraphSide, tap: str) -> bool:
    """Whether both compute a tap by the same nodes, on the same weights, in the same layout."""
    layouts = all(a.layout(n) == b.layout(n) for n in (tap, *a.reads(tap)))
    return layouts and a.regions[tap].is_identical_to(b.regions[tap])
