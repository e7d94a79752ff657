"""Whether a graph from a stranger is one at all, before anything is cut out of it or handed to onnxruntime.

Sizes are held against the file, names are text, operators are known ones, values are made before they are read, and what
ONNX itself asks of a graph holds. What a graph computes may still be anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter

import onnx
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntimes

from .errors import InputError
from .slices import implicit_inputs

_AGAIN = "export it again"
_ONNXS = ("", "ai.onnx")  # two names of one domain
_DOMAINS = (*_ONNXS, "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")
_MOST_NODES, _DEEPEST = 1_000_000, 16  # those of Netron's largest graphs are a few hundred thousand, two or three deep
_MOST_ELEMENTS, _MOST_DIMENSIONS = 1 << 40, 32
_UNCHECKED = "opdiff.unchecked"
_OUTSIDE = onnx.TensorProto.EXTERNAL


def check_sound(where: str, model: onnx.ModelProto) -> None:
    """See to it that a model read from a file can be worked on.

    Its nodes are put in order, and dimensions below 0 are left open: others do without the one and write the other, and onnx's
    inference relies on both.

    Raises:
        InputError: it cannot; the first thing that is wrong.
    """
    for what in _wrong(model):
        raise InputError(f"{where}: {what}")


def check_by_onnx(model: onnx.ModelProto) -> None:
    """What onnx.checker asks, with initializers as inputs: it refuses a file of weights that has several hard links.

    Raises:
        onnx.checker.ValidationError, or ValueError: the model is not as ONNX wants it.
    """
    onnx.checker.check_model(_without_weights(model))


def _wrong(model: onnx.ModelProto) -> Iterator[str]:
    """What is wrong, what others rely on first; the graph is tidied where its names hang together."""
    yield from _wrong_nesting(model)
    nodes = [*_with_inner(model.graph.node), *(node for one in model.functions for node in _with_inner(one.node))]
    yield from _wrong_names(model, nodes)
    yield from _wrong_operators(model, nodes)
    yield from _wrong_references(model.graph)
    yield from (problem for tensor in _tensors(model.graph, nodes) for problem in _wrong_tensor(tensor))
    yield from _wrong_types(model.graph)
    reads = [_reads(node) for node in model.graph.node]
    yield from _unmade(model.graph, reads)
    try:
        _put_in_order(model.graph, reads)
    except CycleError:
        yield f"its nodes read one another in a circle; {_AGAIN}"
        return
    _leave_open(model.graph)
    try:
        check_by_onnx(model)
    except (onnx.checker.ValidationError, ValueError, TypeError) as e:
        reason = str(e).strip().splitlines()
        yield f"no valid ONNX graph ({reason[0] if reason else type(e).__name__:.160}); {_AGAIN}"


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph, taken = model.graph, {info.name for info in model.graph.input}
    opset = max((entry.version for entry in model.opset_import if entry.domain in _ONNXS), default=1)
    bare.graph.name = graph.name or "graph"
    bare.graph.node.extend(graph.node)
    for node in bare.graph.node:  # long, and not what is checked
        node.ClearField("metadata_props")
        is_onnxs = node.domain in _ONNXS and onnx.defs.has(node.op_type, max_inclusive_version=opset)
        if node.domain in _ONNXS and not is_onnxs and _since().get(node.op_type, opset + 1) <= opset:
            node.domain = _UNCHECKED  # onnxruntime's optimiser leaves some of its own in ONNX's domain
    bare.graph.input.extend(graph.input)
    bare.graph.output.extend(graph.output)
    held = [(tensor.name, tensor.data_type, tensor.dims) for tensor in graph.initializer]
    held += [(one.values.name, one.values.data_type, one.dims) for one in graph.sparse_initializer]
    for name, kind, dims in held:
        if name not in taken:
            bare.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, dims))
    for info in (*bare.graph.input, *bare.graph.output):
        info.type.tensor_type.shape.SetInParent()  # onnxruntime does without
    bare.opset_import.append(onnx.helper.make_opsetid(_UNCHECKED, 1))
    return bare


def _wrong_names(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    """Names that protobuf could not read as text, which it then gives as bytes."""
    graph = model.graph
    named = [info.name for info in (*graph.input, *graph.output, *graph.initializer, *graph.value_info)]
    named += [text for one in model.metadata_props for text in (one.key, one.value)]
    for node in nodes:
        named += (node.name, node.op_type, node.domain, *node.input, *node.output)
        named += [one.name for one in node.attribute]
        for entry in node.metadata_props:
            named += (entry.key, entry.value)
    yield from (f"a name in it is not UTF-8 ({one!r:.40}); {_AGAIN}" for one in named if not isinstance(one, str))


def _wrong_nesting(model: onnx.ModelProto) -> Iterator[str]:
    """Graphs in graphs in graphs, and functions that call each other in a circle, or each other's callers without an end."""
    n_nodes, level = 0, [model.graph, *model.functions]
    for _ in range(_DEEPEST):
        n_nodes += sum(len(graph.node) for graph in level)
        level = [inner for graph in level for node in graph.node for inner in _inner(node)]
        if not level:
            break
    if level:
        yield f"graphs inside of graphs, more than {_DEEPEST} deep; {_AGAIN}"
    if n_nodes > _MOST_NODES:
        yield f"{n_nodes} nodes, where {_MOST_NODES} are the most that opdiff reads"
    yield from _wrong_calls(model)


def _wrong_calls(model: onnx.ModelProto) -> Iterator[str]:
    bodies = {(one.domain, one.name): one for one in model.functions}
    calls = {
        key: [called for node in _with_inner(body.node) if (called := (node.domain, node.op_type)) in bodies]
        for key, body in bodies.items()
    }
    try:
        order = list(TopologicalSorter(calls).static_order())
    except CycleError:
        yield f"its functions call each other in a circle; {_AGAIN}"
        return
    size: dict[tuple[str, str], int] = {}
    for key in order:
        size[key] = len(bodies[key].node) + sum(size[called] for called in calls[key])
    whole = sum(size.get((node.domain, node.op_type), 1) for node in _with_inner(model.graph.node))
    if whole > _MOST_NODES:
        yield f"{whole} nodes with those of its functions, where {_MOST_NODES} are the most that opdiff reads"


def _inner(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for one in node.attribute:
        if one.HasField("g"):
            yield one.g
        yield from one.graphs


def _with_inner(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those of the graphs that they hold."""
    for node in nodes:
        yield node
        for graph in _inner(node):
            yield from _with_inner(graph.node)


@cache
def _known() -> frozenset[tuple[str, str]]:
    """The operators that this onnxruntime has a definition of."""
    return frozenset((one.domain, one.name) for one in onnxruntimes.get_all_operator_schema())


@cache
def _since() -> dict[str, int]:
    """For ONNX's operators that this onnxruntime knows, the first opset in which it does."""
    found: dict[str, int] = {}
    for one in onnxruntimes.get_all_operator_schema():
        if not one.domain:
            found[one.name] = min(one.since_version, found.get(one.name, one.since_version))
    return found


def _wrong_operators(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    own = {(function.domain, function.name) for function in model.functions}
    opsets = {entry.domain for entry in model.opset_import}
    for node in nodes:
        domain = "" if node.domain in _ONNXS else node.domain
        if (node.domain, node.op_type) in own:
            continue
        named = f"node {node.name!r:.80} is {f'{domain}.' if domain else ''}{node.op_type}"
        if domain not in _DOMAINS:
            yield f"{named:.200}, of a domain that opdiff does not run; it runs ONNX's own operators, ai.onnx.ml and com.microsoft"
        elif (domain, node.op_type) not in _known():
            yield f"{named:.200}, which this onnxruntime does not know; {_AGAIN}"
        elif opsets.isdisjoint(_ONNXS if domain in _ONNXS else (domain,)):
            yield f"{named:.200}, and its file says no version of that domain; {_AGAIN}"


def _wrong_references(graph: onnx.GraphProto) -> Iterator[str]:
    """An attribute that is to be a function's, of a node that stands in none."""
    for node in _with_inner(graph.node):
        for one in node.attribute:
            if one.ref_attr_name:
                yield f"node {node.name!r:.80} takes {one.name!r:.40} from a function, and stands in none; {_AGAIN}"


def _tensors(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """Every tensor of a file: initializers, and constants in attributes."""
    attributes = [one for node in nodes for one in node.attribute]
    for held in [graph, *(one.g for one in attributes if one.HasField("g"))]:
        yield from held.initializer
        for sparse in held.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for one in attributes:
        if one.HasField("t"):
            yield one.t
        yield from one.tensors


def _wrong_tensor(tensor: onnx.TensorProto) -> Iterator[str]:
    """A type that there is not, a size that cannot be, or other data than the shape asks for."""
    named = f"tensor {tensor.name!r:.80}"
    if tensor.data_type not in _bits():
        yield f"{named} has an unknown data type ({tensor.data_type}); {_AGAIN}"
        return
    size = math.prod(tensor.dims)
    if min(tensor.dims, default=0) < 0 or size > _MOST_ELEMENTS or len(tensor.dims) > _MOST_DIMENSIONS:
        yield f"{named} of shape {list(tensor.dims)!s:.80} cannot be; {_AGAIN}"
    elif tensor.data_location != _OUTSIDE:
        found, wanted = _filled(tensor, size)
        if found != wanted:
            yield f"{named} has {found} bytes or numbers, where its shape asks for {wanted}; {_AGAIN}"


def _filled(tensor: onnx.TensorProto, size: int) -> tuple[int, int]:
    """How much data a tensor has, and how much it should: bytes where they are raw, else entries of the list for its type."""
    n_bits = _bits()[tensor.data_type]
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data), -(-size * n_bits // 8)
    entries = getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type))
    each = 2 if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128) else 1
    return len(entries), -(-size * n_bits // 8) if 0 < n_bits < 8 else size * each


@cache
def _bits() -> Mapping[int, int]:
    """The bits of an element, by ONNX's number of its type; none for text."""
    types = {name: number for name, number in onnx.TensorProto.DataType.items() if name not in ("UNDEFINED", "STRING")}
    whole = {number: 8 * onnx.helper.tensor_dtype_to_np_dtype(number).itemsize for number in types.values()}
    packed = {
        number: n for name, number in types.items() for n in (2, 4) if name in (f"INT{n}", f"UINT{n}", f"FLOAT{n}E2M1")
    }
    return {**whole, **packed, onnx.TensorProto.STRING: 0}


def _wrong_types(graph: onnx.GraphProto) -> Iterator[str]:
    """A value whose element type there is not, or an input or output without one; what is between may still be inferred."""
    for what, infos in (("input", graph.input), ("output", graph.output)):
        for info in infos:
            if info.type.HasField("tensor_type") and not info.type.tensor_type.elem_type:
                yield f"{what} {info.name!r:.80} has no data type; {_AGAIN}"
    for info in (*graph.input, *graph.output, *graph.value_info):
        kind = info.type.tensor_type
        if info.type.HasField("tensor_type") and kind.elem_type and kind.elem_type not in _bits():
            yield f"value {info.name!r:.80} has an unknown data type ({kind.elem_type}); {_AGAIN}"


def _unmade(graph: onnx.GraphProto, reads: Sequence[Sequence[str]]) -> Iterator[str]:
    """A value that is read and never made, an output that nothing makes."""
    known = {i.name for i in (*graph.input, *graph.initializer)} | {i.values.name for i in graph.sparse_initializer}
    known |= _maker(graph).keys()
    for node, names in zip(graph.node, reads, strict=True):
        missing = next((name for name in names if name not in known), None)
        if missing is not None:
            yield f"node {node.name!r:.80} reads {missing!r:.80}, which nothing makes; {_AGAIN}"
    missing = next((one.name for one in graph.output if one.name not in known), None)
    if missing is not None:
        yield f"its output {missing!r:.80} is made by nothing; {_AGAIN}"


def _maker(graph: onnx.GraphProto) -> dict[str, int]:
    """Which node makes a value."""
    return {name: n for n, node in enumerate(graph.node) for name in node.output if name}


def _reads(node: onnx.NodeProto) -> list[str]:
    return [name for name in (*node.input, *implicit_inputs(node)) if name]


def _put_in_order(graph: onnx.GraphProto, reads: Sequence[Sequence[str]]) -> None:
    """Let each node stand after those that it reads: onnxruntime does without that order, onnx.checker does not.

    Raises:
        CycleError: there is none.
    """
    maker = _maker(graph)
    makers = [[maker[name] for name in names if name in maker] for names in reads]
    if all(made < n for n, before in enumerate(makers) for made in before):
        return
    order = TopologicalSorter(dict(enumerate(makers))).static_order()
    nodes = [onnx.NodeProto.FromString(graph.node[n].SerializeToString()) for n in order]
    del graph.node[:]
    graph.node.extend(nodes)


def _leave_open(graph: onnx.GraphProto) -> None:
    """Dimensions below 0, which some write for those that are open."""
    for info in (*graph.input, *graph.output, *graph.value_info):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_value < 0:
                dim.ClearField("dim_value")
