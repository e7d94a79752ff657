"""ggml's tensors in memory, as llama.cpp's eval callback hands them out, by way of llama-cpp-python's libraries."""

from __future__ import annotations

import ctypes
import struct
from functools import cache
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType

from ...graphs.errors import InputError

_DTYPES = {
    GGMLQuantizationType.F32: np.float32,
    GGMLQuantizationType.F16: np.float16,
    GGMLQuantizationType.I32: np.int32,
}


class _Tensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h."""


_Tensor._fields_ = [
    ("type", ctypes.c_int32),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int32),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.c_void_p * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]


@cache
def _library() -> Any:
    from llama_cpp._ggml import libggml

    for function in ("ggml_op_desc", "ggml_get_name"):
        getattr(libggml, function).argtypes = [ctypes.c_void_p]
        getattr(libggml, function).restype = ctypes.c_char_p
    libggml.ggml_get_data.argtypes, libggml.ggml_get_data.restype = [ctypes.c_void_p], ctypes.c_void_p
    return libggml


class Node:
    """A tensor of ggml's graph. Its values are what they are only while the callback for it runs.

    Raises:
        InputError: the library has its tensors in another layout than the one that is known here.
    """

    def __init__(self, address: int) -> None:
        self._address, self._tensor = address, _Tensor.from_address(address)
        asked = _library().ggml_get_name(address), _library().ggml_get_data(address)
        if asked != (self._tensor.name, self._tensor.data):
            raise InputError("llama.cpp: its tensors lie otherwise in memory; install llama-cpp-python 0.3.36")

    @property
    def name(self) -> str:
        return str(self._tensor.name, "utf-8", "replace")

    @property
    def op(self) -> str:
        """`MUL_MAT`, `SWIGLU`; `NONE` where nothing computes it: a weight, an input."""
        return str(_library().ggml_op_desc(self._address), "ascii")

    @property
    def operands(self) -> list[Node]:
        return [Node(address) for address in self._tensor.src if address]

    def float_parameters(self, n: int) -> tuple[float, ...]:
        """The first `n` of the op's parameters, where they are float32."""
        return struct.unpack(f"{n}f", bytes(self._tensor.op_params)[: 4 * n])

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of its four dimensions, the slowest first."""
        return tuple(self._tensor.ne)[::-1]

    def values(self, n_dimensions: int) -> np.ndarray:
        """A copy of the values in C order, float32, of whole numbers int64; ggml's dimensions turned round, so that the fastest
        is the last.

        Raises:
            InputError: it is of another type, or has more dimensions.
        """
        tensor = self._tensor
        kind = GGMLQuantizationType(tensor.type)
        shape, strides = self.sizes, tuple(tensor.nb)[::-1]
        if kind not in _DTYPES or max(shape[:-n_dimensions], default=1) > 1:
            raise InputError(f"llama.cpp: {self.name} is {kind.name} {list(shape)}, which no stage is")
        n_bytes = (
            sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + np.dtype(_DTYPES[kind]).itemsize
        )
        memory = (ctypes.c_char * n_bytes).from_address(tensor.data)
        view: np.ndarray = np.ndarray(shape, _DTYPES[kind], memory, strides=strides)
        wanted = np.int64 if kind == GGMLQuantizationType.I32 else np.float32
        return view.reshape(shape[-n_dimensions:]).astype(wanted, order="C", copy=True)
