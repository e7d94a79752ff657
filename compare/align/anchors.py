"""Anchors: steps that read one weight each. Equal weights tell which step of one graph is which of the other."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...graphs.adopt.flat import Flat, Ran
from ..measure import dot, norm
from .values import is_move

Role = Literal["product", "table", "gain", "bias", "kernel"]
_SMALLEST_PRODUCT, _SMALLEST_VECTOR = 16, 8  # elements
_KERNELS = ("Conv", "ConvTranspose", "LSTM", "GRU", "RNN", "ConvInteger")
_ALIKE, _ALIKE_VECTORS = 0.9, 0.99999  # cosines: of weights that are one, stored otherwise or spoilt
_SAMPLED = 1 << 14  # elements of a large weight that are looked at
_IN_PROPORTION = 1 - 1e-6  # the cosine of two rows of which one is the other times a factor, rounded
_SMALLEST_ROW = 4  # numbers, of which others are not in proportion by chance
_BY_CHANNEL = ("Add", "Sub", "Mul", "Div")
_NORM_STEPS = 7  # between what a norm reads and its gain


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """A step with its weight; a product's stands as [out, in], and is_turned where the step reads it as [in, out].

    place: the step's among those of its graph.
    x, y, weight_name: what it reads, what it makes, and its weight, by name.
    """

    place: int
    role: Role
    x: str
    y: str
    weight_name: str
    weight: np.ndarray
    is_turned: bool = False

    def as_read(self, weight: np.ndarray) -> np.ndarray:
        """A weight in the layout in which the step reads it; of one in that layout, as it is compared."""
        return np.ascontiguousarray(weight.T) if self.is_turned else weight


@dataclass(frozen=True, slots=True)
class Pair:
    """An anchor of A and the one of B that has its weight; `is_equal` in every number that was looked at."""

    a: Anchor
    b: Anchor
    is_equal: bool

    @property
    def is_scaled(self) -> bool:
        """Whether one weight is the other times a factor for each output, as where a batch norm is folded into it."""
        return not self.is_equal and are_in_proportion(self.a, self.b)


def anchors_of(flat: Flat) -> list[Anchor]:
    """The anchors of a graph, in the order in which they run."""
    return [anchor for node in flat.nodes if (anchor := _anchor(flat, node)) is not None]


def _anchor(flat: Flat, node: Ran) -> Anchor | None:
    if node.domain:
        return None
    data = [n for n, name in enumerate(node.reads) if flat.is_data(name)]
    held = [n for n, name in enumerate(node.reads) if name and not flat.is_data(name)]

    def weight(n: int) -> np.ndarray:
        return flat.array(node.reads[n])

    def made(role: Role, x: int, w: int, array: np.ndarray, is_turned: bool = False) -> Anchor:
        return Anchor(node.place, role, node.reads[x], node.outputs[0], node.reads[w], array, is_turned)

    if node.operator in ("MatMul", "Gemm") and len(data) == 1 and data[0] < 2 and 1 - data[0] in held:
        array = weight(1 - data[0])
        if array.size >= _SMALLEST_PRODUCT and array.ndim == 2 and _is_float(array):
            is_out_in = data[0] == 1
            if node.operator == "Gemm":
                is_out_in = bool(node.attribute("transB"))
            return made("product", data[0], 1 - data[0], array if is_out_in else array.T, not is_out_in)
    elif node.operator == "Gather" and 0 in held and 1 in data and weight(0).ndim == 2 and _is_float(weight(0)):
        return made("table", 1, 0, weight(0))
    elif node.operator in ("Mul", "Add") and len(data) == 1 and len(held) == 1:
        array = weight(held[0])
        is_vector = array.size >= _SMALLEST_VECTOR and array.size == max(array.shape) and _is_float(array)
        if is_vector and np.isfinite(np.asarray(array, np.float64)).all():
            return made("gain" if node.operator == "Mul" else "bias", data[0], held[0], array)
    elif node.operator in _KERNELS and 0 in data and 1 in held:
        return made("kernel", 0, 1, weight(1))
    return None


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind not in "biu"


def paired(a: Sequence[Anchor], b: Sequence[Anchor]) -> list[Pair]:
    """The anchors that have one weight: equal ones first, then those that are nearly one."""
    left, right, pairs = list(a), list(b), list[Pair]()

    def take(first: Anchor, second: Anchor, is_equal: bool) -> None:
        left.remove(first)
        right.remove(second)
        pairs.append(Pair(first, second, is_equal))

    put_off: list[tuple[list[Anchor], list[Anchor]]] = []
    for ours, theirs in _groups(left, right, lambda anchor: (anchor.role, digest(anchor.weight))):
        if len(ours) != len(theirs):
            put_off.append((ours, theirs))
            continue
        for first, second in zip(ours, theirs, strict=True):
            take(first, second, True)
    for ours, theirs in put_off:
        for first, second in _nearest(ours, theirs, pairs):
            take(first, second, True)
    for first, second in _alike(left, right):
        take(first, second, False)
    return sorted(pairs, key=lambda pair: pair.b.place)


def _groups(
    a: Iterable[Anchor], b: Iterable[Anchor], key: Callable[[Anchor], Hashable]
) -> Iterator[tuple[list[Anchor], list[Anchor]]]:
    groups: dict[Hashable, tuple[list[Anchor], list[Anchor]]] = {}
    for side, anchors in enumerate((a, b)):
        for anchor in anchors:
            groups.setdefault(key(anchor), ([], []))[side].append(anchor)
    yield from ((ours, theirs) for ours, theirs in groups.values() if ours and theirs)


def digest(array: np.ndarray) -> tuple[int, bytes]:
    """The same for two weights of the same float32 numbers, as anchors have them; of large ones, of a grid of them."""
    return array.size, np.ascontiguousarray(_grid(array), np.float32).tobytes()


def _grid(array: np.ndarray) -> np.ndarray:
    """Some of the numbers, all over the array, without its axes of one."""
    axes = [size for size in array.shape if size != 1]
    strides = [max(1, round(size / _SAMPLED ** (1 / len(axes)))) for size in axes]
    return array.reshape(axes)[tuple(slice(None, None, stride) for stride in strides)]


def _nearest(a: Sequence[Anchor], b: Sequence[Anchor], known: Sequence[Pair]) -> Iterator[tuple[Anchor, Anchor]]:
    """Of equal weights that one side has more often: those at the same place among the anchors that are known."""

    def before(anchor: Anchor, side: str) -> int:
        return sum(getattr(pair, side).place < anchor.place for pair in known)

    ranked = sorted(
        (abs(before(x, "a") - before(y, "b")), abs(x.place - y.place), n, m)
        for n, x in enumerate(a)
        for m, y in enumerate(b)
    )
    ours, theirs = set[int](), set[int]()
    for _, _, n, m in ranked:
        if n not in ours and m not in theirs:
            ours.add(n)
            theirs.add(m)
            yield a[n], b[m]


def _alike(a: Sequence[Anchor], b: Sequence[Anchor]) -> list[tuple[Anchor, Anchor]]:
    """Weights of one shape that point nearly the same way, the nearest first."""
    found = []
    grids = [[_Grid.of(one) for one in side] for side in (a, b)]
    for n, ours in enumerate(a):
        for m, theirs in enumerate(b):
            if ours.role != theirs.role or ours.weight.shape != theirs.weight.shape:
                continue
            x, y = grids[0][n], grids[1][m]
            cosine = 1.0 if x.is_in_proportion(y) else x.cosine(y)
            if cosine > (_ALIKE_VECTORS if ours.role in ("gain", "bias") else _ALIKE):
                found.append((1 - cosine, n, m))
    pairs, used = [], (set[int](), set[int]())
    for _, n, m in sorted(found):
        if n not in used[0] and m not in used[1]:
            used[0].add(n)
            used[1].add(m)
            pairs.append((a[n], b[m]))
    return pairs


def are_in_proportion(a: Anchor, b: Anchor) -> bool:
    """Whether each output's row of a weight is the other weight's times a factor."""
    return a.weight.shape == b.weight.shape and _Grid.of(a).is_in_proportion(_Grid.of(b))


@dataclass(frozen=True, slots=True)
class _Grid:
    """Some numbers of a weight, all over it, made of length 1: as a whole, and each output's row where it has rows.

    is_nothing: for each row, whether it is all zeros.
    """

    whole: np.ndarray
    rows: np.ndarray | None
    is_nothing: np.ndarray

    @staticmethod
    def of(anchor: Anchor) -> _Grid:
        grid = np.asarray(_grid(anchor.weight), np.float64)
        has_rows = anchor.role in ("product", "kernel") and grid.ndim > 1 and grid[0].size >= _SMALLEST_ROW
        rows = grid.reshape(len(grid), -1) if has_rows else np.zeros((0, 1))
        sizes, whole = np.sqrt((rows * rows).sum(1)), norm(grid.ravel())
        unit = rows / np.where(sizes, sizes, 1)[:, None]
        return _Grid(grid.ravel() / (whole or 1), unit if has_rows and sizes.any() else None, sizes == 0)

    def cosine(self, other: _Grid) -> float:
        """How nearly the two point the same way."""
        return dot(self.whole, other.whole)

    def is_in_proportion(self, other: _Grid) -> bool:
        """Whether each row is the other's times a factor."""
        if self.rows is None or other.rows is None:
            return False
        if abs(dot(self.rows[0], other.rows[0])) < _IN_PROPORTION and not (self.is_nothing[0] or other.is_nothing[0]):
            return False
        cosines = np.abs(np.einsum("rc,rc->r", self.rows, other.rows))
        return bool(np.all((cosines >= _IN_PROPORTION) | self.is_nothing | other.is_nothing))


def folded_elsewhere(a: Flat, b: Flat) -> tuple[set[str], set[str]]:
    """The convolutions of A and of B with a batch norm behind them that the other side has folded into its kernel."""
    found = set[str](), set[str]()
    if not any(node.operator == "BatchNormalization" for flat in (a, b) for node in flat.nodes):
        return found
    for pair in paired(anchors_of(a), anchors_of(b)):
        ends = pair.a.y, pair.b.y
        has_norm = [_has_norm(flat, y) for flat, y in zip((a, b), ends, strict=True)]
        if has_norm[0] != has_norm[1] and pair.is_scaled:
            side = has_norm.index(True)
            found[side].add(ends[side])
    return found


def _has_norm(flat: Flat, value: str) -> bool:
    return [node.operator for node in flat.readers.get(value, ())] == ["BatchNormalization"]


def has_bias(flat: Flat, product: str) -> bool:
    """Whether a product adds a bias in the same step."""
    node = flat.maker[product]
    return node.operator == "Gemm" and not node.domain and any(node.reads[2:])


def with_bias(flat: Flat, product: str) -> str:
    """A product with the bias that one step behind it adds, where nothing else reads it and it has none of its own."""
    readers = flat.readers.get(product, [])
    if len(readers) != 1 or has_bias(flat, product) or product in flat.outputs.values():
        return product
    held = [name for name in readers[0].reads if name and not flat.is_data(name)]
    is_bias = readers[0].operator == "Add" and len(held) == 1
    return readers[0].outputs[0] if is_bias and flat.array(held[0]).size == flat.array(product).shape[-1] else product


def end_of_channels(flat: Flat, value: str) -> str:
    """The last value that is this one with each channel scaled and shifted by constants."""
    outputs = set(flat.outputs.values())
    while value not in outputs and len(readers := flat.readers.get(value, [])) == 1:
        node = readers[0]
        is_norm = node.operator == "BatchNormalization" or (
            node.operator in _BY_CHANNEL
            and any(_is_by_channel(flat, name, value) for name in node.reads)
            and (node.operator != "Div" or node.reads[0] == value)
        )
        if not is_norm or [name for name in node.reads if name and flat.is_data(name)] != [value]:
            break
        value = node.outputs[0]
    return value


def _is_by_channel(flat: Flat, name: str, value: str) -> bool:
    """Whether a constant holds one number for each channel of a picture or a sequence: [channel, 1, ...]."""
    array, shape = flat.array(name), flat.array(value).shape
    if flat.is_data(name) or len(shape) < 2 or array.ndim < len(shape) - 1:
        return False
    return array.size == shape[1] == array.shape[1 - len(shape)]


def norm_input(flat: Flat, gain: Anchor) -> str | None:
    """What a norm reads: the nearest value above its gain whose rows, or what they are but for their means, are those
    that the gain reads, each times a number; where that is what is left of rows when their means are taken off, those rows.
    """
    maker = flat.maker
    y = flat.array(gain.x)
    width = gain.weight.size
    if y.ndim == 0 or y.shape[-1] != width:
        return None
    rows = y.reshape(-1, width)
    level, seen = [gain.x], {gain.x}
    for _ in range(_NORM_STEPS):
        level = [name for value in level if value in maker for name in maker[value].reads if flat.is_data(name)]
        level = [name for name in dict.fromkeys(level) if name not in seen]
        seen.update(level)
        for name in level:
            array = flat.array(name)
            if array.size == y.size and array.dtype.kind == "f" and array.shape[-1] == width:
                x = array.reshape(-1, width)
                if any(_is_each_times_a_number(z, rows) for z in (x, x - x.mean(1, keepdims=True))):
                    return _with_means(flat, name)
    return None


def _with_means(flat: Flat, name: str) -> str:
    """The value of which this one is what is left when each row's mean is taken off; itself where there is none."""
    node = flat.maker.get(name)
    before = node.reads[0] if node is not None and node.operator == "Sub" else name
    x, y = flat.array(before), flat.array(name)
    if not flat.is_data(before) or x.shape != y.shape:
        return name
    is_centred = np.allclose(x - x.mean(-1, keepdims=True), y, rtol=0, atol=1e-9)
    return _before_casts(flat, before) if is_centred else name


def _before_casts(flat: Flat, name: str) -> str:
    while (node := flat.maker.get(name)) is not None and node.operator == "Cast" and flat.is_data(node.reads[0]):
        name = node.reads[0]
    return name


def _is_each_times_a_number(x: np.ndarray, y: np.ndarray) -> bool:
    with np.errstate(all="ignore"):
        factors = (x * y).sum(1) / (x * x).sum(1)
        near = np.abs(x * factors[:, None] - y).max() < 1e-9 * np.abs(y).max()
    return bool(near) and not np.allclose(factors, 1, rtol=1e-9)


def landmarks(flat: Flat) -> set[str]:
    """The values between which a graph's steps make sense, before they are moved elsewhere: what a step with a weight gives,
    its bias added, what a norm reads, what a softmax reads and gives, and the outputs.
    """
    found = set(flat.outputs.values())
    anchors = anchors_of(flat)
    biased = {root(flat, anchor.x)[0] for anchor in anchors if anchor.role == "bias"}
    for anchor in anchors:
        if anchor.role == "gain" and (before := norm_input(flat, anchor)) is not None:
            found.add(before)
        if root(flat, anchor.y)[0] not in biased:
            found.update((anchor.y, end_of_channels(flat, anchor.y)))
    for node in flat.nodes:
        if node.operator == "Softmax":
            found.update((node.reads[0], *node.outputs))
    return {root(flat, name)[0] for name in found}


def root(flat: Flat, name: str) -> tuple[str, list[Ran]]:
    """The value that one is, moved elsewhere or behind an empty past, and the moves between, the last one first."""
    moves = []
    while (node := flat.maker.get(name)) is not None and (before := moved(flat, node)) is not None:
        kinds = [flat.array(one).dtype.kind for one in (name, before)]
        if not flat.is_data(before) or (kinds[0] != kinds[1] and "f" in kinds):
            break
        moves.append(node)
        name = before
    return name, moves


def moved(flat: Flat, node: Ran) -> str | None:
    """What a node moves; None where it does more."""
    if node.operator != "Concat" or node.domain:
        return node.reads[0] if is_move(node) else None
    held = [name for name in node.reads if flat.array(name).size]
    return held[0] if len(held) == 1 < len(node.reads) else None
