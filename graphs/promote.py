"""A program in double precision: the same mathematics, with float32's rounding taken out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, numpy_helper

from .constants import Exact, fingerprint, is_constant
from .inference import inferred
from .kernels import FLOAT32_DOMAIN, FLOAT32_PLACES, in_single, kinds_of, runs_in_double, versions_of
from .slices import LOOKUPS, implicit_inputs, subgraphs

_FLOAT, _DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
# Their definitions in the ONNX standard hold float32 constants, which onnxruntime would use in double as well.
_WITH_FLOAT32_BODIES = {"Gelu", "Mish", "HardSwish", "Celu"}
PERTURBATION_ULPS = 16


def promoted(program: onnx.ModelProto, n_inputs: int, perturb: Exact | None = None) -> onnx.ModelProto:
    """A program's model with float32 inputs, constants and casts as float64; weights are read as they are, then cast.

    Operators and functions that are about float32 by their nature (DequantizeLinear) keep it, between casts; so do
    operators of onnxruntime's own that it has in float32 only (`kept_in_single`).

    Args:
        n_inputs: how many of its inputs are taps; those behind them are weights.
        perturb: where given, move each float constant that is not in it, and no short binary fraction, by
            `PERTURBATION_ULPS` half units in float32's last place: as far as two correct ways to compute a constant in
            float32 may lie apart.
    """
    model = onnx.ModelProto()
    model.CopyFrom(program)
    if names := _to_inline(model):
        typed = _with_types(model)
        model = onnx.inliner.inline_selected_functions(typed, names, exclude=False, inline_schema_functions=True)
    graph = model.graph
    singles = in_single(model)
    casts: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    tables: set[str] = set()
    for index, info in enumerate(graph.input):
        if info.type.tensor_type.elem_type != _FLOAT:
            continue
        if index < n_inputs:
            info.type.tensor_type.elem_type = _DOUBLE
        elif _is_table(info.name, graph):
            tables.add(info.name)
        else:
            renamed[info.name] = f"{info.name}.double"
            casts.append(onnx.helper.make_node("Cast", [info.name], [renamed[info.name]], to=_DOUBLE))
    for output in graph.output:
        if output.type.tensor_type.elem_type == _FLOAT:
            output.type.tensor_type.elem_type = _DOUBLE
    for tensor in graph.initializer:
        _promote_tensor(tensor, perturb)
    nodes = list(casts)
    for index, node in enumerate(graph.node):
        if index in singles:
            nodes.extend(_kept_in_float32(node, set(renamed), *singles[index]))
        else:
            nodes.extend(_promoted_node(node, renamed, tables, perturb))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    del graph.value_info[:]
    return model


def _with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types of its values, its constants too: the inliner asserts that it knows them."""
    typed = inferred(model)
    known = {info.name for info in (*typed.graph.input, *typed.graph.value_info, *typed.graph.output)}
    for tensor in typed.graph.initializer:
        if tensor.name not in known:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            typed.graph.value_info.append(info)
    return typed


def _to_inline(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """ONNX's own operators without a kernel in double that are defined by others, of which onnxruntime has one.

    Only those whose definition is made for the node: in one that is fixed, onnx's inliner loses attributes that are not given.
    """
    version = versions_of(model)[""]
    wanted = {node.op_type for node in model.graph.node if not node.domain and node.op_type in _WITH_FLOAT32_BODIES}
    defined = [node for node in model.graph.node if not node.domain and _is_defined(node.op_type, version)]
    kinds = kinds_of(model) if defined else {}
    wanted.update(node.op_type for node in defined if not runs_in_double(node, version, kinds))
    return [("", name) for name in sorted(wanted)]


def _is_defined(name: str, version: int) -> bool:
    if name in FLOAT32_PLACES or not onnx.defs.has(name, version):
        return False
    schema = onnx.defs.get_schema(name, version)
    return bool(schema.has_context_dependent_function)  # type: ignore[attr-defined]


def _is_table(weight: str, graph: onnx.GraphProto) -> bool:
    """Whether rows of a weight are looked up, and nothing else is done with it."""
    readers = [node for node in graph.node if weight in (*node.input, *implicit_inputs(node))]
    return bool(readers) and all(node.op_type in LOOKUPS and node.input[0] == weight for node in readers)


def _promoted_node(
    node: onnx.NodeProto, renamed: dict[str, str], tables: set[str], perturb: Exact | None
) -> list[onnx.NodeProto]:
    if node.op_type in LOOKUPS and node.input[0] in tables:  # only the rows that are read become double
        name, node.output[0] = node.output[0], f"{node.output[0]}.single"
        return [node, onnx.helper.make_node("Cast", [node.output[0]], [name], to=_DOUBLE)]
    if node.domain == FLOAT32_DOMAIN:
        return _kept_in_float32(node, set(renamed), range(len(node.input)), range(len(node.output)))
    if node.op_type in FLOAT32_PLACES:
        return _kept_in_float32(node, set(renamed), *FLOAT32_PLACES[node.op_type])
    for index, name in enumerate(node.input):
        node.input[index] = renamed.get(name, name)
    _promote_attributes(node, renamed, perturb)
    return [node]


def _promote_attributes(node: onnx.NodeProto, renamed: dict[str, str], perturb: Exact | None) -> None:
    for attribute in node.attribute:
        is_type = attribute.name in ("to", "dtype") and attribute.i == _FLOAT
        if is_type or (attribute.name == "stash_type" and attribute.i == _FLOAT and node.op_type == "RMSNormalization"):
            attribute.i = _DOUBLE
        elif attribute.type == onnx.AttributeProto.TENSOR:
            _promote_tensor(attribute.t, perturb if node.op_type == "Constant" else None)
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            single = attribute.name == "value_float"
            values = np.array(attribute.f if single else list(attribute.floats), np.float32)
            replacement = onnx.helper.make_attribute("value", numpy_helper.from_array(values))
            _promote_tensor(replacement.t, perturb)
            attribute.CopyFrom(replacement)
    for inner in subgraphs(node):
        for tensor in inner.initializer:
            _promote_tensor(tensor, perturb)
        for child in inner.node:
            child.input[:] = [renamed.get(name, name) for name in child.input]
            _promote_attributes(child, renamed, perturb)


def _promote_tensor(tensor: TensorProto, perturb: Exact | None) -> None:
    if tensor.data_type != _FLOAT:
        return
    single = numpy_helper.to_array(tensor)
    values = single.astype(np.float64)
    if perturb is not None and is_constant(single) and fingerprint(single) not in perturb:
        values = values * (1 + _wobble(single))
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def _wobble(values: np.ndarray) -> np.ndarray:
    """Relative changes, seeded; 0 where a value needs 12 bits or fewer, for nobody computes 0.5 with an error."""
    mantissa, _ = np.frexp(values.astype(np.float64))
    with np.errstate(invalid="ignore"):
        is_short = ~np.isfinite(mantissa) | (mantissa * 4096 == np.round(mantissa * 4096))
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size=values.shape)
    return np.where(is_short, 0.0, signs * PERTURBATION_ULPS * 2.0**-24)


def _kept_in_float32(
    node: onnx.NodeProto, weights: set[str], inputs: Iterable[int], outputs: Iterable[int]
) -> list[onnx.NodeProto]:
    """The node with float32 at these places: what is computed is cast to it, weights are, and results are cast back."""
    before, after = [], []
    for index in inputs:
        name = node.input[index]
        if name not in weights:
            node.input[index] = f"{node.output[0]}.single{index}"
            before.append(onnx.helper.make_node("Cast", [name], [node.input[index]], to=_FLOAT))
    for index in outputs:
        name = node.output[index]
        node.output[index] = f"{name}.single"
        after.append(onnx.helper.make_node("Cast", [f"{name}.single"], [name], to=_DOUBLE))
    return [*before, node, *after]
