"""Products with weights: a few rows of the weight at a time, which is never whole in another precision than it is stored in.

A program is split at its products with mapped weights: what comes before one, the product itself, what comes after.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Protocol, TypeVar

import numpy as np
import onnx
from onnx import TensorProto

from .cores import n_usable_cores
from .errors import OpdiffError
from .halves import HALVES
from .inference import inferred
from .recent import RecentProducts
from .slices import implicit_inputs, is_widening, producers, sliced

T = TypeVar("T")
_ELEMENTS_AT_ONCE = 1 << 18  # of the weight: what a core keeps near it
_FEW_ROWS = (
    48  # in float64, which are multiplied sooner with the weight as the first factor, for it stands as it is read
)
_MOVES = {
    "Reshape",
    "Transpose",
    "Identity",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Shape",
    "Constant",
    "Concat",
    "Gather",
}


class Session(Protocol):
    """A model that can be run."""

    def run(self, outputs: list[str], feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs of these names, for the inputs in their order."""


@dataclass(frozen=True, slots=True)
class Product:
    """`output` = `x` @ W, or, where it stands as `[out, in]`, `x` @ W.T; W is the weight of that name."""

    x: str
    weight: str
    is_out_in: bool
    output: str


@dataclass(frozen=True, slots=True)
class Factors:
    """What a running program wants to be multiplied: `x` [..., in] with a weight, `[out, in]` or `[in, out]`, as mapped."""

    x: np.ndarray
    weight: np.ndarray
    is_out_in: bool

    @property
    def place(self) -> tuple:
        """The same for two that can be multiplied at once."""
        return (*place_in_memory(self.weight), self.x.dtype, self.is_out_in)

    @property
    def n_out(self) -> int:
        return self.weight.shape[0 if self.is_out_in else 1]

    @property
    def rows(self) -> np.ndarray:
        """`x` as [rows, in]."""
        return self.x.reshape(-1, self.x.shape[-1])


@dataclass(frozen=True, slots=True)
class PlainProduct:
    """A program that is one product, with nothing but reshapes and transposes behind it.

    order: which place of the product [rows, out], counted row by row, stands at each place of the output, in its shape;
    None: all stand as they are.
    """

    factors: Factors
    order: np.ndarray | None

    def equals(self, other: PlainProduct) -> bool:
        """Whether both multiply the same numbers with the same weight, and put the results in the same places."""
        ours, theirs = self.factors, other.factors
        same_product = ours.place == theirs.place and np.array_equal(ours.rows, theirs.rows)
        return same_product and np.array_equal(self.places(), other.places())

    def places(self) -> np.ndarray:
        """`order`, flat; empty where all stand as they are."""
        order = np.empty(0) if self.order is None else self.order.ravel()
        return order if not np.array_equal(order, np.arange(order.size)) else np.empty(0)


def place_in_memory(weight: np.ndarray) -> tuple:
    """Where an array stands in memory, and how it is read: the same for two arrays that are one."""
    return weight.ctypes.data, weight.shape, weight.strides, weight.dtype


@dataclass(frozen=True, slots=True)
class Piece:
    """Nodes between products, as a model: which inputs it reads, and what it makes that is read later."""

    model: onnx.ModelProto
    n_inputs: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def only_moves(piece: Piece, name: str) -> bool:
    """Whether a piece does nothing but put the values of that name in other places."""
    moves = all(node.op_type in _MOVES and not node.domain for node in piece.model.graph.node)
    return moves and piece.inputs == (name,)


def split(model: onnx.ModelProto, n_inputs: int) -> list[Piece | Product]:
    """The steps of a float32 program of `n_inputs` taps and then weights, in the order in which they can run."""
    model = inferred(model)
    graph = model.graph
    taps = [info.name for info in graph.input][:n_inputs]
    weights = {info.name: info.type for info in graph.input if info.name not in taps}
    types = {info.name: info.type for info in (*graph.value_info, *graph.input, *graph.output)}
    nodes, products = _apart(graph, weights, types)
    if not all(types.get(name, onnx.TypeProto()).HasField("tensor_type") for p in products for name in (p.x, p.output)):
        return [_piece(model, list(graph.node), taps, types, ["out"])]
    return list(_steps(model, nodes, products, types, taps))


Running = Generator[Factors, np.ndarray, T]  # yields what it wants to be multiplied, and is sent the product


def reads_halves(program: onnx.ModelProto, n_inputs: int) -> bool:
    """Whether one of the weights, which stand behind `n_inputs` taps, is in half precision."""
    return any(info.type.tensor_type.elem_type in HALVES for info in program.graph.input[n_inputs:])


class Multiplier:
    """Takes products, on all cores, and keeps the last ones: the two sides of a region often ask for the same. Several threads
    may ask at once.
    """

    def __init__(self, session_of: Callable[[onnx.ModelProto], Session]) -> None:
        self._session_of = session_of
        self._sessions: dict[tuple[int, int, bool, bool], Session] = {}
        self._recent, self._one_by_one = RecentProducts(), Lock()
        self._cores = ThreadPoolExecutor(n_usable_cores())
        self.n_weights_read = 0

    def finish(self, running: Running[T]) -> T:
        """Run a program to its end and return its result."""
        (result,) = self.together([running])
        if isinstance(result, OpdiffError):
            raise result
        return result

    def together(self, programs: Sequence[Running[T]], by_difference: bool = False) -> list[T | OpdiffError]:
        """Run several programs side by side; products with the same weight are computed once. Return each one's result,
        or its error.

        by_difference: only the differences between the results matter. Where all programs want the same weight, the first
        product is then taken in float32, and of every other one only its difference from the nearest of the first two and
        the two before it. A difference is so good to float32's seven digits, however small it is; the first product's
        rounding is in all of them.
        """
        results: dict[int, T | OpdiffError] = {}
        wanted = _advanced(programs, dict.fromkeys(range(len(programs))), results)
        while wanted:
            products: dict[int, np.ndarray] = {}
            for group in _by_weight(wanted):
                take = self._differences if by_difference and len(group) == len(programs) else self._shared
                products |= zip(group, take([wanted[n] for n in group]), strict=True)
            wanted = _advanced(programs, products, results)
        return [results[n] for n in range(len(programs))]

    def _shared(self, wanted: Sequence[Factors]) -> list[np.ndarray]:
        """The products of several with one weight, taken at once; what was asked for before is not computed again."""
        distinct, places = _distinct(wanted)
        with self._one_by_one:
            known = [(n, self._recent.find(factors.place, factors.x)) for n, factors in enumerate(distinct)]
        found = {n: product for n, product in known if product is not None}
        missing = [n for n in range(len(distinct)) if n not in found]
        if missing:
            asked = [distinct[n] for n in missing]
            rows = asked[0].rows if len(asked) == 1 else np.concatenate([factors.rows for factors in asked])
            for n, made in zip(missing, _as_asked(self.product(rows, asked[0]), asked), strict=True):
                found[n] = made
                with self._one_by_one:
                    self._recent.keep(distinct[n].place, distinct[n].weight, distinct[n].x, made)
        return [found[place] for place in places]

    def _differences(self, wanted: Sequence[Factors]) -> list[np.ndarray]:
        """The same, but of all but the first only the difference from another one; whole where float32 cannot hold it."""
        near = [found for n in range(1, len(wanted)) if (found := _nearest(wanted, n))]
        first = wanted[0].rows.astype(np.float32)
        if not near or len(near) + 1 < len(wanted) or not np.isfinite(first).all():
            return self._shared(wanted)
        rows = [first, *(other.difference for other in near if other.is_other)]
        products = [np.empty((len(first), wanted[0].n_out), wanted[0].x.dtype)]
        for other in near:
            products.append(np.empty_like(products[0]) if other.is_other else products[other.base])

        def add(part: slice, made: np.ndarray) -> None:
            whole, *moved = _parted(made, rows)
            products[0][:, part] = whole
            for product, other in zip(products[1:], near, strict=True):
                if other.is_other:
                    np.add(products[other.base][:, part], moved.pop(0), out=product[:, part])

        self._take(np.concatenate(rows), wanted[0], add)
        return [y.reshape(*factors.x.shape[:-1], -1) for factors, y in zip(wanted, products, strict=True)]

    def times(self, factors: Factors) -> np.ndarray:
        """The product, in the type of x, float32 or float64: [..., out]."""
        return self._shared([factors])[0]

    def product(self, rows: np.ndarray, factors: Factors) -> np.ndarray:
        """[rows, in] with the weight of these factors, which need not be mapped."""
        product = np.empty((len(rows), factors.n_out), rows.dtype)

        def put(part: slice, made: np.ndarray) -> None:
            product[:, part] = made

        self._take(rows, factors, put)
        return product

    def _take(self, rows: np.ndarray, factors: Factors, put: Callable[[slice, np.ndarray], None]) -> None:
        """[rows, in] with the weight of these factors: each core takes the next rows of the weight, and puts what is made."""
        with self._one_by_one:
            self.n_weights_read += 1
        weight, is_out_in = factors.weight, factors.is_out_in
        is_first = is_out_in and rows.dtype == np.float64 and len(rows) <= _FEW_ROWS
        session = self._session(weight.dtype, rows.dtype, is_out_in, is_first)
        x = np.asarray(rows.T if is_first else rows, order="C")
        n_at_once = max(1, _ELEMENTS_AT_ONCE // rows.shape[-1])
        starts = iter(range(0, factors.n_out, n_at_once))

        def take() -> None:
            for start in starts:
                part = slice(start, start + n_at_once)
                piece = np.ascontiguousarray(weight[part] if is_out_in else weight[:, part])  # it is read as it lies
                (y,) = session.run(["y"], [x, piece])
                put(part, y.T if is_first else y)

        if factors.n_out <= n_at_once:  # handing one piece to another core costs more than most of them do
            take()
            return
        others = [self._cores.submit(take) for _ in range(n_usable_cores() - 1)]
        take()
        for other in others:
            other.result()

    def _session(self, stored: np.dtype, used: np.dtype, is_out_in: bool, is_first: bool) -> Session:
        kind = onnx.helper.np_dtype_to_tensor_dtype
        key = int(kind(stored)), int(kind(used)), is_out_in, is_first
        if key not in self._sessions:
            self._sessions[key] = self._session_of(_product_model(*key))
        return self._sessions[key]


def abreast(programs: Sequence[Running[T]]) -> Running[list[T]]:
    """Run several programs as one: what they multiply with the same weight is one product.

    Raises:
        OpdiffError: one of them fails.
    """
    results: dict[int, T | OpdiffError] = {}
    wanted = _advanced(programs, dict.fromkeys(range(len(programs))), results)
    while wanted:
        products: dict[int, np.ndarray] = {}
        for group in _by_weight(wanted):
            distinct, places = _distinct([wanted[n] for n in group])
            rows = np.concatenate([factors.rows for factors in distinct])
            product = yield Factors(rows, distinct[0].weight, distinct[0].is_out_in)
            parts = _as_asked(product, distinct)
            products |= {n: parts[place] for n, place in zip(group, places, strict=True)}
        wanted = _advanced(programs, products, results)
    made = []
    for n in range(len(programs)):
        result = results[n]
        if isinstance(result, OpdiffError):
            raise result
        made.append(result)
    return made


@dataclass(frozen=True, slots=True)
class _Near:
    """The difference of one from another before it, in float32."""

    base: int
    difference: np.ndarray
    is_other: bool


def _nearest(wanted: Sequence[Factors], n: int) -> _Near | None:
    """The nearest of the first two and of the two before this one; None where float32 cannot hold a difference."""
    rows, among = wanted[n].rows, sorted({place for place in (0, 1, n - 2, n - 1) if 0 <= place < n})
    if any(wanted[place].rows.shape != rows.shape for place in among):
        return None
    differences = {place: (rows - wanted[place].rows).astype(np.float32) for place in among}
    far = {place: float(np.linalg.norm(difference)) for place, difference in differences.items()}
    base = min(far, key=far.__getitem__)
    return _Near(base, differences[base], far[base] > 0) if np.isfinite(list(far.values())).all() else None


def _distinct(wanted: Sequence[Factors]) -> tuple[list[Factors], list[int]]:
    """Those that ask for something else than each one before them, and for each one asked which of these it is."""
    distinct: list[Factors] = []
    places = []
    for factors in wanted:
        same = (n for n, other in enumerate(distinct) if np.array_equal(other.x, factors.x))
        places.append(next(same, len(distinct)))
        if places[-1] == len(distinct):
            distinct.append(factors)
    return distinct, places


def _parted(product: np.ndarray, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A product of several rows, apart again."""
    return np.split(product, np.cumsum([len(part) for part in rows])[:-1])


def _as_asked(product: np.ndarray, asked: Sequence[Factors]) -> list[np.ndarray]:
    """The product of the rows of several, apart again, each in the shape in which it was asked for."""
    parts = _parted(product, [factors.rows for factors in asked])
    return [part.reshape(*factors.x.shape[:-1], -1) for factors, part in zip(asked, parts, strict=True)]


def _by_weight(wanted: Mapping[int, Factors]) -> Iterable[list[int]]:
    """The programs that want a product with the same weight, together."""
    groups: dict[tuple, list[int]] = {}
    for n, factors in wanted.items():
        groups.setdefault(factors.place, []).append(n)
    return groups.values()


def _advanced(
    programs: Sequence[Running[T]],
    products: Mapping[int, np.ndarray | None],
    results: dict[int, T | OpdiffError],
) -> dict[int, Factors]:
    """What programs want next, after they got these products (None: they begin); of those that have ended, `results` gets
    the result or the error.
    """
    wanted = {}
    for n, product in products.items():
        try:
            wanted[n] = next(programs[n]) if product is None else programs[n].send(product)
        except StopIteration as end:
            results[n] = end.value
        except OpdiffError as e:
            results[n] = e
    return wanted


def _product_model(stored: int, used: int, is_out_in: bool, is_first: bool) -> onnx.ModelProto:
    """A product with a weight; x and y stand transposed where the weight is its first factor."""
    inputs = [
        onnx.helper.make_tensor_value_info("x", used, ["in", "n"] if is_first else ["n", "in"]),
        onnx.helper.make_tensor_value_info("w", stored, ["out", "in"] if is_out_in else ["in", "out"]),
    ]
    nodes = [
        onnx.helper.make_node("Cast", ["w"], ["wide"], to=used),
        onnx.helper.make_node("Gemm", ["wide", "x"], ["y"])
        if is_first
        else onnx.helper.make_node("Gemm", ["x", "wide"], ["y"], transB=int(is_out_in)),
    ]
    outputs = [onnx.helper.make_tensor_value_info("y", used, ["out", "n"] if is_first else ["n", "out"])]
    graph = onnx.helper.make_graph(nodes, "product", inputs, outputs)
    return onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 21)])


def _apart(
    graph: onnx.GraphProto, weights: Mapping[str, onnx.TypeProto], types: dict[str, onnx.TypeProto]
) -> tuple[list[onnx.NodeProto], list[Product]]:
    """The nodes without those that multiply with a weight, and these; `types` gets what is new."""
    maker = producers(graph)
    nodes, products = [], []
    for node in graph.node:
        found = _weight_of(node, maker, weights)
        if found is None:
            nodes.append(node)
            continue
        has_bias = node.op_type == "Gemm" and len(node.input) > 2 and bool(node.input[2])
        output = f"{node.output[0]}.product" if has_bias else node.output[0]
        products.append(Product(node.input[0], *found, output))
        if has_bias:
            types[output] = types.get(node.output[0], onnx.TypeProto())
            nodes.append(onnx.helper.make_node("Add", [output, node.input[2]], [node.output[0]]))
    return nodes, products


def _weight_of(
    node: onnx.NodeProto, maker: Mapping[str, onnx.NodeProto], weights: Mapping[str, onnx.TypeProto]
) -> tuple[str, bool] | None:
    """The weight that a MatMul or a plain Gemm multiplies with, and whether it stands as `[out, in]`."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Gemm":
        if not is_plain_gemm(attributes):
            return None
    elif node.op_type != "MatMul" or node.domain:
        return None
    is_out_in, is_cast, name = bool(attributes.get("transB", 0)), False, node.input[1]
    while name in maker:
        step = maker[name]
        if step.op_type == "Transpose":
            is_out_in = not is_out_in
        elif is_widening(step):
            is_cast = True
        else:
            return None
        name = step.input[0]
    if name not in weights or len(weights[name].tensor_type.shape.dim) != 2:
        return None
    wanted = HALVES if is_cast else (TensorProto.FLOAT,)
    return (name, is_out_in) if weights[name].tensor_type.elem_type in wanted else None


def is_plain_gemm(attributes: Mapping[str, object]) -> bool:
    """Whether a Gemm with these does no more than multiply and add: its second factor may be transposed."""
    return not attributes.get("transA", 0) and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1


def _steps(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    products: Sequence[Product],
    types: Mapping[str, onnx.TypeProto],
    taps: Sequence[str],
) -> Iterator[Piece | Product]:
    """Pieces and products in turn: each product after the piece that makes what it reads."""
    maker = {name: node for node in nodes for name in node.output if name}
    known = dict.fromkeys(taps)
    done: set[int] = set()
    for goal in (*products, None):
        wanted = "out" if goal is None else goal.x
        if wanted not in known:
            piece = [n for n in sliced(maker, [wanted], stop=known.__contains__) if id(n) not in done]
            done.update(map(id, piece))
            rest = [n for n in nodes if id(n) not in done]
            read_later = {name for n in rest for name in (*n.input, *implicit_inputs(n))} | {p.x for p in products}
            made = [
                name for n in piece for name in n.output if name == wanted or (name in read_later and name in types)
            ]
            yield _piece(model, piece, list(known), types, made)
            known |= dict.fromkeys(made)
        if goal is not None:
            yield goal
            known[goal.output] = None


def _piece(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    known: Sequence[str],
    types: Mapping[str, onnx.TypeProto],
    outputs: Sequence[str],
) -> Piece:
    """These nodes as a model: first the values that are known, then the weights that they read."""
    read = {name for node in nodes for name in (*node.input, *implicit_inputs(node))} | set(outputs)
    inputs = [name for name in known if name in read]
    weights = [info.name for info in model.graph.input if info.name in read and info.name not in inputs]
    graph = onnx.GraphProto(name="piece")
    graph.node.extend(nodes)
    graph.input.extend(onnx.ValueInfoProto(name=name, type=types[name]) for name in (*inputs, *weights))
    graph.initializer.extend(i for i in model.graph.initializer if i.name in read)
    graph.output.extend(onnx.ValueInfoProto(name=name, type=types[name]) for name in outputs)
    piece = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    piece.opset_import.extend(model.opset_import)
    piece.functions.extend(model.functions)
    return Piece(piece, len(inputs), (*inputs, *weights), tuple(outputs))
