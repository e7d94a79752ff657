"""A torch module to an ONNX graph with every tap exposed, its weights left where they are."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import onnx
import onnx_ir as ir
import onnxscript.optimizer
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.export.dynamic_shapes import _DimHint

from ..graphs.artifact import Lengths
from ..graphs.cache import BEFORE
from ..graphs.errors import InputError
from ..graphs.kernels import FLOAT32_DOMAIN
from ..graphs.naming import named_by_region
from ..graphs.positions import POSITIONS
from . import marks
from .lengths import Guards, traced
from .refusal import export_reason, with_own_line
from .stack_traces import whole_stack_traces
from .tapping import collected
from .variants import activations, linear

OPSET = 21  # the first with block-wise DequantizeLinear
_TRANSLATIONS: dict[Callable, Callable] = {
    **linear.ONNX_TRANSLATIONS,  # type: ignore[dict-item]
    **activations.ONNX_TRANSLATIONS,
    **marks.ONNX_TRANSLATIONS,  # type: ignore[dict-item]
}
INLINE_BYTES = 1 << 16
_SAMPLE_STEP, _SAMPLE_PAST, _SAMPLE_ROWS = 2, 3, 2  # tokens of a step, rows of a cache, and of a batch, to try a module
_PAST = Dim("past", min=0)


@dataclass(frozen=True)
class ExportedGraph:
    """A graph named by region; `axes` of each tap; `parameters` the module's tensors that it reads, by initializer.

    lengths: how many tokens it takes.
    states: the taps whose values of the step before it takes, each as an input called so with `BEFORE` behind it.
    """

    model: onnx.ModelProto
    axes: Mapping[str, tuple[str, ...]]
    parameters: Mapping[str, Tensor]
    lengths: Lengths
    states: tuple[str, ...] = ()


class _Tapped(nn.Module):
    """Runs a variant and returns its taps' values, in the order in which they were marked; notes their axes, and from where
    each was marked.
    """

    def __init__(self, variant: nn.Module) -> None:
        super().__init__()
        self.variant = variant
        self.notes = SimpleNamespace(
            axes={}, traces={}, guards=Guards(), states=()
        )  # torch.export puts a module's own attributes back; this it leaves

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        return self.notes.axes

    @property
    def states(self) -> tuple[str, ...]:
        """The taps whose values of the step before are inputs."""
        return self.notes.states

    def initial_states(self) -> dict[str, Tensor]:
        """What `past` is given in a first step, by tap.

        Raises:
            InputError: there is none, or one of them is no tap, or not of zeros.
        """
        asked: dict[str, Tensor] = {}
        tokens = torch.arange(_SAMPLE_STEP)
        with collected(given={}, asked=asked) as taps:
            if self.takes_batch:
                self.variant(tokens.expand(_SAMPLE_ROWS, -1), torch.ones(_SAMPLE_ROWS, _SAMPLE_STEP, dtype=torch.int64))
            else:
                self.variant(tokens)
        if not asked:
            raise InputError("it keeps no cache: call opdiff.past for what a step takes over from the one before")
        for name, initial in asked.items():
            if name not in taps:
                raise InputError(f"past {name}: no tap of that name; mark with opdiff.tap what the step leaves")
            if initial.any():
                raise InputError(f"past {name}: begins with numbers other than 0; a cache begins empty, or with zeros")
        self.notes.states = tuple(asked)
        self.notes.axes = {name: tap.axes for name, tap in taps.items()}
        return asked

    @property
    def takes_batch(self) -> bool:
        """Whether, with a cache, it takes `tokens` [B, T] and an `attention_mask` [B, P + T]."""
        return bool(getattr(self.variant, "takes_batch", False))

    @property
    def takes_positions(self) -> bool:
        """Whether its forward takes `positions`, int64 [T]."""
        own = getattr(self.variant, "takes_positions", None)
        return "positions" in inspect.signature(self.variant.forward).parameters if own is None else bool(own)

    def forward(
        self,
        tokens: Tensor,
        states: Sequence[Tensor] = (),
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        self.notes.guards.watch(tokens)
        given = dict(zip(self.states, states, strict=True)) if states else None
        marking = marks.Marking()
        with collected(marking, given) as taps:
            if positions is not None:
                self.variant(tokens, positions=positions)
            elif mask is None:
                self.variant(tokens)
            else:
                self.variant(tokens, mask)
        self.notes.axes = {name: tap.axes for name, tap in taps.items()}
        self.notes.traces = dict(zip(taps, marking.traces, strict=True))
        return tuple(tap.value for tap in taps.values())


def to_onnx(
    variant: nn.Module,
    canonical: Mapping[tuple, str],
    opset: int = OPSET,
    optimize: bool = True,
    n_tokens: int | None = None,
    cache: bool = False,
    positions: bool = False,
) -> ExportedGraph:
    """Export `variant` (tokens int64 [T], of any length or of as many as torch can) with its taps as outputs.

    Args:
        variant: the module, which marks its stages with `opdiff.tap`.
        canonical: `storage_key` of each tensor of the checkpoint, and its name; a parameter that shares its memory
            becomes an initializer of that name.
        opset: the least; a module that calls operators of a later one gets that.
        n_tokens: export for this length only, in less than half the time.
        cache: let what the module takes from the step before (`opdiff.past`) be inputs.
        positions: let the positions of the tokens be an input, int64 [T]; not together with a cache.
    Raises:
        InputError: the module marks no tap, or torch cannot export it; it takes no positions.
    """
    wrapper = _Tapped(variant).eval()
    if positions and not wrapper.takes_positions:
        raise InputError(
            "takes no positions; --positions is for reference, hf where the family has position_ids, and modules whose forward "
            "has an argument `positions`"
        )
    program, lengths = _exported(wrapper, opset, n_tokens, cache, positions)
    outside = _detached(program.model, wrapper, canonical)
    if optimize:
        with quiet(), _lines_kept(program.model.graph):
            onnxscript.optimizer.optimize_ir(program.model, should_fold=_folds)
    _reattach(program.model, outside)
    values = [value.name or "" for value in program.model.graph.outputs]
    model = ir.serde.serialize_model(program.model)
    names = {fqn: canonical.get(storage_key(tensor), fqn) for fqn, tensor in outside.items()}
    _define_functions(model)
    _name_weights(model.graph, names)
    types = {value: info for value, info in zip(values, model.graph.output, strict=True)}
    named_by_region(model, dict(zip(wrapper.axes, values, strict=True)), set(names.values()), wrapper.notes.traces)
    _expose(model.graph, dict(zip(wrapper.axes, (types[value] for value in values), strict=True)))
    read = {initializer.name for initializer in model.graph.initializer}
    parameters = {name: outside[fqn] for fqn, name in names.items() if name in read}
    if positions and not any(POSITIONS in node.input for node in model.graph.node):
        raise InputError("reads no positions: it has neither RoPE nor a table of positions; leave --positions out")
    return ExportedGraph(model, wrapper.axes, parameters, lengths, wrapper.states)


def _folds(node: ir.Node) -> bool | None:
    """Fold shapes, scalars and masks; what is computed of an array of floats, or of numbers that are counted and made
    floats, keeps its nodes, and so its lines.
    """
    if node.op_type == "Range":
        return (
            False
            if any(use.node.op_type == "Cast" and _is_to_float(use.node) for use in node.outputs[0].uses())
            else None
        )
    arrays = [value.const_value for value in node.inputs if value is not None]
    is_of_floats = any(a is not None and a.dtype.is_floating_point() and a.size > 1 for a in arrays)
    made = node.inputs[0].producer() if node.op_type == "Cast" and node.inputs[0] is not None else None
    return False if is_of_floats or (made is not None and made.op_type == "Range" and _is_to_float(node)) else None


def _is_to_float(cast: ir.Node) -> bool:
    return ir.DataType(cast.attributes["to"].as_int()).is_floating_point()


@contextmanager
def _lines_kept(graph: ir.Graph) -> Iterator[None]:
    """Give the nodes that the optimizer makes of others, such as a Split of its sequence, the metadata of those."""
    readers: dict[str | None, list[tuple[str, dict[str, str]]]] = {}
    for node in graph:
        if node.inputs and node.inputs[0] is not None:
            readers.setdefault(node.inputs[0].name, []).append((node.op_type, dict(node.metadata_props)))
    yield
    for node in graph:
        if not node.metadata_props and node.inputs and node.inputs[0] is not None:
            before = readers.get(node.inputs[0].name, [])
            node.metadata_props.update(next((kept for name, kept in before if name.startswith(node.op_type)), {}))


def storage_key(tensor: Tensor) -> tuple:
    """Equal for two tensors that are the same view of the same memory."""
    return tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype


def _exported(
    wrapper: _Tapped, opset: int, n_tokens: int | None, cache: bool, positions: bool
) -> tuple[torch.onnx.ONNXProgram, Lengths]:
    states: list[Tensor] = []
    grown: list[dict[int, Dim | _DimHint]] = []

    def trace(shapes: dict | None, length: int) -> torch.export.ExportedProgram:
        tokens = torch.arange(length, dtype=torch.int64)
        if positions:
            open_sizes = None if shapes is None else {"tokens": shapes, "positions": shapes}
            named = {"positions": tokens.clone()}
            return torch.export.export(wrapper, (tokens,), named, dynamic_shapes=open_sizes, strict=False)
        if states and wrapper.takes_batch:
            mask = torch.ones(_SAMPLE_ROWS, _SAMPLE_PAST + length, dtype=torch.int64)
            args: tuple = (tokens.expand(_SAMPLE_ROWS, -1).contiguous(), tuple(states), mask)
            open_size = Dim.AUTO if shapes else None
            dynamic: tuple | None = ({0: Dim.AUTO, 1: open_size}, tuple(grown), {0: Dim.AUTO, 1: Dim.AUTO})
        elif states:
            args, dynamic = (tokens, tuple(states)), (shapes or {}, tuple(grown))
        else:
            args, dynamic = (tokens,), None if shapes is None else (shapes,)
        program = torch.export.export(wrapper, args, dynamic_shapes=dynamic, strict=False)
        if states and wrapper.takes_batch:
            _check_open(program, shapes is None)
        return program

    try:
        with quiet(), whole_stack_traces(), torch.no_grad():
            for name, initial in wrapper.initial_states().items() if cache else ():
                states.append(initial.new_zeros([size or _SAMPLE_PAST for size in initial.shape]))
                rows = wrapper.axes[name].index("batch") if wrapper.takes_batch else None
                open_axes = [axis for axis, size in enumerate(initial.shape) if size == 0 or axis == rows]
                grown.append({axis: _PAST if rows is None else Dim.AUTO for axis in open_axes})
            exported, lengths = traced(trace, n_tokens, wrapper.notes.guards)
            if not wrapper.axes:
                raise InputError("the module marks no stage; call opdiff.tap on its values")
            program = torch.onnx.export(
                exported,
                dynamo=True,
                optimize=False,
                opset_version=max(opset, _needed_opset(exported)),
                input_names=[
                    "tokens",
                    *(tap + BEFORE for tap in wrapper.states),
                    *_mask_name(wrapper),
                    *([POSITIONS] if positions else []),
                ],
                verbose=False,
                custom_translation_table=_TRANSLATIONS,
            )
    except InputError as e:
        raise with_own_line(e) from e
    except Exception as e:  # torch's own errors, and whatever a user's forward raises
        raise InputError(f"the module cannot be exported: {export_reason(e)}") from e
    assert program is not None
    return program, lengths


def _mask_name(wrapper: _Tapped) -> list[str]:
    return ["attention_mask"] if wrapper.states and wrapper.takes_batch else []


def _check_open(program: torch.export.ExportedProgram, has_length: bool) -> None:
    """See to it that what should be open in a program with a batch is open; torch fixes sizes without a word there.

    Raises:
        InputError: the number of tokens, of rows, or of what the cache holds is fixed.
    """
    names = set(program.graph_signature.user_inputs)
    shapes = [tuple(node.meta["val"].shape) for node in program.graph.nodes if node.name in names]
    tokens, mask = shapes[0], shapes[-1]
    for what, size in (("rows", tokens[0]), ("tokens", mask[1] if has_length else tokens[1]), ("seen tokens", mask[1])):
        if isinstance(size, int):
            raise InputError(f"the module fixes the number of {what}, so that no schedule can be fed to it")


def _needed_opset(exported: torch.export.ExportedProgram) -> int:
    """The least opset that has the ONNX operators which the module calls by their names (`torch.onnx.ops`)."""
    wanted = [0]
    for module in exported.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            if not isinstance(node.target, torch._ops.OpOverload):
                continue
            if node.target.namespace == "onnx":
                wanted.append(int(node.target._overloadname.removeprefix("opset")))
            elif node.target.namespace == "onnx_symbolic" and not node.kwargs.get("domain"):
                wanted.append(node.kwargs.get("version") or 0)
    return max(wanted)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's remarks about itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _detached(model: ir.Model, wrapper: _Tapped, canonical: Mapping[tuple, str]) -> dict[str, Tensor]:
    """Take the checkpoint's tensors, and large ones, out of the graph: what no pass sees, none can fold or copy."""
    tensors = (*wrapper.named_parameters(remove_duplicate=False), *wrapper.named_buffers(remove_duplicate=False))
    outside = {
        name: tensor.detach()
        for name, tensor in tensors
        if name in model.graph.initializers
        and (storage_key(tensor.detach()) in canonical or tensor.nbytes > INLINE_BYTES)
    }
    for name in outside:
        model.graph.initializers[name].const_value = None
    return outside


def _reattach(model: ir.Model, outside: Mapping[str, Tensor]) -> None:
    """Give each detached initializer still in the graph its place outside; the file is named when it is written."""
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            assert value.dtype is not None
            n_bytes = outside[name].nbytes
            shape = ir.Shape(tuple(outside[name].shape))
            value.const_value = ir.ExternalTensor("pending", 0, n_bytes, value.dtype, shape=shape, name=name)


def _define_functions(model: onnx.ModelProto) -> None:
    """Give the model the bodies of the float32 functions that it calls."""
    called = {node.op_type for node in model.graph.node if node.domain == FLOAT32_DOMAIN}
    model.functions.extend(activations.FUNCTIONS[name] for name in sorted(called))


def _name_weights(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Canonical names for the checkpoint's tensors; one that the module holds under several names stands once."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    once: dict[str, onnx.TensorProto] = {}
    for initializer in graph.initializer:
        initializer.name = names.get(initializer.name, initializer.name)
        once.setdefault(initializer.name, initializer)
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in once.values()]
    del graph.initializer[:]
    graph.initializer.extend(copies)


def _expose(graph: onnx.GraphProto, types: Mapping[str, onnx.ValueInfoProto]) -> None:
    """Make the taps the graph's outputs, `logits` first, typed as the exporter knew them."""
    outputs = []
    for name in sorted(types, key=lambda name: name != "logits"):
        info = onnx.ValueInfoProto()
        info.CopyFrom(types[name])
        info.name = name
        outputs.append(info)
    del graph.output[:]
    graph.output.extend(outputs)
    inner = [info for info in graph.value_info if info.name not in types]
    copies = [onnx.ValueInfoProto.FromString(info.SerializeToString()) for info in inner]
    del graph.value_info[:]
    graph.value_info.extend(copies)
