"""What two foreign graphs are fed: each input by its role, made where nobody gives it, and the same on both sides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from ..errors import InputError
from ..positions import POSITIONS
from .opened import Foreign
from .past import PAST, growing

_TOKENS = ("tokens", "input_ids", "token_ids", "decoder_input_ids")
_SEED = 0  # of made numbers
_SIZES = (8, 16, 32, 48, 64, 96, 128, 224, 256, 512, 1024, 16000)
# What sizes may be that the graph leaves open and no role tells: of a last axis, and of any other.
SIZES = (*((size, size) for size in _SIZES), *((size, 1) for size in _SIZES))


@dataclass(frozen=True)
class Fed:
    """One graph's inputs: `data`, which the comparison is about, and `fixed`, which are taken for constants.

    made: those that nobody gave, in words.
    """

    data: Mapping[str, np.ndarray]
    fixed: Mapping[str, np.ndarray]
    made: tuple[str, ...]


def takes_tokens(foreign: Foreign) -> bool:
    """Whether one of the inputs is for tokens."""
    return any(info.name in _TOKENS for info in _inputs(foreign))


def fed(
    foreign: Foreign,
    tokens: Sequence[int],
    given: Mapping[str, np.ndarray],
    sizes: tuple[int, int] = SIZES[0],
    first_position: int = 0,
    n_before: int = 0,
) -> Fed:
    """The inputs of a graph: those that are given by name, the tokens, and what their roles tell of the others.

    Args:
        sizes: what a size is that is left open: of a last axis, and of any other.
        first_position: that of the first token of the prompt.
        n_before: how many tokens of it the steps before were fed.
    Raises:
        InputError: an input that is given has another type or rank, or one has no role and cannot be made; the positions do
            not begin with 0, and no input takes them.
    """
    if first_position:
        _check_takes_positions(foreign, given)
    grows = growing(foreign)
    data, fixed, made = dict[str, np.ndarray](), dict[str, np.ndarray](), list[str]()
    for info in _inputs(foreign):
        kind = info.type.tensor_type
        if not info.type.HasField("tensor_type") or kind.elem_type == onnx.TensorProto.STRING:
            raise InputError(f"{foreign.path}: input {info.name} is no tensor of numbers, and cannot be compared")
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        dims = [d.dim_value if d.dim_value > 0 else (d.dim_param or None) for d in kind.shape.dim]
        dims = ["past" if axis in grows.get(info.name, ()) else dim for axis, dim in enumerate(dims)]
        if info.name in given:
            value = _checked(foreign, info.name, given[info.name], dtype, dims)
        elif info.name in _TOKENS:
            if not len(tokens):
                raise InputError(f"{foreign.path}: input {info.name} wants tokens; give them, as in --tokens 1,5,3")
            value = np.asarray(tokens, dtype).reshape((1, -1) if len(dims) == 2 else (-1,))
            if dims and isinstance(dims[-1], int) and dims[-1] != len(tokens):
                raise InputError(f"{foreign.path}: takes exactly {dims[-1]} tokens, where {len(tokens)} are given")
        else:
            value = _made_for(info.name, dtype, dims, len(tokens), sizes, first_position, n_before)
            made.append(f"{info.name} {list(value.shape)}")
        is_data = info.name in given or info.name in _TOKENS or (value.dtype.kind == "f" and value.size > 0)
        (data if is_data else fixed)[info.name] = value
    if not data:
        data, fixed = fixed, {}
    return Fed(data, fixed, tuple(made))


def _inputs(foreign: Foreign) -> list[onnx.ValueInfoProto]:
    held = {tensor.name for tensor in foreign.model.graph.initializer}
    return [info for info in foreign.model.graph.input if info.name not in held]


def _checked(
    foreign: Foreign, name: str, value: np.ndarray, dtype: np.dtype, dims: Sequence[int | str | None]
) -> np.ndarray:
    fits = len(value.shape) == len(dims) and all(
        not isinstance(wanted, int) or wanted == size for wanted, size in zip(dims, value.shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"{foreign.path}: input {name} is {list(dims)}, where a value of shape {list(value.shape)} is given"
        )
    if value.dtype.kind != dtype.kind and not (value.dtype.kind in "iu" and dtype.kind in "iu"):
        raise InputError(f"{foreign.path}: input {name} is {dtype}, where {value.dtype} is given")
    return value.astype(dtype)


def _check_takes_positions(foreign: Foreign, given: Mapping[str, np.ndarray]) -> None:
    names = [info.name for info in _inputs(foreign) if _is_of_positions(info.name)]
    if not names:
        raise InputError(
            f"{foreign.path}: has no input {POSITIONS}, and cannot be run at other positions than 0 and up; export it with "
            "one, or leave --position-offset out"
        )
    if all(name in given for name in names):
        raise InputError(f"{foreign.path}: {names[0]} is given; leave it out of --inputs, or --position-offset")


def _is_of_positions(name: str) -> bool:
    """Whether an input takes the positions of the tokens, and not their places in a cache."""
    return "position" in name and "cache" not in name


def _made_for(
    name: str,
    dtype: np.dtype,
    dims: Sequence[int | str | None],
    n_tokens: int,
    sizes: tuple[int, int],
    first_position: int,
    n_before: int,
) -> np.ndarray:
    """A value for an input by its role: a mask of ones, positions, an empty cache; else seeded random numbers."""
    n_keys = n_before + n_tokens
    is_past = bool(PAST.search(name)) and dtype.kind == "f"
    shape = [
        dim if isinstance(dim, int) else _size(dim, place == 0, is_past, n_tokens, sizes[place < len(dims) - 1])
        for place, dim in enumerate(dims)
    ]
    if is_past:
        return np.zeros(shape, dtype)
    if "mask" in name:
        if n_before and dims and not isinstance(dims[-1], int):
            shape[-1] = n_keys
        return np.ones(shape, dtype)
    if "position" in name:
        first = n_before + (first_position if _is_of_positions(name) else 0)
        return np.broadcast_to(np.arange(shape[-1] if shape else 0) + first, shape).astype(dtype)
    if name == "seqlens_k":
        return np.full(shape, n_keys - 1, dtype)
    if name == "total_sequence_length":
        return np.full(shape, n_keys, dtype)
    if name == "use_cache_branch":
        return np.full(shape, n_before > 0, dtype)
    if dtype.kind in "iub":
        return np.zeros(shape, dtype)
    return np.random.default_rng(_SEED).standard_normal(shape).astype(dtype)


def _size(dim: str | None, is_first: bool, is_past: bool, n_tokens: int, size: int) -> int:
    """A size that a graph leaves open: one of a batch, no token of a past, the tokens' number, or the given size."""
    words = str(dim or "").lower()
    is_length = bool(re.search("seq|len|token|time", words))
    if "batch" in words or (is_first and not is_length and words != "past"):
        return 1
    if is_past:
        return size if words and not is_length and "past" not in words else 0
    return n_tokens or size
