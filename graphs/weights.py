"""Weight files: safetensors that many artifacts share, written in one stream and read through a memory map."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx

from .errors import InputError

ALIGNMENT = 64
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A tensor that is made when its turn to be written comes: `make` returns an array of that dtype and shape."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it becomes `path` when the block ends well, and goes when it does not.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as e:
        raise InputError(f"{path}: cannot be written ({e.strerror or e}); choose another place") from e
    finally:
        partial.unlink(missing_ok=True)


def write_safetensors(path: Path, sources: Iterable[TensorSource], metadata: dict[str, str]) -> None:
    """Write the tensors one after the other, so that only one of them is in memory at a time."""
    ordered = sorted(sources, key=lambda source: -source.dtype.itemsize)
    header: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for source in ordered:
        header[source.name] = {
            "dtype": _NAMES[source.dtype],
            "shape": list(source.shape),
            "data_offsets": [offset, offset + source.n_bytes],
        }
        offset += source.n_bytes
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    with written_beside(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for source in ordered:
            array = np.asarray(source.make(), order="C")
            assert (array.dtype, array.shape) == (source.dtype, source.shape), source.name
            file.write(array.reshape(-1).view(np.uint8).data)


class WeightFile:
    """A mapped safetensors file: tensors by name, as views of the map (copy on write, so never changing the file)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size, self._start, header = _read_header(path)
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self._entries = {name: self._checked(name, entry) for name, entry in header.items()}
        self._map = np.memmap(path, mode="c") if self._size else np.empty(0, np.uint8)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __getitem__(self, name: str) -> np.ndarray:
        dtype, shape, begin, end = self._entries[name]
        return np.asarray(self._map[begin:end]).view(dtype).reshape(shape)

    def elem_type(self, name: str) -> int:
        """ONNX's number of the tensor's type."""
        return int(onnx.helper.np_dtype_to_tensor_dtype(self._entries[name][0]))

    def location(self, name: str) -> tuple[int, int]:
        """Offset in the file and length, in bytes."""
        _, _, begin, end = self._entries[name]
        return begin, end - begin

    def _checked(self, name: str, entry: object) -> tuple[np.dtype, tuple[int, ...], int, int]:
        try:
            dtype = _DTYPES[entry["dtype"]]  # type: ignore[index]
            shape = tuple(int(n) for n in entry["shape"])  # type: ignore[index]
            begin, end = (self._start + int(n) for n in entry["data_offsets"])  # type: ignore[index]
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise InputError(f"{self.path}: the entry of tensor {name} is not valid ({e}); write the file anew") from e
        fits = self._start <= begin <= end <= self._size and min(shape, default=0) >= 0
        if not fits or end - begin != math.prod(shape) * dtype.itemsize:
            raise InputError(f"{self.path}: tensor {name} reaches outside the file; it is cut short or damaged")
        return dtype, shape, begin, end


def _read_header(path: Path) -> tuple[int, int, dict]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, 1 << 28):
                raise InputError(f"{path}: not a safetensors file, or cut short; write it anew")
            header = json.loads(file.read(length))
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from e
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: not a safetensors file (its header is no JSON); write it anew") from e
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise InputError(f"{path}: not a safetensors file (its header is no table); write it anew")
    return size, 8 + length, header
