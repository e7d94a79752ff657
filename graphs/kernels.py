"""Which nodes onnxruntime has no kernel for in double, as it says itself: they stay in float32 in every precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import onnx
import onnxruntime as ort
from onnx import TensorProto
from onnxruntime.capi import onnxruntime_pybind11_state as listed

from .inference import inferred

CPU = "CPUExecutionProvider"
RECORDING = ("session.record_ep_graph_assignment_info", "1")
FLOAT32_DOMAIN = "opdiff.float32"  # functions that are defined on float32, such as a runtime's rounding to 8 bits
# Operators that are about float32 by their nature: which of their inputs, and of their outputs, are floats.
FLOAT32_PLACES = {
    "DequantizeLinear": ([1], [0]),
    "QuantizeLinear": ([0, 1], []),
    "DynamicQuantizeLinear": ([0], [1]),
}
_REFERENCE_HAS = 19  # the opset from which onnx.reference quantises and dequantises
_FLOAT, _DOUBLE = "tensor(float)", "tensor(double)"
_KINDS = {"tensor(bool)": TensorProto.BOOL, "tensor(int32)": TensorProto.INT32, "tensor(uint8)": TensorProto.UINT8}
_ANY_OPSET, _ANY_IR = 18, 9
Kinds = Mapping[str, int]  # the element type of each value that is known


@dataclass(frozen=True, slots=True)
class _Operator:
    """An operator of one version: the type variable of each input and output, and the types that each may be."""

    since: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: Mapping[str, frozenset[str]]

    def may_be(self, variable: str, type_name: str) -> bool:
        return type_name in self.types.get(variable, (variable,))


def kept_in_single(program: onnx.ModelProto) -> tuple[str, ...]:
    """The operators that a program in double precision has in float32 all the same, for onnxruntime has no other kernel."""
    return tuple(dict.fromkeys(program.graph.node[index].op_type for index in in_single(program)))


def in_single(model: onnx.ModelProto) -> dict[int, tuple[list[int], list[int]]]:
    """The nodes that stay in float32, by their index, and where: which inputs, which outputs.

    Those of other domains than ONNX's that have no kernel in double. Where there is one, or another that onnx.reference
    has not, that cannot run the program, so that ONNX's own without such a kernel stay in float32 as well.
    """
    functions = {(function.domain, function.name) for function in model.functions}
    nodes = {n: node for n, node in enumerate(model.graph.node) if (node.domain, node.op_type) not in functions}
    versions = versions_of(model)
    is_beyond_reference = versions[""] < _REFERENCE_HAS and any(
        node.op_type in ("DequantizeLinear", "QuantizeLinear") and not node.domain for node in nodes.values()
    )
    if not is_beyond_reference and not any(node.domain for node in nodes.values()):
        return {}
    kinds = kinds_of(model)
    lacking = {
        n: (node, versions.get(node.domain, 1))
        for n, node in nodes.items()
        if (node.domain or node.op_type not in FLOAT32_PLACES)
        and not runs_in_double(node, versions.get(node.domain, 1), kinds)
    }
    if not is_beyond_reference and not any(node.domain for node, _ in lacking.values()):
        return {}
    return {n: float32_places(node, version, kinds) for n, (node, version) in lacking.items()}


def versions_of(model: onnx.ModelProto) -> dict[str, int]:
    return {"": 1, **{entry.domain: entry.version for entry in model.opset_import}}


def kinds_of(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of each value that onnx knows."""
    return kinds_in(inferred(model).graph)


def kinds_in(graph: onnx.GraphProto) -> dict[str, int]:
    """The element type of each value that the graph states."""
    known = {info.name: info.type.tensor_type.elem_type for info in (*graph.input, *graph.value_info, *graph.output)}
    return {name: kind for name, kind in (known | {i.name: i.data_type for i in graph.initializer}).items() if kind}


def float32_places(node: onnx.NodeProto, version: int, kinds: Kinds) -> tuple[list[int], list[int]]:
    """Which of the node's inputs, and of its outputs, are float32; `version` is that of its domain in the model."""
    operator = _operator(node.domain, node.op_type, version)
    if operator is None:
        return [i for i, name in enumerate(node.input) if name and kinds.get(name) == TensorProto.FLOAT], []
    bound = _bound(node, operator, kinds)

    def places(names: Iterable[str], variables: tuple[str, ...]) -> list[int]:
        named = [(i, name, _variable(variables, i)) for i, name in enumerate(names) if name]
        return [i for i, name, variable in named if _is_float(operator, variable, kinds.get(name, bound.get(variable)))]

    return places(node.input, operator.inputs), places(node.output, operator.outputs)


def runs_in_double(node: onnx.NodeProto, version: int, kinds: Kinds) -> bool:
    """Whether onnxruntime has a kernel, and a definition, of the node with every float32 value in double.

    True, too, where nothing in it is float32, and for an operator that it does not know.
    """
    operator = _operator(node.domain, node.op_type, version)
    if operator is None:
        return True
    inputs, _ = float32_places(node, version, kinds)
    variables = {_variable(operator.inputs, i) for i in inputs}
    if not variables:
        return True
    if not all(operator.may_be(variable, _DOUBLE) for variable in variables):
        return False
    if any(attribute.HasField("g") for attribute in node.attribute):
        return True  # what holds a graph only hands values on
    as_typed = tuple(
        (name, TensorProto.DOUBLE if i in inputs else kinds.get(name) or _any_kind(node, operator, i, kinds))
        for i, name in enumerate(node.input)
        if name
    )
    return _is_taken(node.SerializeToString(), version, as_typed)


def _any_kind(node: onnx.NodeProto, operator: _Operator, index: int, kinds: Kinds) -> int:
    """An element type that an input may have of which nothing is known."""
    variable = _variable(operator.inputs, index)
    allowed = sorted(operator.types.get(variable, (variable,)))
    return _bound(node, operator, kinds).get(variable) or _KINDS.get(allowed[0], TensorProto.INT64)


@cache
def _is_taken(node: bytes, version: int, inputs: tuple[tuple[str, int], ...]) -> bool:
    """Whether onnxruntime runs this one node, with inputs of these types, by a kernel of its own.

    Its lists of kernels are not asked: that crashes where a provider has none, as those of OpenVINO and TensorRT.
    """
    parsed = onnx.NodeProto.FromString(node)
    infos = [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in dict(inputs).items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in parsed.output if name]
    graph = onnx.helper.make_graph([parsed], "node", infos, outputs)
    opsets = [onnx.helper.make_opsetid(parsed.domain, version)]
    if parsed.domain:
        opsets.append(onnx.helper.make_opsetid("", _ANY_OPSET))
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=_ANY_IR)
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL, 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry(*RECORDING)
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    except Exception:  # onnxruntime's own classes
        return False
    return [operator for _, operator in assigned(session)] == [parsed.op_type]  # others: those of its definition


def assigned(session: ort.InferenceSession) -> list[tuple[str, str]]:
    """The provider and the operator of each node of a session that was made with the entry `RECORDING`."""
    parts = session.get_provider_graph_assignment_info()
    return [(part.ep_name, node.op_type) for part in parts for node in part.get_nodes()]


def _is_float(operator: _Operator, variable: str, kind: int | None) -> bool:
    return operator.may_be(variable, _FLOAT) if kind is None else kind == TensorProto.FLOAT


def _bound(node: onnx.NodeProto, operator: _Operator, kinds: Kinds) -> dict[str, int]:
    """What each type variable is, by the inputs whose types are known."""
    return {_variable(operator.inputs, i): kinds[name] for i, name in enumerate(node.input) if name in kinds}


def _variable(places: tuple[str, ...], index: int) -> str:
    """The type variable at a place; the last one goes on where an operator takes as many as it is given."""
    return places[min(index, len(places) - 1)] if places else ""


@cache
def _operator(domain: str, name: str, version: int) -> _Operator | None:
    if domain in ("", "ai.onnx") and onnx.defs.has(name, version):
        schema = onnx.defs.get_schema(name, version)
        types = {c.type_param_str: frozenset(c.allowed_type_strs) for c in schema.type_constraints}
        return _Operator(schema.since_version, _variables(schema.inputs), _variables(schema.outputs), types)
    found = [s for s in _contributed().get((domain, name), ()) if s.since <= version]
    return max(found, key=lambda operator: operator.since, default=None)


def _variables(parameters: Iterable[onnx.defs.OpSchema.FormalParameter]) -> tuple[str, ...]:
    return tuple(parameter.type_str for parameter in parameters)


@cache
def _contributed() -> dict[tuple[str, str], list[_Operator]]:
    """onnxruntime's own operators."""
    found: dict[tuple[str, str], list[_Operator]] = {}
    for schema in getattr(listed, "get_all_operator_schema", list)():
        types = {c.type_param_str: frozenset(c.allowed_type_strs) for c in schema.type_constraints}
        inputs, outputs = (tuple(p.typeStr for p in places) for places in (schema.inputs, schema.outputs))
        operator = _Operator(schema.since_version, inputs, outputs, types)
        found.setdefault((schema.domain, schema.name), []).append(operator)
    return found
