"""Loop and Scan as they run on one input: for each turn the body's nodes once more, and what is gathered is stacked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import GraphProto, NodeProto

from ..errors import InputError
from ..slices import subgraphs
from ..sources import COPY_OF

_FIRST_SCAN = 9  # the opset from which Scan has no batch of its own


class Run(Protocol):
    """What unrolling asks of the run that it is a part of."""

    def array(self, name: str) -> np.ndarray:
        """A value's numbers."""

    def is_data(self, name: str) -> bool:
        """Whether a value hangs on the input."""

    def held(self, name: str, array: np.ndarray) -> str:
        """A constant of about this name; its name."""

    def stepped(self, node: NodeProto) -> str:
        """Run a node that makes one value; its name."""

    def body(self, graph: GraphProto, reads: Sequence[str], prefix: str) -> list[str]:
        """Run a body once on these values; the values that it gives."""

    def note(self, text: str) -> None:
        """Tell the reader something."""


def unrolls(node: NodeProto, opset: int) -> bool:
    """Whether a node is a loop that can be unrolled."""
    return not node.domain and (node.op_type == "Loop" or (node.op_type == "Scan" and opset >= _FIRST_SCAN))


def unrolled(node: NodeProto, run: Run, stem: str) -> list[str]:
    """Run a loop turn by turn; the values that it gives.

    Args:
        stem: what the names of all that it makes begin with.
    Raises:
        InputError: what it scans is not of one length, or a body gives no condition.
    """
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    attributes["body"] = _marked(attributes["body"], stem)
    return (_loop if node.op_type == "Loop" else _scan)(node, attributes, run, stem)


def _marked(body: GraphProto, stem: str) -> GraphProto:
    """A body whose nodes say which they are, so that what comes of one in each turn is known to be copies of it."""
    marked = GraphProto()
    marked.CopyFrom(body)
    for n, node in enumerate(_nodes_of(marked)):
        if all(prop.key != COPY_OF for prop in node.metadata_props):
            node.metadata_props.add(key=COPY_OF, value=f"{stem}/{n}")
    return marked


def _nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    """A graph's nodes, and those of their subgraphs."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _nodes_of(inner)


def _loop(node: NodeProto, attributes: dict[str, Any], run: Run, stem: str) -> list[str]:
    body: GraphProto = attributes["body"]
    trips, condition, *state = (*node.input, "", "")[: max(2, len(node.input))]
    most = int(run.array(trips).ravel()[0]) if trips else None
    hangs = run.is_data(trips) or run.is_data(condition)
    goes = bool(run.array(condition).ravel()[0]) if condition else True
    gathered: list[list[str]] = [[] for _ in body.output[1 + len(state) :]]
    turn = 0
    while goes and (most is None or turn < most):
        number = run.held(f"{stem}/{turn}.turn", np.array(turn, np.int64))
        going = run.held(f"{stem}/{turn}.goes", np.array(True))
        condition, *made = run.body(body, [number, going, *state], f"{stem}/{turn}/")
        hangs |= run.is_data(condition)
        goes = bool(run.array(condition).ravel()[0])
        state = made[: len(state)]
        for parts, part in zip(gathered, made[len(state) :], strict=True):
            parts.append(part)
        turn += 1
    if hangs:
        run.note(f"of {node.name or 'a Loop'}, the {turn} turns that this input takes were compared")
    scanned = [
        _stacked(parts, 0, info, run, f"{stem}/{info.name}")
        for parts, info in zip(gathered, body.output[1 + len(state) :], strict=True)
    ]
    return [*state, *scanned]


def _scan(node: NodeProto, attributes: dict[str, Any], run: Run, stem: str) -> list[str]:
    body: GraphProto = attributes["body"]
    n_scanned = attributes["num_scan_inputs"]
    state, scanned = list(node.input[:-n_scanned]), list(node.input[-n_scanned:])
    outputs = body.output[len(state) :]
    in_axes, in_turned = (attributes.get(f"scan_input_{what}") or [0] * n_scanned for what in ("axes", "directions"))
    out_axes, out_turned = (
        attributes.get(f"scan_output_{what}") or [0] * len(outputs) for what in ("axes", "directions")
    )
    lengths = {run.array(name).shape[axis] for name, axis in zip(scanned, in_axes, strict=True)}
    if len(lengths) != 1:
        raise InputError(f"Scan {node.name}: what it scans is of different lengths: {sorted(lengths)}")
    (length,) = lengths
    gathered: list[list[str]] = [[] for _ in outputs]
    for turn in range(length):
        parts = [
            _part(name, axis, length - 1 - turn if is_turned else turn, run, f"{stem}/{turn}.{place}")
            for place, (name, axis, is_turned) in enumerate(zip(scanned, in_axes, in_turned, strict=True))
        ]
        made = run.body(body, [*state, *parts], f"{stem}/{turn}/")
        state = made[: len(state)]
        for kept, part, is_turned in zip(gathered, made[len(state) :], out_turned, strict=True):
            kept.insert(0 if is_turned else len(kept), part)
    stacked = [
        _stacked(kept, axis, info, run, f"{stem}/{info.name}")
        for kept, axis, info in zip(gathered, out_axes, outputs, strict=True)
    ]
    return [*state, *stacked]


def _part(name: str, axis: int, place: int, run: Run, stem: str) -> str:
    """What stands at one place of an axis."""
    at = run.held(f"{stem}.place", np.array(place, np.int64))
    return run.stepped(onnx.helper.make_node("Gather", [name, at], [f"{stem}.part"], f"{stem}.part", axis=axis))


def _stacked(parts: Sequence[str], axis: int, info: onnx.ValueInfoProto, run: Run, stem: str) -> str:
    """Values of one shape side by side on a new axis; of none, an empty one of the shape that the body declares."""
    if not parts:
        kind = info.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        shape.insert(axis if axis >= 0 else axis + len(shape) + 1, 0)
        return run.held(stem, np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)))
    axes = run.held(f"{stem}.axis", np.array([axis], np.int64))
    wide = [
        run.stepped(onnx.helper.make_node("Unsqueeze", [part, axes], [f"{stem}.{n}"], f"{stem}.{n}"))
        for n, part in enumerate(parts)
    ]
    return run.stepped(onnx.helper.make_node("Concat", wide, [stem], stem, axis=axis))
