"""Whether a graph from a stranger is one at all: names that are text, values that something makes, no circle among its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter

import onnx

from .errors import InputError
from .slices import implicit_inputs


def check_sound(where: str, graph: onnx.GraphProto) -> None:
    """See to it before anything is cut out of the graph, or handed to onnxruntime.

    Raises:
        InputError: it is not; the first thing that is wrong.
    """
    wrong = next(_not_text(graph), None)
    if wrong is not None:
        raise InputError(f"{where}: a name in it is not UTF-8 ({wrong!r:.40}); export it again")
    given = {i.name for i in (*graph.input, *graph.initializer)} | {i.values.name for i in graph.sparse_initializer}
    maker = {name: n for n, node in enumerate(graph.node) for name in node.output if name}
    reads = [[name for name in (*node.input, *implicit_inputs(node)) if name] for node in graph.node]
    for node, names in zip(graph.node, reads, strict=True):
        missing = next((name for name in names if name not in maker and name not in given), None)
        if missing is not None:
            raise InputError(
                f"{where}: node {node.name!r:.80} reads {missing!r:.80}, which nothing makes; export it again"
            )
    missing = next((one.name for one in graph.output if one.name not in maker and one.name not in given), None)
    if missing is not None:
        raise InputError(f"{where}: its output {missing!r:.80} is made by nothing; export it again")
    _check_order(where, [[maker[name] for name in names if name in maker] for names in reads])


def _not_text(graph: onnx.GraphProto) -> Iterator[object]:
    """Names that protobuf could not read as text, which it then gives as bytes."""
    named: Iterable[object] = (
        *(info.name for info in (*graph.input, *graph.output, *graph.initializer, *graph.value_info)),
        *(text for node in graph.node for text in (node.name, node.op_type, node.domain, *node.input, *node.output)),
    )
    yield from (one for one in named if not isinstance(one, str))


def _check_order(where: str, reads: list[list[int]]) -> None:
    if all(maker < n for n, makers in enumerate(reads) for maker in makers):
        return
    try:
        TopologicalSorter(dict(enumerate(reads))).prepare()
    except CycleError as e:
        raise InputError(f"{where}: its nodes read one another in a circle; export it again") from e
