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
from .leftovers import file_beside
from .reading import is_regular

ALIGNMENT = 64
LINKED = "linked"  # the weight file's fact: which tensors lie in files beside it, as {file: {name: entry}}
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


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies: `begin` and `end` are bytes of its file."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def entry_of(dtype: np.dtype, shape: tuple[int, ...], offset: int) -> dict[str, object]:
    """A tensor as safetensors headers, and lists of linked tensors, describe it."""
    n_bytes = math.prod(shape) * dtype.itemsize
    return {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + n_bytes]}


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it becomes `path` when the block ends well, and goes when it does not.

    Neither a killed process nor a power cut leaves `path` half-written: what was written is on the disk before it is renamed.

    Raises:
        InputError: the folder cannot be written to, the disk is full, or `path` is no file.
    """
    try:
        _check_is_file(path)
        with file_beside(path) as partial:
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    except OSError as e:
        raise InputError(f"{path}: cannot be written ({e.strerror or e}); choose another place") from e


def check_folder(path: Path) -> None:
    """See to it, before a long run and not after it, that the file can be written.

    Raises:
        InputError: its folder is not there, or takes no files; there is something else of its name.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no such folder; make it, or choose another place")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: its folder cannot be written to; choose another place")
    _check_is_file(path)


def _check_is_file(path: Path) -> None:
    """A device or a pipe would be replaced by a file."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: a folder or a device; choose a file")


def write_safetensors(path: Path, sources: Iterable[TensorSource], metadata: dict[str, str]) -> None:
    """Write the tensors one after the other, so that only one of them is in memory at a time."""
    ordered = sorted(sources, key=lambda source: -source.dtype.itemsize)
    header: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for source in ordered:
        header[source.name] = entry_of(source.dtype, source.shape, offset)
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
        size, start, header = _read_header(path)
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self._entries = {name: _placed(path, name, entry, start, size) for name, entry in header.items()}
        self._maps: dict[Path, np.ndarray] = {path: np.memmap(path, mode="c")}

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __getitem__(self, name: str) -> np.ndarray:
        place = self._entries[name]
        return np.asarray(self._maps[place.path][place.begin : place.end]).view(place.dtype).reshape(place.shape)

    def elem_type(self, name: str) -> int:
        """ONNX's number of the tensor's type."""
        return int(onnx.helper.np_dtype_to_tensor_dtype(self._entries[name].dtype))

    def location(self, name: str) -> tuple[int, int]:
        """Offset in the file and length, in bytes."""
        place = self._entries[name]
        return place.begin, place.end - place.begin

    def file_of(self, name: str) -> Path:
        """The file in which the tensor lies."""
        return self._entries[name].path


class SharedWeights(WeightFile):
    """The weights that the graphs of a folder share: a weight file, and the tensors that it lists in files beside it.

    Such a file is a checkpoint, linked, whose tensors are read where they lie.

    Raises:
        InputError: as for any weight file; a listed file is missing, cut short or outside of the folder.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            listed = json.loads(self.metadata.get(LINKED, "{}"))
            entries = [(str(file), name, entry) for file, held in listed.items() for name, entry in held.items()]
        except (ValueError, TypeError, AttributeError, RecursionError) as e:
            raise InputError(f"{path}: its list of linked tensors cannot be read; write the file anew") from e
        for file in {file for file, _, _ in entries}:
            self._maps[path.parent / file] = _mapped(inside(path, file, f"{path}: linked checkpoint"))
        for file, name, entry in entries:
            place = path.parent / file
            self._entries[name] = _placed(place, name, entry, 0, self._maps[place].size)

    @property
    def linked(self) -> bool:
        """Whether some tensors lie in other files."""
        return len(self._maps) > 1


def inside(path: Path, location: str, where: str) -> Path:
    """A file that another one names, which must lie in that one's own folder.

    Raises:
        InputError: it does not.
    """
    folder = path.resolve().parent
    try:
        file = (folder / location).resolve()
    except (ValueError, OSError, RuntimeError) as e:  # RuntimeError: links in a circle
        raise InputError(f"{where}: its file's name {location!r:.80} is none; export it again") from e
    if not location or not file.is_relative_to(folder):
        raise InputError(f"{where}: its data points outside of the folder ({location!r}), which is refused")
    return file


def _mapped(file: Path) -> np.ndarray:
    if not is_regular(file):
        raise InputError(f"{file}: not there, or no file; graphs beside it read their weights from it")
    try:
        return np.memmap(file, mode="c")
    except (OSError, ValueError) as e:
        raise InputError(f"{file}: cannot be read; graphs beside it read their weights from it") from e


def _placed(path: Path, name: str, entry: object, start: int, size: int) -> _Place:
    """The checked place of a tensor, whose offsets count from `start`, in a file of `size` bytes."""
    try:
        dtype = _DTYPES[entry["dtype"]]  # type: ignore[index]
        shape = tuple(int(n) for n in entry["shape"])  # type: ignore[index]
        begin, end = (start + int(n) for n in entry["data_offsets"])  # type: ignore[index]
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise InputError(f"{path}: the entry of tensor {name} is not valid ({e}); write the file anew") from e
    fits = start <= begin <= end <= size and min(shape, default=0) >= 0
    if not fits or end - begin != math.prod(shape) * dtype.itemsize:
        raise InputError(f"{path}: tensor {name} reaches outside the file; it is cut short or damaged")
    return _Place(path, dtype, shape, begin, end)


def _read_header(path: Path) -> tuple[int, int, dict]:
    if not is_regular(path):
        raise InputError(f"{path}: not there, or no file; give the path of a safetensors file")
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
