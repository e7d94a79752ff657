"""Several runs of one graph, a step of a schedule each, as one graph: its values are put together by position.

A node that gives on values put together what it gives in the steps stands once, as in the graph fed whole; where the cache is
right, that is every node. Of another one each step has its own: they read their parts of values put together, and what they
give is put together behind them.
"""

from __future__ import annotations

import heapq
from collections import ChainMap, Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import NodeProto

from ..errors import InputError
from ..schedule.steps import Step
from ..slices import implicit_inputs
from ..stepping import StepRunner, Typed, typed
from .flat import Flat, Ran, made, needed, renamed

_NEAR = 1e-11  # relative, in double precision: what another order of sums leaves open
_MASK = 1e30  # whatever is larger stands for infinity
_Unit = tuple[str, int]  # a node by what it makes, and its step; -1 for one that stands once


@dataclass(frozen=True, slots=True)
class Axes:
    """Along which axes of a value the positions of a step stand, and those of all steps so far.

    times: how many places there are for each position, where heads are merged with it.
    """

    token: int | None
    key: int | None
    times: int = 1

    def place(self, step: Step) -> tuple[slice, ...]:
        """What a step has of the value put together."""
        at = {self.token: slice(step.start * self.times, step.end * self.times), self.key: slice(0, step.end)}
        last = max(axis for axis in at if axis is not None)
        return tuple(at.get(axis, slice(None)) for axis in range(last + 1))


def axes_of(whole: tuple[int, ...], parts: Sequence[tuple[int, ...]], steps: Sequence[Step]) -> Axes | None:
    """The axes of a value that has one shape when fed whole, and others in the steps; None where it has none of these."""
    if not steps or any(len(part) != len(whole) for part in parts):
        return None
    lengths, ends, n_tokens = [step.end - step.start for step in steps], [step.end for step in steps], steps[-1].end
    token = key = None
    times = 1
    for axis, size in enumerate(whole):
        sizes, many = [part[axis] for part in parts], size // n_tokens
        if all(one == size for one in sizes):
            continue
        if token is None and many and size == many * n_tokens and sizes == [many * length for length in lengths]:
            token, times = axis, many
        elif key is None and size == n_tokens and sizes == ends:
            key = axis
        else:
            return None
    return None if token is None and key is None else Axes(token, key, times)


@dataclass(frozen=True, slots=True)
class _Joint:
    """A value put together; `node` makes it, where that is one node for all steps, and else the steps' own do.

    fill: what stands for the keys that a step does not have.
    """

    axes: Axes | None
    array: np.ndarray
    type: str
    node: NodeProto | None = None
    fill: float = 0.0


class Together:
    """The steps of one graph, put together."""

    def __init__(
        self, whole: Flat, parts: Sequence[Flat], steps: Sequence[Step], states: Mapping[str, str], runner: StepRunner
    ) -> None:
        self._whole, self._parts, self._steps, self._runner = whole, parts, steps, runner
        self._states = states
        constants = {name: whole.values[name] for name in whole.constants}
        self._made = replace(
            whole,
            inputs={name: array for name, array in whole.inputs.items() if name not in self._states},
            nodes=[],
            values=constants,
            constants=set(whole.constants),
            outputs={},
            notes=list(dict.fromkeys(note for flat in (whole, *parts) for note in flat.notes)),
            origin={},
        )
        self._joint: dict[str, _Joint] = {}
        self._n_emitted: Counter[str] = Counter()
        for name in self._made.inputs:
            self._made.values[name] = whole.values[name]
            self._joint[name] = _Joint(self._axes_of(name), whole.array(name), whole.values[name].type)

    def flat(self) -> Flat:
        """The graph, put together."""
        for node in self._whole.nodes:
            self._decide(node)
        for unit in self._in_order():
            self._emit(*unit)
        flat, last = self._made, len(self._parts) - 1
        for output, name in self._parts[-1].outputs.items():
            flat.outputs[output] = name if name in self._joint else self._read(name, last)
            names = {one.outputs[output] for one in (self._whole, *self._parts)}
            if len(names) > 1 and output not in self._states.values():
                raise InputError(
                    f"{flat.foreign.path}: what its steps give as {output} cannot be put together by position, for it is made "
                    "otherwise in later steps than in the first one; compare it whole"
                )
        flat.nodes = needed(flat)
        return flat

    def _axes_of(self, name: str) -> Axes | None:
        return axes_of(self._whole.array(name).shape, [part.array(name).shape for part in self._parts], self._steps)

    def _decide(self, node: Ran) -> None:
        """Find whether a node's values can be put together, and whether one node gives them."""
        key = node.outputs[0]
        makers = [part.maker.get(key) for part in self._parts]
        if any(maker is None or maker.outputs != node.outputs or maker.operator != node.operator for maker in makers):
            return
        axes = {name: self._axes_of(name) for name in node.outputs}
        found = self._at_once(node, axes) or self._side_by_side(node, axes)
        self._joint.update(found)

    def _at_once(self, node: Ran, axes: Mapping[str, Axes | None]) -> dict[str, _Joint]:
        """What one node makes of values put together, where that is what the steps make; else nothing.

        Its constants are those of the graph fed whole, or those of the steps put together.
        """
        data = [name for name in node.reads if self._whole.is_data(name)]
        if any(name not in self._joint for name in data):
            return {}
        together = {name: Typed(self._joint[name].array, self._joint[name].type) for name in data}
        for names in dict[str, str](), self._constants_by_position(node):
            one = renamed(node.node, names)
            values = ChainMap(together, self._made.values)
            try:
                found = dict(zip(node.outputs, made(one, self._made, values, self._runner), strict=False))
            except InputError:
                continue
            if all(self._is_that(name, value.array, axes[name]) for name, value in found.items()):
                return {name: _Joint(axes[name], value.array, value.type, one) for name, value in found.items()}
        return {}

    def _is_that(self, name: str, array: np.ndarray, axes: Axes | None) -> bool:
        """Whether a value put together holds what each step has."""
        parts = [part.array(name) for part in self._parts]
        if axes is None:
            return all(_is_equal(array, part) for part in parts)
        whole = self._whole.array(name).shape
        return array.shape == whole and all(
            _is_equal(array[axes.place(step)], part) for part, step in zip(parts, self._steps, strict=True)
        )

    def _constants_by_position(self, node: Ran) -> dict[str, str]:
        """The node's constants that the steps have each for its own positions, put together, and their names."""
        found = {}
        for name in node.reads:
            if not name or name not in self._whole.constants or any(name not in part.constants for part in self._parts):
                continue
            axes = self._axes_of(name)
            if axes is not None and axes.token is not None and axes.key is None:
                array = np.concatenate([part.array(name) for part in self._parts], axes.token)
                found[name] = self._constant(f"{name}.in_steps", Typed(array, self._whole.values[name].type), name)
        return found

    def _side_by_side(self, node: Ran, axes: Mapping[str, Axes | None]) -> dict[str, _Joint]:
        """The steps' own values one behind the other; nothing where they cannot stand so."""
        found = {}
        for name in node.outputs:
            its = axes[name]
            # Where heads are merged with the tokens, it is not known which of them are the outer.
            fill = None if its is None or its.token is None or its.times > 1 else self._fill(name, its)
            if its is None or fill is None:
                return {}
            array = np.full(self._whole.array(name).shape, fill, self._whole.array(name).dtype)
            for part, step in zip(self._parts, self._steps, strict=True):
                array[its.place(step)] = part.array(name)
            found[name] = _Joint(its, array, self._whole.values[name].type, None, fill)
        return found

    def _fill(self, name: str, axes: Axes) -> float | None:
        """What the graph fed whole has for all keys that a step does not have: masked, or 0; None where it has numbers."""
        if axes.key is None:
            return 0.0
        assert axes.token is not None
        array, beyond = self._whole.array(name), []
        for step in self._steps:
            rows = np.take(array, range(step.start, step.end), axes.token)
            beyond.append(np.take(rows, range(step.end, array.shape[axes.key]), axes.key).ravel())
        rest = np.concatenate(beyond)
        if rest.dtype.kind == "f" and rest.size and bool((rest < -_MASK).all()):
            return -np.inf
        return 0.0 if not rest.any() else None

    def _in_order(self) -> Iterator[_Unit]:
        """Every node once, or once in each step: as the graph has them, each behind what it reads."""
        places: dict[str, tuple[int, int]] = {node.outputs[0]: (n, 0) for n, node in enumerate(self._whole.nodes)}
        for part in self._parts:
            before = (-1, 0)
            for n, node in enumerate(part.nodes, 1):
                before = places.setdefault(node.outputs[0], (before[0], n))
        waits: dict[_Unit, set[_Unit]] = {}
        for n, part in enumerate(self._parts):
            for node in part.nodes:
                unit = self._unit(node.outputs[0], n)
                waits.setdefault(unit, set()).update(self._before(node, unit, n))
        readers: dict[_Unit, list[_Unit]] = {}
        for unit, reads in waits.items():
            for read in reads:
                readers.setdefault(read, []).append(unit)
        missing = {unit: len(reads) for unit, reads in waits.items()}
        ready = [(places[unit[0]], unit) for unit, count in missing.items() if not count]
        heapq.heapify(ready)
        n_done = 0
        while ready:
            _, unit = heapq.heappop(ready)
            n_done += 1
            yield unit
            for reader in readers.get(unit, ()):
                missing[reader] -= 1
                if not missing[reader]:
                    heapq.heappush(ready, (places[reader[0]], reader))
        if n_done < len(missing):
            raise InputError(f"{self._whole.foreign.path}: what its steps leave cannot be put in an order")

    def _unit(self, key: str, n: int) -> _Unit:
        joint = self._joint.get(key)
        return (key, -1) if joint is not None and joint.node is not None else (key, n)

    def _before(self, node: Ran, unit: _Unit, n: int) -> Iterator[_Unit]:
        """What a unit waits for."""
        reads = self._reads_at_once(node) if unit[1] < 0 else node.reads
        for name in filter(None, reads):
            name, m = self._source(name, n)
            maker = self._parts[m].maker.get(name)
            if maker is None:
                continue
            key = maker.outputs[0]
            if name in self._joint and self._joint[name].node is None:
                yield from ((key, step) for step in range(len(self._parts)))
            else:
                yield self._unit(key, m)

    def _reads_at_once(self, node: Ran) -> Iterable[str]:
        one = self._joint[node.outputs[0]].node
        assert one is not None
        return [name for name in (*one.input, *implicit_inputs(one)) if name in self._joint]

    def _source(self, name: str, n: int) -> tuple[str, int]:
        """A value that a step reads, by its name and the step that makes it: an input for the past is what one before left."""
        while name in self._states and n > 0 and self._parts[n].is_data(name):
            name, n = self._parts[n - 1].outputs[self._states[name]], n - 1
        return name, n

    def _emit(self, key: str, n: int) -> None:
        if n < 0:
            node = self._joint[key].node
            assert node is not None
            outputs = [name for name in node.output if name]
            self._add(node, [Typed(self._joint[name].array, self._joint[name].type) for name in outputs])
            return
        part = self._parts[n]
        its = part.maker[key]
        node = renamed(its.node, {name: self._read(name, n) for name in filter(None, its.reads)})
        own = {name: self._own(name, n) for name in its.outputs}
        node.output[:] = [own.get(name, "") for name in node.output]
        self._add(node, [part.values[name] for name in its.outputs])
        self._made.origin.update({new: name for name, new in own.items() if new != name})
        self._n_emitted[key] += 1
        if self._n_emitted[key] == len(self._parts):
            for name in filter(self._joint.__contains__, its.outputs):
                self._put_together(name, its)

    def _own(self, name: str, n: int) -> str:
        """The name of what one step makes; of a value that has no positions, as the logits of the last one, the last step's is it."""
        if name in self._joint:
            return f"{name}.of_step{n}"
        flats = self._whole, *self._parts
        is_last = n == len(self._parts) - 1 and all(name in flat.values and flat.is_data(name) for flat in flats)
        is_one = is_last and len({flat.array(name).shape for flat in flats}) == 1
        return name if is_one else f"{name}.step{n}"

    def _put_together(self, name: str, its: Ran) -> None:
        joint = self._joint[name]
        assert joint.axes is not None
        assert joint.axes.token is not None
        rows, reads = joint.axes.token, []
        for n, step in enumerate(self._steps):
            read, part = self._own(name, n), self._parts[n].array(name)
            key = joint.axes.key
            lacking = 0 if key is None else joint.array.shape[key] - step.end
            if lacking and key is not None:
                shape = (*part.shape[:key], lacking, *part.shape[key + 1 :])
                rest = Typed(np.full(shape, joint.fill, part.dtype), joint.type)
                padded = f"{read}.padded"
                pad = onnx.helper.make_node(
                    "Concat", [read, self._constant(f"{read}.rest", rest, name)], [padded], padded, axis=key
                )
                self._add(pad, [Typed(np.concatenate([part, rest.array], key), joint.type)])
                self._made.origin[padded] = name
                read = padded
            reads.append(read)
        node = onnx.helper.make_node("Concat", reads, [name], its.name, axis=rows)
        node.metadata_props.extend(its.node.metadata_props)
        self._add(node, [Typed(joint.array, joint.type)])

    def _read(self, name: str, n: int) -> str:
        """The name of what a step reads: a constant, its part of a value put together, or what a step has for itself."""
        name, n = self._source(name, n)
        part, values = self._parts[n], self._made.values
        own = f"{name}.step{n}"
        if own in values:
            return own
        if not part.is_data(name):
            if name in self._whole.constants and is_same(self._whole.values[name], part.values[name]):
                return name
            return self._constant(own, part.values[name], name)
        if name not in self._joint:
            return self._own(name, n)
        joint, step = self._joint[name], self._steps[n]
        if joint.axes is None:
            return name
        at = {axis: place for axis, place in enumerate(joint.axes.place(step)) if place != slice(None)}
        starts, ends = [place.start for place in at.values()], [place.stop for place in at.values()]
        reads = [
            self._constant(f"{own}.{word}", typed(np.array(numbers, np.int64)), "")
            for word, numbers in (("starts", starts), ("ends", ends), ("axes", list(at)))
        ]
        value = Typed(joint.array[joint.axes.place(step)], joint.type)
        self._add(onnx.helper.make_node("Slice", [name, *reads], [own], own), [value])
        self._made.origin[own] = name
        return own

    def _constant(self, name: str, value: Typed, origin: str) -> str:
        self._made.values[name] = value
        self._made.constants.add(name)
        if origin:
            self._made.origin[name] = origin
        return name

    def _add(self, node: NodeProto, values: Iterable[Typed]) -> None:
        flat = self._made
        one = Ran(len(flat.nodes), node, (*node.input, *implicit_inputs(node)))
        flat.nodes.append(one)
        flat.values.update(zip(one.outputs, values, strict=False))


def is_same(a: Typed, b: Typed) -> bool:
    """Whether two constants are the same to the bit."""
    return a.array is b.array or (
        a.type == b.type
        and a.array.shape == b.array.shape
        and a.array.dtype == b.array.dtype
        and a.array.tobytes() == b.array.tobytes()
    )


def _is_equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two values are the same, but for how their sums are rounded."""
    if a.shape != b.shape or a.dtype.kind != "f":
        return a.shape == b.shape and bool(np.array_equal(a, b))
    hidden = np.abs(a) > _MASK
    if not np.array_equal(hidden, np.abs(b) > _MASK) or not np.array_equal(np.sign(a[hidden]), np.sign(b[hidden])):
        return False
    x, y = a[~hidden], b[~hidden]
    return bool(np.linalg.norm(x - y) <= _NEAR * np.linalg.norm(x))
