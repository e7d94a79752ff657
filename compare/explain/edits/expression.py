"""A value as a formula that an engineer would write: `x / sqrt(mean(x^2) + 1e-06) * attn_norm.weight`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from ....graphs.network import Attribute, Network, Step
from ....graphs.stepping import FLOAT, SMALL_FLOATS
from ..arrays import shown
from ..masks import mask_law
from .idioms import idiom

_SUM, _PRODUCT, _SIGN, _POWER, _ATOM = range(5)
_INFIX = {
    "Add": ("+", _SUM),
    "Sub": ("-", _SUM),
    "Mul": ("*", _PRODUCT),
    "Div": ("/", _PRODUCT),
    "MatMul": ("@", _PRODUCT),
    "Pow": ("^", _POWER),
}
_NAMES = {
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceSumSquare": "sum_of_squares",
    "ReduceL2": "l2_norm",
    "ReduceLogSumExp": "logsumexp",
    "Max": "maximum",
    "Min": "minimum",
    "LessOrEqual": "less_or_equal",
    "GreaterOrEqual": "greater_or_equal",
    "Not": "logical_not",
    "And": "logical_and",
    "Or": "logical_or",
    "Xor": "logical_xor",
    "GatherElements": "take_along_axis",
    "GatherND": "gather_nd",
}  # fmt: skip
_AS_THEY_ARE = (
    "Normalization",
    "Attention",
    "Linear",
    "Conv",
    "TopK",
    "LSTM",
    "GRU",
)  # operators with a name of their own
_HIDDEN = ("axis", "keepdims", "largest", "sorted", "noop_with_empty_axes", "to", "stash_type")
_LAST_AXIS = frozenset(
    {
        "Softmax",
        "LogSoftmax",
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
        "ReduceMin",
        "LayerNormalization",
        "RMSNormalization",
        "TopK",
        "CumSum",
        "Concat",
    }
)
_MOST_ENTRIES = 4
_MOST_STEPS = 400  # of a formula
MASKED = -1e4  # what is added to a score that must not count
Leaf = Callable[[str], str | None]


@dataclass(frozen=True)
class Style:
    """How formulas are written.

    depth: how many steps deep; deeper ones are "...".
    with_moves: whether reshapes and transposes are written too.
    with_letters: whether what two formulas repeat is written once, and has a letter.
    """

    depth: int = 7
    with_moves: bool = False
    with_letters: bool = False


def is_mask(array: np.ndarray) -> bool:
    """Whether an array is what is added to scores: 0, or so low that softmax makes it nothing."""
    if array.dtype.kind != "f" or array.ndim < 2 or min(array.shape[-2:]) < 2:
        return False
    masked = array <= MASKED
    return bool(masked.any()) and not np.any(array[~masked])


def as_written(array: np.ndarray) -> np.ndarray:
    """Numbers in the type in which a program has them: float32, where that holds them all."""
    if array.dtype != np.float64:
        return array
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    return single if np.array_equal(single, array, equal_nan=True) else array


def formula(network: Network, name: str, leaf: Leaf, style: Style, depth: int | None = None) -> str:
    """A value, down to those for which `leaf` has a word; less deep where it would be of too many steps, as in a loop, each
    of whose turns reads the one before more than once.
    """
    asked, sizes, leaf = style.depth if depth is None else depth, dict[tuple[str, int], int](), cache(leaf)
    while asked > 1 and _size(network, name, leaf, asked, sizes) > _MOST_STEPS:
        asked -= 1
    return _written(network, name, leaf, style, asked)[0]


def _size(network: Network, name: str, leaf: Leaf, depth: int, known: dict[tuple[str, int], int]) -> int:
    """How many values a formula of this depth writes."""
    name = network.base(name)
    if (name, depth) not in known:
        maker = network.values[name].maker
        is_end = depth <= 0 or maker is None or (leaf(name) is not None)
        read = () if is_end or maker is None else maker.operands
        known[name, depth] = 1 + sum(_size(network, one, leaf, depth - 1, known) for one in read)
    return known[name, depth]


def step_formula(network: Network, step: Step, leaf: Leaf, style: Style, depth: int = 1) -> str:
    """A step on what it reads."""
    return _of_step(network, step, 0, leaf, style, depth)[0]


def _written(network: Network, name: str, leaf: Leaf, style: Style, depth: int) -> tuple[str, int]:
    """The text, and how tightly it binds."""
    while not style.with_moves and (maker := network.values[name].maker) and maker.is_move:
        name = maker.operands[0]
    known = leaf(name)
    if known is not None:
        return known, _ATOM if _is_atom(known) else _SUM
    value = network.values[name]
    if value.kind in ("input", "weight"):
        return value.label, _ATOM
    array = network.array(name)
    is_short = array is not None and array.size <= (_MOST_ENTRIES if value.kind == "constant" else 1)
    if value.kind == "constant" and array is not None and array.size > _MOST_ENTRIES and not is_mask(array):
        return _of_constant(array), _ATOM
    if array is not None and is_short and not value.is_data:
        return shown(as_written(array)), _ATOM
    if array is not None and not value.is_data and is_mask(array):
        return f"mask({mask_law(array <= MASKED)})", _ATOM
    if depth <= 0:
        return "...", _ATOM
    assert value.maker is not None
    return _of_step(network, value.maker, value.output, leaf, style, depth)


def _of_constant(array: np.ndarray) -> str:
    """A constant of more than a few numbers: what they are where all are one, else the shape."""
    shape, first = list(array.shape), array.ravel()[0]
    if not np.all(array == first):
        return f"constant {shape}"
    if first in (0, 1):
        return f"{'ones' if first else 'zeros'} {shape}"
    return f"full({shape}, {shown(as_written(first.reshape(1)))})"


def _of_step(network: Network, step: Step, output: int, leaf: Leaf, style: Style, depth: int) -> tuple[str, int]:
    """A step, with the type in which it is computed where that is one of few bits."""
    text, binds = _plain_step(network, step, output, leaf, style, depth)
    made = None if step.operator == "Cast" or step.is_move else network.typed(step.outputs[0])
    if made is None or made.type not in SMALL_FLOATS:
        return text, binds
    return f"{made.type}({text})", _ATOM


def _plain_step(network: Network, step: Step, output: int, leaf: Leaf, style: Style, depth: int) -> tuple[str, int]:
    if _is_widening(network, step):
        return _written(network, step.operands[0], leaf, style, depth)
    if (known := idiom(network, step)) is not None:
        arguments = [_written(network, known.operand, leaf, style, depth - 1)[0], *known.settings]
        return f"{known.name}({', '.join(arguments)})", _ATOM
    operands = [_written(network, name, leaf, style, depth - 1) for name in step.operands]
    shape = None if style.with_moves else _shape_of_another_axis(network, step)
    if shape is not None:
        operands[0] = f"reshape({operands[0][0]}, {list(shape)})", _ATOM
    if not step.domain and step.operator in _INFIX and len(operands) == 2:
        sign, binds = _INFIX[step.operator]
        left = operands[0][0] if operands[0][1] >= binds else f"({operands[0][0]})"
        right = operands[1][0] if operands[1][1] > binds else f"({operands[1][0]})"
        return (f"{left}^{right}" if sign == "^" else f"{left} {sign} {right}"), binds
    if step.operator == "Neg" and not step.domain:
        return f"-{operands[0][0] if operands[0][1] >= _PRODUCT else f'({operands[0][0]})'}", _SIGN
    arguments = [text for text, _ in operands]
    if step.operator == "Slice" and not step.domain:
        return f"{_tight(operands[0])}[{_sliced(step, network.array(step.operands[0]))}]", _ATOM
    if step.operator == "Split" and not step.domain:
        return f"{_tight(operands[0])}[{_split(network, step, output)}]", _ATOM
    if step.operator == "TopK" and _is_sort(network, step):
        order = ", descending" if step.attributes.get("largest", 1) else ""
        return f"{('sort', 'argsort')[output]}({operands[0][0]}{order})", _ATOM
    if step.operator == "Gather" and not step.domain and len(arguments) == 2:
        axis = step.attributes.get("axis", 0)
        return f"{_tight(operands[0])}[{arguments[1]}{f' on axis {setting_text(axis)}' if axis else ''}]", _ATOM
    if step.operator == "Clip" and len(arguments) == 2:
        arguments[1] = f"{'min' if step.places[1] == 1 else 'max'}={arguments[1]}"
    arguments += _settings(step, style.with_moves)
    text = f"{operator_name(step)}({', '.join(arguments)})"
    return (text if len(step.outputs) == 1 else f"{text}.{_part(step, output)}"), _ATOM


def _is_atom(text: str) -> bool:
    """Whether a word binds by itself: a name, or a call or brackets that enclose all of it."""
    depth = 0
    for n, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if not depth and letter == " " and not text.startswith(("constant [", "zeros [", "ones [")):
            return False
        if not depth and letter in ")]" and n + 1 < len(text) and text[n + 1] not in "[.":
            return False
    return True


def _is_widening(network: Network, step: Step) -> bool:
    """Whether a step is a cast of floats to more bits, which changes no number."""
    if step.operator != "Cast" or step.attributes.get("to") != FLOAT:
        return False
    made = network.typed(step.operands[0])
    return made is not None and made.type in SMALL_FLOATS


def _tight(operand: tuple[str, int]) -> str:
    return operand[0] if operand[1] == _ATOM else f"({operand[0]})"


def _part(step: Step, output: int) -> str:
    return ("values", "indices")[output] if step.operator == "TopK" else str(output)


def operator_name(step: Step) -> str:
    """An operator as numpy would call it; one with a name of its own as ONNX does; a cast by its type."""
    if step.operator in ("Cast", "CastLike"):
        return f"to_{setting_text(step.attributes.get('to', 'the same type'))}"
    if step.operator == "Trilu":
        return "triu" if step.attributes.get("upper", 1) else "tril"
    if step.domain and step.domain != "com.microsoft":
        return step.operator
    if any(word in step.operator for word in _AS_THEY_ARE):
        return step.operator
    return _NAMES.get(step.operator, step.operator.lower())


def setting_text(value: Attribute) -> str:
    """An attribute's value."""
    if isinstance(value, float):
        return shown(np.asarray(value, np.float32))
    if isinstance(value, tuple):
        return f"[{', '.join(map(setting_text, value))}]"
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)


def _settings(step: Step, with_axes: bool) -> Iterator[str]:
    """What a step is set to; the axes of a reduction too where they are the last, or all, if that is asked for."""
    if step.operator == "Trilu":
        yield from (str(int(literal.ravel()[0])) for literal in step.literals.values() if int(literal.ravel()[0]))
        return
    axis = step.attributes.get("axis")
    is_last = step.operator in _LAST_AXIS and axis in (None, -1)
    if isinstance(axis, int) and not is_last:
        yield f"axis {axis}"
    for name, value in step.attributes.items():
        if name not in _HIDDEN and not _is_usual(step, name, value):
            yield f"{name}={setting_text(value)}"
    if with_axes and step.operator.startswith("Reduce"):
        axes = step.literals.get(1)
        yield "over all axes" if axes is None or not axes.size else f"axes {shown(axes)}"
        return
    for literal in step.literals.values():
        is_axis = step.operator in _LAST_AXIS and literal.size == 1 and int(literal.ravel()[0]) == -1
        if not is_axis and literal.size and (step.is_move or literal.size <= _MOST_ENTRIES):
            word = "axes " if step.operator.startswith("Reduce") else ""
            yield f"{word}{shown(literal)}"


def _is_usual(step: Step, name: str, value: Attribute) -> bool:
    """Whether an attribute says what it would be if it were left out."""
    if name in ("pads", "strides", "dilations") and isinstance(value, tuple):
        return all(one == (0 if name == "pads" else 1) for one in value)
    return (step.operator, name) in (("Trilu", "upper"), ("Conv", "kernel_shape"))


def _shape_of_another_axis(network: Network, step: Step) -> tuple[int, ...] | None:
    """The shape that a reshape has made, where a part is taken along an axis of its making."""
    if step.operator not in ("Slice", "Split") or step.domain:
        return None
    maker = network.values[step.operands[0]].maker
    if maker is None or maker.operator != "Reshape" or maker.domain:
        return None
    made, read = network.array(maker.outputs[0]), network.array(maker.operands[0])
    axes = step.literals.get(3, np.zeros(1, int)) if step.operator == "Slice" else [step.attributes.get("axis", 0)]
    if made is None or read is None:
        return None
    firsts = [int(axis) % made.ndim - made.ndim for axis in np.ravel(axes)]
    is_another = any(first != -1 and made.shape[first:] != read.shape[first:] for first in firsts)
    return made.shape if is_another else None


def _is_sort(network: Network, step: Step) -> bool:
    """Whether the k largest are all."""
    read, k = network.array(step.operands[0]), step.literals.get(1)
    axis = step.attributes.get("axis", -1)
    assert isinstance(axis, int)
    return read is not None and k is not None and k.size == 1 and int(k.ravel()[0]) == read.shape[axis]


def _split(network: Network, step: Step, output: int) -> str:
    """Which places of its axis a part of a Split has; which of the parts it is where the sizes are not known."""
    arrays = [network.array(name) for name in step.outputs[: output + 1]]
    parts, axis = [array for array in arrays if array is not None], step.attributes.get("axis", 0)
    if len(parts) < len(arrays) or not isinstance(axis, int):
        return f"part {output + 1} of {len(step.outputs)}"
    sizes = [part.shape[axis] for part in parts]
    is_last = axis in (-1, parts[0].ndim - 1)
    return f"{sum(sizes[:-1])}:{sum(sizes)}{'' if is_last else f' on axis {axis}'}"


def _sliced(step: Step, read: np.ndarray | None) -> str:
    rows = zip(*(step.literals[n].ravel().tolist() for n in (1, 2, 3, 4) if n in step.literals), strict=False)
    parts = []
    for start, end, *rest in rows:
        axis, stride = (*rest, -1, 1)[:2] if rest else (-1, 1)
        is_reversed = (
            stride == -1 and read is not None and start in (-1, read.shape[axis] - 1) and end < -read.shape[axis]
        )
        places = "::-1" if is_reversed else f"{start}:{end}{f':{stride}' if stride != 1 else ''}"
        parts.append(f"{places}{f' on axis {axis}' if axis != -1 else ''}")
    return ", ".join(parts)
