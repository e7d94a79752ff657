"""Inside a region: the first node whose output has no counterpart on the other side, though its inputs have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...graphs.errors import ShapeError
from ...graphs.programs import Step, steps
from ...graphs.promote import PERTURBATION_ULPS
from ...graphs.regions import Region
from ...graphs.taps import Source
from ..judge.locate import DOUBLE_UNIT, SINGLE_UNIT
from ..measure import norm
from ..sides.graph_side import GraphSide
from ..sides.side import Side, Values


@dataclass(frozen=True, slots=True)
class Pinpoint:
    """The node of each side at which the two part (None where a side has none), and what differs there, in words."""

    a_node: Source | None
    b_node: Source | None
    difference: str


@dataclass(frozen=True, slots=True)
class _Inside:
    """One side's region, run: its steps, and the fingerprint of every value in it by its name in the program."""

    steps: tuple[Step, ...]
    prints: Mapping[str, np.ndarray]


class Pinpointer:
    """Finds the node for region after region; two regions of the same programs part at the same place."""

    def __init__(self, a: Side, b: Side) -> None:
        self._a, self._b = a, b
        self._places: dict[tuple[str, str], tuple[int | None, int | None]] = {}

    def pinpoint(self, tap: str) -> Pinpoint:
        """Run both regions on A's values with everything exposed, and find where the values part.

        Against a trace, which has no insides, it is the nodes that make the tap.
        """
        if not (isinstance(self._a, GraphSide) and isinstance(self._b, GraphSide)):
            return Pinpoint(self._a.taps[tap].node, self._b.taps[tap].node, "")
        left, right = self._a.regions[tap], self._b.regions[tap]
        key = (left.program.signature, right.program.signature)
        if key not in self._places:
            try:
                sides = _inside(self._a, tap, self._a.values), _inside(self._b, tap, self._a.values)
            except ShapeError as e:
                return Pinpoint(None, None, f"it cannot run on A's values: {e}")
            self._places[key] = _places(*sides)
        ours, theirs = self._places[key]
        return Pinpoint(
            None if ours is None else left.source(ours),
            None if theirs is None else right.source(theirs),
            _difference(left, right, ours, theirs),
        )


def _places(a: _Inside, b: _Inside) -> tuple[int | None, int | None]:
    """The step of each side at which they part.

    Where they part by more than a constant's rounding in float32, that place is meant; otherwise the first one at all.
    """
    ours = theirs = None
    for nearness in (PERTURBATION_ULPS * SINGLE_UNIT, (SINGLE_UNIT * DOUBLE_UNIT) ** 0.5):
        ours, theirs = _first_unmatched(a, b, nearness), _first_unmatched(b, a, nearness)
        if theirs is not None:
            break
    return ours, theirs


def _inside(side: GraphSide, tap: str, values: Values) -> _Inside:
    region = side.regions[tap]
    found = side.run_all(tap, values)
    inputs = dict(zip((f"i{n}" for n in range(len(region.inputs))), side.feeds(region, values), strict=True))
    weights = {f"w{n}": weight.array for n, weight in enumerate(region.weights)}
    prints = {name: _fingerprint(value) for name, value in {**weights, **inputs, **found}.items()}
    return _Inside(steps(region.program), prints)


def _first_unmatched(side: _Inside, other: _Inside, nearness: float) -> int | None:
    """The first step without a counterpart, from which on nothing has one."""
    theirs = list(other.prints.values())
    matched = {name for name, ours in side.prints.items() if any(_alike(ours, known, nearness) for known in theirs)}
    if "out" in matched and _alike(side.prints["out"], other.prints["out"], nearness):
        if nearness > (SINGLE_UNIT * DOUBLE_UNIT) ** 0.5:
            return None
        matched.discard("out")
    maker = {name: step for step in side.steps for name in step.outputs}
    entered: set[int] = set()
    stack, found = ["out"], []
    while stack:
        step = maker.get(stack.pop())
        if step is None or step.index in entered:
            continue
        entered.add(step.index)
        unmatched = [name for name in step.inputs if name in maker and name not in matched]
        if not unmatched:
            found.append(step)
        stack.extend(unmatched)
    return min((step.index for step in found), default=None)


def _fingerprint(value: np.ndarray) -> np.ndarray:
    """Figures that no transpose or reshape changes: count, and sums of powers relative to the size."""
    flat = np.asarray(value, np.float64).ravel()
    flat = flat[np.isfinite(flat) & (np.abs(flat) < 1e30)]
    n_left_out = value.size - flat.size
    size = norm(flat)
    unit = flat / size if size else flat
    square = unit * unit  # numpy takes forty times as long for a power of 3 or 4
    powers = unit.sum(), np.abs(unit).sum(), (square * unit).sum(), (square * square).sum()
    return np.array([value.size, n_left_out, size, *powers])


def _alike(a: np.ndarray, b: np.ndarray, nearness: float) -> bool:
    if a[0] != b[0] or a[1] != b[1]:
        return False
    root = max(1.0, float(a[0]) ** 0.5)
    return bool(abs(a[2] - b[2]) <= nearness * max(a[2], b[2]) and np.all(np.abs(a[3:] - b[3:]) <= nearness * root))


def _difference(a: Region, b: Region, a_place: int | None, b_place: int | None) -> str:
    """What differs at those steps, in words."""
    if set(a.inputs) != set(b.inputs):
        return f"it reads {', '.join(b.inputs)}, where A reads {', '.join(a.inputs)}"
    if a_place is None or b_place is None:
        return ""
    ours, theirs = _Written(a), _Written(b)
    left, right = ours.steps[a_place], theirs.steps[b_place]
    if left.operator == right.operator:
        for key in sorted({*left.attributes, *right.attributes}):
            before, after = left.attributes.get(key, "none"), right.attributes.get(key, "none")
            if before != after:
                return f"{right.operator} with {key}={after}, where A has {before}"
        for before, after in zip(left.constants, right.constants, strict=False):
            if before != after:
                return f"{right.operator} with the constant {after}, where A has {before}"
    return f"{theirs.expression(right)}, where A has {ours.expression(left)}"


class _Written:
    """A region's steps, as they would be written: `MatMul(blk.0.attn_norm, Transpose(blk.0.attn_q.weight))`."""

    def __init__(self, region: Region) -> None:
        self.steps = steps(region.program)
        self._maker = {name: step for step in self.steps for name in step.outputs}
        self._names = {f"i{n}": name for n, name in enumerate(region.inputs)}
        self._names |= {f"w{n}": name for n, name in enumerate(region.weight_names)}

    def expression(self, step: Step, depth: int = 2) -> str:
        constants = iter(step.constants)
        words = []
        for name in step.inputs:
            if name in self._names:
                words.append(self._names[name])
            elif name in self._maker:
                words.append(self.expression(self._maker[name], depth - 1) if depth > 1 else "...")
            else:
                words.append(next(constants, "?"))
        return f"{step.operator}({', '.join(words)})"
