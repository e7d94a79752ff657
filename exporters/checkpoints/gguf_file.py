"""A GGUF checkpoint: its configuration at once, its tensors when they are asked for."""

import hashlib
import mmap
import struct
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from ...graphs.errors import InputError
from .checkpoint import PLAIN, Checkpoint
from .gguf_config import read_config
from .gguf_header import Header, TensorPlace, Value, quoted, read_header
from .splitting import parts_of

STORED_WITH_MINS = ("Q4_1", "Q5_1")


class GgufFile(Checkpoint):
    """The weights of one decoder in a memory-mapped GGUF file.

    Raises:
        InputError: the file is missing, foreign, cut short or damaged, or not a decoder that `read_config` knows.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._bytes = _map_file(self.path)
        try:
            self._header: Header = read_header(memoryview(self._bytes))
            shapes = {name: place.shape for name, place in self._header.tensors.items()}
            self.config = read_config(self._header.fields, shapes)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error
        self._places = {
            name: _rows_of(self._header.tensors[part.of], name, part.rows)
            for stored, shape in shapes.items()
            for name, part in parts_of(self.config, stored, shape)
        }

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self._bytes).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._places)

    def metadata(self, key: str) -> Value | None:
        return self._header.fields.get(key)

    def tokenizer_files(self) -> Mapping[str, bytes]:
        """The file without its tensors, where it has a vocabulary."""
        if "tokenizer.ggml.tokens" not in self._header.fields:
            return {}
        magic, _, n_fields = (self._bytes[start:end] for start, end in ((0, 8), (8, 16), (16, 24)))
        fields = self._bytes[24 : self._header.fields_end]
        return {"tokenizer.gguf": magic + struct.pack("<Q", 0) + n_fields + fields}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._place(name).shape

    def quantisation(self, name: str) -> str:
        return self._place(name).kind.name

    def stored(self, name: str) -> np.ndarray:
        """As every checkpoint's; a view of the file is read-only.

        Source: gguf.quants, which agrees with ggml bit for bit.
        """
        place = self._place(name)
        if place.kind.name in PLAIN:
            return self._stored(place).view(PLAIN[place.kind.name]).reshape(place.shape)
        try:
            with np.errstate(all="ignore"):  # blocks may hold any bytes
                values = dequantize(self._blocks(place), place.kind)
        except NotImplementedError as error:
            raise InputError(
                f"{self.path}: tensor {quoted(name)} is stored as {place.kind.name}, which cannot be read as float32; "
                "requantise the checkpoint"
            ) from error
        return np.ascontiguousarray(values, np.float32)

    def _q8_0_blocks(self, name: str) -> np.ndarray:
        place = self._place(name)
        return self._blocks(place) if place.kind == GGMLQuantizationType.Q8_0 else super()._q8_0_blocks(name)

    def mins(self, name: str) -> np.ndarray:
        """As every checkpoint's. Source: ggml's block_q4_1 and block_q5_1: a float16 scale, a float16 minimum, the quants."""
        if self.quantisation(name) not in STORED_WITH_MINS:
            return super().mins(name)
        place = self._place(name)
        blocks = self._blocks(place).reshape(-1, GGML_QUANT_SIZES[place.kind][1])
        values = np.ascontiguousarray(blocks[:, 2:4]).view("<f2").astype(np.float32)
        return values.reshape(*place.shape[:-1], -1)

    def place(self, name: str) -> tuple[Path, int] | None:
        place = self._place(name)
        return (self.path, place.offset) if place.kind.name in PLAIN else None

    def _place(self, name: str) -> TensorPlace:
        try:
            return self._places[name]
        except KeyError as error:
            raise InputError(f"{self.path}: no tensor {quoted(name)}; `names` lists those that it has") from error

    def _stored(self, place: TensorPlace) -> np.ndarray:
        return np.frombuffer(self._bytes, np.uint8, place.n_bytes, place.offset)

    def _blocks(self, place: TensorPlace) -> np.ndarray:
        """The stored bytes, a row of the tensor to a row: uint8 [out, bytes of a row]."""
        block, block_bytes = GGML_QUANT_SIZES[place.kind]
        return self._stored(place).reshape(*place.shape[:-1], place.shape[-1] // block * block_bytes)


def _rows_of(place: TensorPlace, name: str, rows: tuple[int, int] | None) -> TensorPlace:
    """Where some rows of a tensor lie; None: all."""
    if rows is None:
        return replace(place, name=name)
    row_bytes = place.n_bytes // place.shape[0]
    start, end = rows
    return TensorPlace(
        name, (end - start, *place.shape[1:]), place.kind, place.offset + start * row_bytes, (end - start) * row_bytes
    )


def _map_file(path: Path) -> mmap.mmap:
    """The file's bytes, read-only and memory-mapped."""
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file; give the path of a .gguf checkpoint or of an HF folder")
        if not path.is_file():
            raise InputError(f"{path}: not a regular file; give the path of a .gguf checkpoint or of an HF folder")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty; download or copy it again")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r}: cannot be opened ({error}); check the path and its permissions") from error
