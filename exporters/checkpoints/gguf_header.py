"""What a GGUF file says before its tensor data: metadata fields, and where each tensor lies.

gguf's own `GGUFReader` makes an array of every token of the vocabulary (4 s for 49 152 tokens, where this walk takes
0.1 s) and trusts every count in the file; here no number is believed before it is compared with the file's size.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType

from ...graphs.errors import InputError

Value = int | float | bool | str | np.ndarray | tuple[str, ...]

_SCALARS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "|b1",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}
_LONGEST_KEY, _LONGEST_TENSOR_NAME, _MOST_DIMENSIONS = 65_535, 64, 4  # the GGUF specification's limits
_DAMAGED = "the file is damaged: download or convert it again"


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where one tensor lies: shape in numpy order ([out, in]), offset in bytes from the start of the file."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """The metadata (numbers, strings, arrays of them), the byte at which it ends, and the tensors' places, in the file's order."""

    fields: Mapping[str, Value]
    fields_end: int
    tensors: Mapping[str, TensorPlace]


def quoted(text: str) -> str:
    """A name that came out of a file, fit for one line of an error message."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def read_header(data: memoryview) -> Header:
    """Read and check everything in front of the tensor data, and that all tensor data is there.

    Args:
        data: the bytes of the whole file (a memory map: only the header's pages are touched).
    Raises:
        InputError: not GGUF, big-endian, another version, cut short, damaged. The message does not name the file.
    Source: the GGUF specification (ggml, docs/gguf.md), versions 2 and 3; contiguity as llama.cpp demands it.
    """
    cursor = _Cursor(data)
    _check_start(cursor)
    n_tensors, n_fields = cursor.u64(), cursor.u64()
    fields: dict[str, Value] = {}
    for _ in range(n_fields):
        key = cursor.text(_LONGEST_KEY, "a metadata key")
        if key in fields:
            raise InputError(f"metadata key {quoted(key)} stands there twice; {_DAMAGED}")
        fields[key] = _read_value(cursor, key)
    fields_end = cursor.at
    alignment = _alignment(fields)
    relative: dict[str, TensorPlace] = {}
    for _ in range(n_tensors):
        place = _read_place(cursor)
        if place.name in relative:
            raise InputError(f"tensor {quoted(place.name)} stands there twice; {_DAMAGED}")
        relative[place.name] = place
    return Header(fields, fields_end, _place(relative, _round_up(cursor.at, alignment), alignment, len(data)))


class _Cursor:
    """Reads little-endian values one after the other, and never past the end."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def take(self, n_bytes: int) -> memoryview:
        start, end = self.at, self.at + n_bytes
        if end > len(self.data):
            raise InputError(
                f"cut short or damaged: the header asks for {n_bytes} bytes at byte {start}, and the file ends at "
                f"{len(self.data)}; download or copy it again"
            )
        self.at = end
        return self.data[start:end]

    def u32(self) -> int:
        return int(struct.unpack("<I", self.take(4))[0])

    def u64(self) -> int:
        return int(struct.unpack("<Q", self.take(8))[0])

    def text(self, longest: int, what: str) -> str:
        n_bytes = self.u64()
        if n_bytes > longest:
            raise InputError(f"{what} of {n_bytes} bytes at byte {self.at - 8} (at most {longest}); {_DAMAGED}")
        try:
            return str(self.take(n_bytes), "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{what} before byte {self.at} is not UTF-8; {_DAMAGED}") from error


def _check_start(cursor: _Cursor) -> None:
    magic = bytes(cursor.data[:4])
    if magic != b"GGUF":
        raise InputError(f"not a GGUF file (it begins with {magic!r}); give a .gguf checkpoint")
    cursor.take(4)
    version = cursor.u32()
    if version and version & 0xFFFF == 0:
        raise InputError("a big-endian GGUF, which cannot be read here; convert it to little-endian")
    if version not in (2, 3):
        raise InputError(f"GGUF version {version} (2 and 3 are known); convert the checkpoint again")


def _read_value(cursor: _Cursor, key: str) -> Value:
    kind = _value_type(cursor.u32(), key)
    if kind == GGUFValueType.STRING:
        return cursor.text(len(cursor.data), f"the value of {quoted(key)}")
    if kind == GGUFValueType.ARRAY:
        return _read_array(cursor, key)
    dtype = np.dtype(_SCALARS[kind])
    return np.frombuffer(cursor.take(dtype.itemsize), dtype)[0].item()


def _read_array(cursor: _Cursor, key: str) -> Value:
    kind, n_items = _value_type(cursor.u32(), key), cursor.u64()
    if kind == GGUFValueType.ARRAY:
        raise InputError(f"metadata {quoted(key)} is an array of arrays, which no known checkpoint has; {_DAMAGED}")
    if kind == GGUFValueType.STRING:  # tokens need not be UTF-8: surrogates keep their bytes
        strings: list[str] = []
        for _ in range(n_items):
            strings.append(str(cursor.take(cursor.u64()), "utf-8", "surrogateescape"))
        return tuple(strings)
    dtype = np.dtype(_SCALARS[kind])
    return np.frombuffer(bytes(cursor.take(n_items * dtype.itemsize)), dtype)


def _value_type(number: int, key: str) -> GGUFValueType:
    try:
        return GGUFValueType(number)
    except ValueError as error:
        raise InputError(f"metadata {quoted(key)} has the unknown value type {number}; {_DAMAGED}") from error


def _alignment(fields: Mapping[str, Value]) -> int:
    alignment = fields.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
        raise InputError(f"general.alignment is {alignment!r:.80}, not a power of two from 8 on; {_DAMAGED}")
    return alignment


def _read_place(cursor: _Cursor) -> TensorPlace:
    """One entry of the tensor table; its offset still counts from the start of the tensor data."""
    name = cursor.text(_LONGEST_TENSOR_NAME, "a tensor name")
    n_dimensions = cursor.u32()
    if not 1 <= n_dimensions <= _MOST_DIMENSIONS:
        raise InputError(f"tensor {quoted(name)} has {n_dimensions} dimensions (1 to 4 are possible); {_DAMAGED}")
    shape = tuple(cursor.u64() for _ in range(n_dimensions))[::-1]  # the file has the innermost first
    kind = _tensor_type(cursor.u32(), name)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if 0 in shape or shape[-1] % block:
        raise InputError(
            f"tensor {quoted(name)} of shape {shape} does not fit {kind.name} blocks of {block}; {_DAMAGED}"
        )
    return TensorPlace(name, shape, kind, cursor.u64(), math.prod(shape) // block * block_bytes)


def _tensor_type(number: int, name: str) -> GGMLQuantizationType:
    try:
        return GGMLQuantizationType(number)
    except ValueError as error:
        raise InputError(
            f"tensor {quoted(name)} has the unknown type {number}; update the gguf package or requantise the file"
        ) from error


def _place(relative: Mapping[str, TensorPlace], start: int, alignment: int, size: int) -> dict[str, TensorPlace]:
    """Offsets from the start of the file; every tensor follows the one before it, and the last one ends the file."""
    places, expected = {}, 0
    for name, place in relative.items():
        if place.offset != expected:
            raise InputError(f"tensor {quoted(name)} is at {place.offset}, where {expected} is its turn; {_DAMAGED}")
        offset = start + place.offset
        if offset + place.n_bytes > size:
            raise InputError(
                f"cut short: tensor {quoted(name)} needs bytes {offset} to {offset + place.n_bytes}, and the file ends "
                f"at {size}; download or copy it again"
            )
        places[name] = TensorPlace(name, place.shape, place.kind, offset, place.n_bytes)
        expected = _round_up(place.offset + place.n_bytes, alignment)
    if size >= start + expected + alignment:
        raise InputError(f"{size - start - expected} bytes follow that the header does not describe; {_DAMAGED}")
    return places


def _round_up(number: int, alignment: int) -> int:
    return -(-number // alignment) * alignment
