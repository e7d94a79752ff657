"""A flat graph as an artifact: some of its values as taps, each in the layout that it is to have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from ..artifact import STORED_IN, Artifact, InFile
from ..kernels import kinds_of
from ..slices import implicit_inputs, rename_captured
from ..sources import source_of
from ..taps import Tap
from .flat import Flat

Plan = Sequence[tuple[str, tuple[int, ...]]]
_RUNTIME = "runtime"


@dataclass(frozen=True, slots=True)
class Exposed:
    """A value that becomes a tap: `shape` is the tap's, and `plan` how the tap must be laid out to be the value."""

    tap: str
    value: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    plan: Plan = ()

    @property
    def back(self) -> list[tuple[str, tuple[int, ...]]]:
        """How the value must be laid out to be the tap."""
        shapes = [self.shape]
        for what, argument in self.plan:
            shapes.append(argument if what == "reshape" else tuple(shapes[-1][axis] for axis in argument))
        return [
            ("reshape", before) if what == "reshape" else ("transpose", tuple(int(n) for n in np.argsort(argument)))
            for (what, argument), before in zip(reversed(self.plan), reversed(shapes[:-1]), strict=True)
        ]


def artifact_of(flat: Flat, exposed: Sequence[Exposed], n_tokens: int | None) -> Artifact:
    """The graph with these taps, for the input on which it ran."""
    foreign = flat.foreign
    kinds = kinds_of(foreign.model)
    by_value = {one.value: one for one in exposed}
    taps_named = {one.tap for one in exposed}
    renamed = {name: f"{name}.own" for name in taps_named & flat.values.keys()}  # another value may be named as a tap
    back = {one.value: renamed.get(one.value, one.value) for one in exposed if one.plan}  # as it is read
    renamed |= {one.value: one.tap if not one.plan else f"{one.tap}.as_made" for one in exposed}
    read_as = {**renamed, **back}
    graph = onnx.GraphProto(name=foreign.model.graph.name or "adopted")
    graph.node.extend(_nodes(flat, by_value, renamed, read_as))
    read = {name for node in graph.node for name in (*node.input, *implicit_inputs(node)) if name}
    _add_constants(graph, flat, read, kinds, renamed)
    for name, array in flat.inputs.items():
        kind = int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
        graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
    for one in exposed:
        kind = _kind(kinds, flat, one.value)
        graph.output.append(onnx.helper.make_tensor_value_info(one.tap, kind, one.shape))
        if one.plan:
            for name in (f"{one.tap}.as_made", read_as[one.value]):
                info = onnx.helper.make_tensor_value_info(name, kind, flat.array(one.value).shape)
                graph.value_info.append(info)
    taken = {one.value for one in exposed}
    for ran in flat.nodes:
        for name in ran.outputs:
            if name not in taken:
                own = renamed.get(name, name)
                info = onnx.helper.make_tensor_value_info(own, _kind(kinds, flat, name), flat.array(name).shape)
                graph.value_info.append(info)
    model = onnx.ModelProto(ir_version=max(foreign.model.ir_version, 8), graph=graph, producer_name="opdiff")
    model.opset_import.extend(foreign.model.opset_import)
    maker = {name: node for node in graph.node for name in node.output if name}
    taps = tuple(
        Tap(one.tap, one.axes, source_of(maker[f"{one.tap}.as_made" if one.plan else one.tap])) for one in exposed
    )
    length = {} if n_tokens is None else {"min_tokens": str(n_tokens), "max_tokens": str(n_tokens)}
    weights = {name: weight for name, weight in {**foreign.weights, **flat.given}.items() if name in read}
    stored = {STORED_IN: foreign.half} if foreign.half else {}
    in_file = {one.tap: InFile(one.value, flat.array(one.value).shape, tuple(one.back)) for one in exposed}
    return Artifact(
        foreign.path,
        model,
        taps,
        weights,
        {_RUNTIME: foreign.name, **length, **stored},
        foreign.sha256,
        given=dict(flat.inputs),
        in_file=in_file,
    )


def _nodes(
    flat: Flat, by_value: Mapping[str, Exposed], renamed: Mapping[str, str], read_as: Mapping[str, str]
) -> Iterator[NodeProto]:
    """The nodes in order, each tap's moves behind the node that makes it."""
    wanted = {name for ran in flat.nodes for name in ran.reads if name}
    yield from _constant_nodes(flat, wanted)
    for ran in flat.nodes:
        node = NodeProto.FromString(ran.node.SerializeToString())
        node.input[:] = [read_as.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        rename_captured(node, read_as)
        yield node
        for value in ran.outputs:
            if value in by_value and by_value[value].plan:
                yield from _moves(by_value[value], read_as[value])


def _moves(one: Exposed, read_as: str) -> Iterator[NodeProto]:
    """From the value as it is made to the tap, and from the tap to the value as it is read."""
    yield from _chain(one.back, f"{one.tap}.as_made", one.tap, f"{one.tap}.to_tap")
    yield from _chain(one.plan, one.tap, read_as, f"{one.tap}.from_tap")


def _chain(plan: Plan, start: str, end: str, stem: str) -> Iterator[NodeProto]:
    name = start
    for n, (what, argument) in enumerate(plan):
        output = end if n == len(plan) - 1 else f"{stem}.{n}"
        if what == "transpose":
            yield onnx.helper.make_node("Transpose", [name], [output], name=f"{stem}.{n}", perm=list(argument))
        else:
            shape = f"{stem}.{n}.shape"
            value = onnx.numpy_helper.from_array(np.array(argument, np.int64))
            yield onnx.helper.make_node("Constant", [], [shape], name=shape, value=value)
            yield onnx.helper.make_node("Reshape", [name, shape], [output], name=f"{stem}.{n}")
        name = output


def _constant_nodes(flat: Flat, names: Iterable[str]) -> Iterator[NodeProto]:
    """What makes the large constants of these, in an order in which they can run."""
    done: set[str] = set()
    for name in names:
        stack = [(name, False)]
        while stack:
            value, is_ready = stack.pop()
            node = flat.constant_nodes.get(value)
            if node is None or (value in done and not is_ready):
                continue
            if is_ready:
                if value not in done:
                    done.update(filter(None, node.output))
                    yield NodeProto.FromString(node.SerializeToString())
                continue
            stack.append((value, True))
            stack.extend((one, False) for one in (*node.input, *implicit_inputs(node)) if one)


def _add_constants(
    graph: onnx.GraphProto, flat: Flat, read: set[str], kinds: Mapping[str, int], renamed: Mapping[str, str]
) -> None:
    made = {name for node in graph.node for name in node.output}
    original = {tensor.name: tensor for tensor in flat.foreign.model.graph.initializer}
    clashing = {name: new for name, new in renamed.items() if name in flat.constants and new in read}
    for name in clashing:
        graph.initializer.append(onnx.numpy_helper.from_array(_as_constant(flat, name, kinds), clashing[name]))
    for name in sorted(read & flat.constants - made - set(clashing)):
        if name in flat.given:
            dims = flat.given[name].array.shape
            graph.initializer.append(TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims))
            graph.initializer[-1].data_location = TensorProto.EXTERNAL
            continue
        if name in original and name not in flat.inputs:
            graph.initializer.append(original[name])
            continue
        graph.initializer.append(onnx.numpy_helper.from_array(_as_constant(flat, name, kinds), name))


def _as_constant(flat: Flat, name: str, kinds: Mapping[str, int]) -> np.ndarray:
    array = np.asarray(flat.array(name))
    if array.dtype.kind != "f":
        return array
    return array.astype(onnx.helper.tensor_dtype_to_np_dtype(_kind(kinds, flat, name)))


def _kind(kinds: Mapping[str, int], flat: Flat, name: str) -> int:
    """A value's element type: as onnx has it, else by its numbers."""
    array = flat.array(name)
    if array.dtype.kind != "f":
        return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
    kind = kinds.get(flat.origin.get(name, name), TensorProto.FLOAT)
    return kind if kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE) else TensorProto.FLOAT
