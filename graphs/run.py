"""Running programs in onnxruntime: one session for each program and precision, weights fed from the mapped file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from threading import Lock
from typing import Literal, Protocol

import numpy as np
import onnx
import onnxruntime as ort

from .constants import BFLOAT16, Exact
from .errors import InputError
from .half_steps import with_half_steps
from .halves import HALVES
from .inference import inferred
from .kernels import CPU, FLOAT32_DOMAIN
from .products import (
    Factors,
    Multiplier,
    Piece,
    PlainProduct,
    Product,
    Running,
    Session,
    only_moves,
    reads_halves,
    split,
)
from .progress import counted
from .promote import promoted
from .regions import Program, Region
from .scratch import Scratch

Precision = Literal["float32", "float64"]
LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_NOT_IN_NUMPY = {
    getattr(onnx.TensorProto, name)
    for name in list(onnx.TensorProto.DataType.keys())
    if name.startswith(("BFLOAT", "FLOAT8", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2"))
}
_ONE_THREAD_BELOW = (
    1 << 20
)  # weight elements: a pool of threads for each of many small programs costs more than it brings
_NO_KERNEL = "does not support double"  # as onnxruntime's recurrent kernels say when they run


@dataclass(frozen=True)
class Settings:
    """How onnxruntime runs: the graph optimisation level, and on how many threads; 0: on as many as there are cores."""

    optimisation: str = "all"
    n_threads: int = 0


class Runner:
    """Runs programs. Sessions are made when first needed and kept; `n_sessions`, `n_runs` and `n_weights_read` count.

    `keep` puts large values aside, out of memory.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._runs: dict[tuple[str, Precision, Exact | None], _Run] = {}
        self._kept: dict[str, _Written] = {}
        self.keep = Scratch().keep
        self._multiplier = Multiplier(lambda model: _Session(model, self.settings))
        self.finish, self.together = self._multiplier.finish, self._multiplier.together
        self.n_runs, self._one_by_one = 0, Lock()

    @property
    def n_sessions(self) -> int:
        return len(self._runs)

    @property
    def n_weights_read(self) -> int:
        """How many products with weights were taken a few rows at a time."""
        return self._multiplier.n_weights_read

    def run(
        self,
        region: Region,
        inputs: Sequence[np.ndarray],
        precision: Precision = "float32",
        perturb: Exact | None = None,
    ) -> np.ndarray:
        """The region's output on these values of its inputs, in the graph's own layout.

        `perturb`, in float64, moves the constants by as much as float32 may round them, but for those that it names.
        """
        return self.finish(self.running(region, inputs, precision, perturb))

    def running(
        self,
        region: Region,
        inputs: Sequence[np.ndarray],
        precision: Precision = "float32",
        perturb: Exact | None = None,
    ) -> Running[np.ndarray]:
        """The same, for `finish` or `together`."""
        run = self._prepared(region.program, precision, perturb)
        return run.running(self._feeds(region, inputs, precision))

    def _feeds(self, region: Region, inputs: Sequence[np.ndarray], precision: Precision) -> list[np.ndarray]:
        infos = self._written(region.program).model.graph.input
        feeds = [_typed(value, precision, info) for value, info in zip(inputs, infos, strict=False)]
        return feeds + [weight.array for weight in region.weights]

    def run_all(
        self, region: Region, inputs: Sequence[np.ndarray], precision: Precision = "float64"
    ) -> dict[str, np.ndarray]:
        """Every value inside the region that numpy can hold, by its name in the program; of one in half precision, what it
        was before it was rounded too, under its name with `EXACT` behind it.
        """
        written = self._written(region.program)
        model = _copy(written.model)
        if precision != "float32":
            model = promoted(model, region.program.n_inputs)
        names = [name for node in model.graph.node for name in node.output if name and name != "out"]
        types = {info.name: info.type.tensor_type.elem_type for info in inferred(model).graph.value_info}
        names = [name for name in names if types.get(name) not in _NOT_IN_NUMPY]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        feeds = self._feeds(region, inputs, precision)
        session = _Session(model, written.settings)
        return dict(zip(["out", *names], session.run(["out", *names], feeds), strict=True))

    def as_product(self, region: Region, inputs: Sequence[np.ndarray]) -> PlainProduct | None:
        """What the region multiplies on these values, where it is one product with a weight; None where it is more."""
        run = self._prepared(region.program, "float64", None)
        assert isinstance(run, _Stepwise)
        return run.as_product(self._feeds(region, inputs, "float64"))

    def multiply(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """`x` [rows, in], float32 or float64, with any weight `[out, in]`, in whatever precision it is."""
        return self._multiplier.times(Factors(x, weight, is_out_in=True))

    def session(self, model: onnx.ModelProto) -> Session:
        """A model, ready to run with this runner's settings."""
        return _Session(model, self.settings)

    def _written(self, program: Program) -> _Written:
        """The program as it is run."""
        if program.signature not in self._kept:
            model = with_half_steps(program.model, program.n_inputs)
            as_it_is = _Written(program.model, self.settings)
            self._kept[program.signature] = (
                as_it_is if model is None else _Written(model, replace(self.settings, optimisation="none"))
            )
        return self._kept[program.signature]

    def _prepared(self, program: Program, precision: Precision, perturb: Exact | None) -> _Run:
        key = (program.signature, precision, perturb)
        with self._one_by_one:
            self.n_runs += 1
            if key not in self._runs:
                self._runs[key] = self._made_ready(program, precision, perturb)
            return self._runs[key]

    def _made_ready(self, program: Program, precision: Precision, perturb: Exact | None) -> _Run:
        written = self._written(program)
        if precision == "float64":
            return _Stepwise(written, program.n_inputs, partial(_in_double, perturb=perturb), np.float64)
        if reads_halves(program.model, program.n_inputs):
            return _Stepwise(written, program.n_inputs, lambda piece: piece.model, np.float32)
        return _Whole(written)


@dataclass(frozen=True)
class _Written:
    """A program's model, and how onnxruntime is to run it: one that rounds to half precision as it stands."""

    model: onnx.ModelProto
    settings: Settings


class _Run(Protocol):
    def running(self, feeds: Sequence[np.ndarray]) -> Running[np.ndarray]:
        """A program's output on its taps and weights."""


def _in_double(piece: Piece, perturb: Exact | None) -> onnx.ModelProto:
    return promoted(piece.model, piece.n_inputs, perturb)


class _Whole:
    """A program as it is."""

    def __init__(self, written: _Written) -> None:
        self._session = _Session(written.model, written.settings)

    def running(self, feeds: Sequence[np.ndarray]) -> Running[np.ndarray]:
        yield from ()
        return self._session.run(["out"], feeds)[0]


class _Stepwise:
    """A program whose products with weights are taken a few rows at a time: no weight is ever whole in another precision.

    Args:
        prepare: what makes a piece between the products ready to run.
        used: the type in which they are taken.
    """

    def __init__(
        self,
        written: _Written,
        n_inputs: int,
        prepare: Callable[[Piece], onnx.ModelProto],
        used: type[np.floating],
    ) -> None:
        self._used = used
        self._names = [info.name for info in written.model.graph.input]
        self._steps: list[tuple[Piece, _Session] | Product] = []
        for step in split(written.model, n_inputs):
            if isinstance(step, Product):
                self._steps.append(step)
            else:
                self._steps.append((step, _Session(prepare(step), written.settings)))

    def running(self, feeds: Sequence[np.ndarray]) -> Running[np.ndarray]:
        values = dict(zip(self._names, feeds, strict=True))
        for step in self._steps:
            if isinstance(step, Product):
                values[step.output] = yield self._factors(step, values)
            else:
                _run_piece(*step, values)
        return values["out"]

    def _factors(self, step: Product, values: Mapping[str, np.ndarray]) -> Factors:
        x = np.asarray(values[step.x], self._used)  # a weight that is multiplied with another comes as it is stored
        return Factors(x, values[step.weight], step.is_out_in)

    def as_product(self, feeds: Sequence[np.ndarray]) -> PlainProduct | None:
        """What the program multiplies, where it is one product; what comes before it is run."""
        values = dict(zip(self._names, feeds, strict=True))
        found = [n for n, step in enumerate(self._steps) if isinstance(step, Product)]
        if len(found) != 1 or len(self._steps) > found[0] + 2:
            return None
        product = self._steps[found[0]]
        assert isinstance(product, Product)
        after = self._steps[found[0] + 1 :]
        if any(isinstance(step, Product) or not only_moves(step[0], product.output) for step in after):
            return None
        for step in self._steps[: found[0]]:
            assert not isinstance(step, Product)
            _run_piece(*step, values)
        factors = self._factors(product, values)
        x, n_out = factors.x, factors.n_out
        order = None
        for step in after:
            assert not isinstance(step, Product)
            places = {product.output: np.arange(x.size // x.shape[-1] * n_out, dtype=np.float64)}
            places[product.output] = places[product.output].reshape(*x.shape[:-1], n_out)
            _run_piece(*step, places)
            order = places["out"]
        return PlainProduct(factors, order)


def _run_piece(piece: Piece, session: _Session, values: dict[str, np.ndarray]) -> None:
    """Run nodes between products on what is known, and add what they make."""
    made = session.run(list(piece.outputs), [values[name] for name in piece.inputs])
    values.update(zip(piece.outputs, made, strict=True))


class _Session:
    """onnxruntime where it has the kernels, onnx.reference where it has not."""

    def __init__(self, model: onnx.ModelProto, settings: Settings) -> None:
        self._inputs = [info.name for info in model.graph.input]
        self._model = model
        self._session: ort.InferenceSession | None = None
        self._reference: Callable[[list[str], dict[str, np.ndarray]], list[np.ndarray]] | None = None
        try:
            self._session = _onnxruntime(model, settings)
        except Exception as e:
            # onnxruntime's own classes: NotImplemented, InvalidGraph (no kernel for double), Fail
            self._fall_back(e)

    def run(self, outputs: list[str], feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
        named = dict(zip(self._inputs, feeds, strict=True))
        try:
            if self._session is not None:
                return _run_session(self._session, outputs, named)
            assert self._reference is not None
            return self._reference(outputs, named)
        except Exception as e:
            if self._session is not None and _NO_KERNEL in str(e):
                self._fall_back(e)
                return self.run(outputs, feeds)
            raise InputError(f"a part of the graph cannot run on this input: {str(e).splitlines()[0]}") from e

    def _fall_back(self, why: Exception) -> None:
        from .reference_ops import run_of  # with onnx.reference, for which no other graph need wait

        try:
            self._session, self._reference = None, run_of(self._model)
        except Exception:
            names = sorted({node.op_type for node in self._model.graph.node})
            raise InputError(f"onnxruntime cannot run {names}: {str(why).splitlines()[0]}") from why


def _onnxruntime(model: onnx.ModelProto, settings: Settings, path: Path | None = None) -> ort.InferenceSession:
    """A session of a model; of its file, where that is given, whose weights are not copied in another layout."""
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[settings.optimisation]
    options.log_severity_level = 4
    has_own = any(node.domain not in ("", FLOAT32_DOMAIN) for node in model.graph.node)
    options.add_session_config_entry("session.disable_prepacking", "0" if has_own else "1")  # it may choose kernels
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = settings.n_threads
    if path is None and sum(_n_elements(info) for info in model.graph.input) < _ONE_THREAD_BELOW:
        options.intra_op_num_threads = 1
    held, without = (model.SerializeToString(), []) if path is None else (str(path), ["ConstantFolding"])
    return ort.InferenceSession(held, options, providers=[CPU], disabled_optimizers=without)


def _run_session(
    session: ort.InferenceSession, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    if any(value.dtype == BFLOAT16 for value in feeds.values()):
        ours = {name: _ort_value(value) for name, value in feeds.items()}
        return [value.numpy() for value in session.run_with_ort_values(outputs, ours)]
    return session.run(list(outputs), feeds)


def as_taken(session: ort.InferenceSession, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of the values that a session takes, in float16 where it wants that."""
    kinds = {info.name: info.type for info in session.get_inputs()}
    return {
        name: value.astype(np.float16) if kinds[name] == "tensor(float16)" else value
        for name, value in feeds.items()
        if name in kinds
    }


def run_in_onnxruntime(
    model: onnx.ModelProto, outputs: Sequence[str], feeds: Mapping[str, np.ndarray], settings: Settings
) -> dict[str, np.ndarray]:
    """The outputs of a model as onnxruntime has them, and nothing in its place.

    Raises:
        InputError: it cannot run the model, or not on this input.
    """
    try:
        found = _run_session(_onnxruntime(model, settings), outputs, feeds)
    except Exception as e:  # onnxruntime's own classes, as above
        raise InputError(str(e).splitlines()[0]) from e
    return dict(zip(outputs, found, strict=True))


def run_regions(
    regions: Mapping[str, Region],
    values: Mapping[str, np.ndarray],
    runner: Runner,
    precision: Precision = "float32",
) -> dict[str, np.ndarray]:
    """Run a cut graph from its inputs on: each tap's value in the graph's own layout, large ones put aside.

    Args:
        regions: from `cut`, all of a graph or as many as hang together.
        values: graph inputs and the taps whose values are given; a given tap is not run.
    """
    done = dict(values)
    for tap, region in counted(regions.items()):
        if tap not in done:
            done[tap] = runner.keep(runner.run(region, [done[name] for name in region.inputs], precision))
    return done


def execution_order(reads: Mapping[str, Sequence[str]]) -> list[str] | None:
    """An order in which each tap comes after what it reads; None where they read each other in a circle."""
    try:
        return list(TopologicalSorter({tap: set(names) for tap, names in reads.items()}).static_order())
    except CycleError:
        return None


def _ort_value(array: np.ndarray) -> ort.OrtValue:
    """The array itself, which must lie in C order, seen by onnxruntime, which does not know numpy's bfloat16."""
    if array.dtype == BFLOAT16:
        kind = onnx.TensorProto.BFLOAT16
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), kind)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _typed(value: np.ndarray, precision: Precision, info: onnx.ValueInfoProto) -> np.ndarray:
    """The value as the program takes it, whose float32 is of this precision."""
    elem_type = info.type.tensor_type.elem_type
    if elem_type in (*HALVES, onnx.TensorProto.INT64):  # a trace gives whole numbers as float64
        return np.asarray(value, onnx.helper.tensor_dtype_to_np_dtype(elem_type), order="C")
    if value.dtype.kind == "f" or value.dtype == BFLOAT16:
        return np.asarray(value, np.float32 if precision == "float32" else np.float64, order="C")
    return value


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _n_elements(info: onnx.ValueInfoProto) -> int:
    return math.prod(dim.dim_value for dim in info.type.tensor_type.shape.dim)


def run_file(
    path: Path, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], outputs: Sequence[str], settings: Settings
) -> dict[str, np.ndarray]:
    """The outputs of an .onnx file as it stands; `model` is what it holds.

    Raises:
        InputError: onnxruntime cannot run it, or not on this input.
    """
    return next(run_file_in_turn(path, model, [lambda left: feeds], outputs, settings))


def run_file_in_turn(
    path: Path,
    model: onnx.ModelProto,
    feeds: Iterable[Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]],
    outputs: Sequence[str],
    settings: Settings,
) -> Iterator[dict[str, np.ndarray]]:
    """The same for several inputs, each made of the outputs on the one before."""
    found: dict[str, np.ndarray] = {}
    try:
        session = _onnxruntime(model, settings, path)
        for feed in feeds:
            taken = as_taken(session, feed(found))
            found = dict(zip(outputs, _run_session(session, outputs, taken), strict=True))
            yield found
    except Exception as e:  # onnxruntime's own classes, as above
        raise InputError(str(e).splitlines()[0]) from e
