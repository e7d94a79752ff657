"""A GGUF checkpoint: its configuration at once, its tensors when they are asked for."""

import hashlib
import mmap
from functools import cached_property
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

from ...graphs.errors import InputError
from .config import DecoderConfig, read_config
from .gguf_header import Header, TensorPlace, Value, quoted, read_header

_Q8_0_BLOCK = 32


class Checkpoint:
    """The weights of one decoder in a memory-mapped GGUF file, under GGUF's own names (`blk.0.attn_q.weight`).

    The file must stay as it is while a checkpoint on it is open; replacing it by a rename is harmless.

    Raises:
        InputError: the file is missing, foreign, cut short or damaged, or not a decoder that `read_config` knows.
    """

    path: Path
    config: DecoderConfig

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._bytes = _map_file(self.path)
        try:
            self._header: Header = read_header(memoryview(self._bytes))
            self.config = read_config(self._header.fields, {n: t.shape for n, t in self._header.tensors.items()})
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file's bytes, in hexadecimal; computed at the first call."""
        return hashlib.sha256(self._bytes).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor's name, in the file's order."""
        return tuple(self._header.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._header.tensors

    def metadata(self, key: str) -> Value | None:
        """A metadata value: a number, a string, a tuple of strings, or a numeric array; None where there is none."""
        return self._header.fields.get(key)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape in numpy order, [out, in] for a linear layer. Raises InputError for an unknown name."""
        return self._place(name).shape

    def quantisation(self, name: str) -> str:
        """How the tensor is stored: "F32", "BF16", "Q4_1", ... Raises InputError for an unknown name."""
        return self._place(name).kind.name

    def tensor(self, name: str) -> np.ndarray:
        """The tensor as float32 in C order, [out, in].

        An F32 tensor is a read-only view of the file; any other one is dequantised anew, into memory of its own.

        Raises:
            InputError: an unknown name, or a storage type that gguf cannot dequantise.
        Source: gguf.quants, which agrees with ggml bit for bit.
        """
        place = self._place(name)
        if place.kind == GGMLQuantizationType.F32:
            return self._stored(place).view("<f4").reshape(place.shape)
        try:
            values = dequantize(self._blocks(place), place.kind)
        except NotImplementedError as error:
            raise InputError(
                f"{self.path}: tensor {quoted(name)} is stored as {place.kind.name}, which cannot be read as float32; "
                "requantise the checkpoint"
            ) from error
        return np.ascontiguousarray(values, np.float32)

    def q8_0(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The tensor in Q8_0, whose product is gguf's dequantisation bit for bit.

        A tensor stored in Q8_0 gives its own blocks; any other one is quantised to Q8_0 from its float32 values.

        Returns:
            int8 [out, in], and float32 scales [out, in/32]: one for each 32 values of a row.
        Raises:
            InputError: an unknown name, a row length that is no multiple of 32, or values without finite scales.
        Source: ggml's block_q8_0: a float16 scale, then 32 int8.
        """
        place = self._place(name)
        if place.shape[-1] % _Q8_0_BLOCK:
            raise InputError(
                f"{self.path}: tensor {quoted(name)} has rows of {place.shape[-1]}, not a multiple of 32, so it cannot "
                "be Q8_0; keep it in float32"
            )
        stored = place.kind == GGMLQuantizationType.Q8_0
        rows = self._blocks(place) if stored else _to_q8_0(self.tensor(name))
        blocks = rows.reshape(-1, 2 + _Q8_0_BLOCK)
        scales = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
        if not np.isfinite(scales).all():
            raise InputError(
                f"{self.path}: tensor {quoted(name)} has NaN, Inf or too large values for Q8_0; keep it in float32"
            )
        values = np.ascontiguousarray(blocks[:, 2:]).view(np.int8)
        return values.reshape(place.shape), scales.reshape(*place.shape[:-1], -1)

    def plain_location(self, name: str) -> tuple[int, int] | None:
        """Where an F32 tensor lies in the file: (offset, length) in bytes; None for any other storage."""
        place = self._place(name)
        return (place.offset, place.n_bytes) if place.kind == GGMLQuantizationType.F32 else None

    def _place(self, name: str) -> TensorPlace:
        try:
            return self._header.tensors[name]
        except KeyError as error:
            raise InputError(f"{self.path}: no tensor {quoted(name)}; `names` lists those that it has") from error

    def _stored(self, place: TensorPlace) -> np.ndarray:
        return np.frombuffer(self._bytes, np.uint8, place.n_bytes, place.offset)

    def _blocks(self, place: TensorPlace) -> np.ndarray:
        """The stored bytes, a row of the tensor to a row: uint8 [out, bytes of a row]."""
        block, block_bytes = GGML_QUANT_SIZES[place.kind]
        return self._stored(place).reshape(*place.shape[:-1], place.shape[-1] // block * block_bytes)


def _to_q8_0(values: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):  # NaN and overflow are found in the scales
        return quantize(values, GGMLQuantizationType.Q8_0)


def _map_file(path: Path) -> mmap.mmap:
    """The file's bytes, read-only and memory-mapped."""
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file; give the path of a .gguf checkpoint")
        if not path.is_file():
            raise InputError(f"{path}: not a regular file; give the path of a .gguf checkpoint")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty; download or copy it again")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r}: cannot be opened ({error}); check the path and its permissions") from error
