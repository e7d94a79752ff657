"""What every checkpoint offers, whatever kind of file it came in."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize

from ...graphs.errors import InputError
from .gguf_header import Value, quoted

Q8_0_BLOCK = 32
PLAIN = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True, slots=True)
class HfSource:
    """The HF folder that a checkpoint was read from.

    names: for each tensor that the checkpoint gives as it stands there, by its HF name, the checkpoint's own name of it.
    """

    folder: Path
    names: Mapping[str, str]


class Checkpoint(ABC):
    """The configuration and the weights of one decoder, under GGUF's names (`blk.0.attn_q.weight`).

    Those of a family that opdiff's own decoder does not cover keep HF's names, and `config` is then a `Family`.

    Its files must stay as they are while it is open; replacing one by a rename is harmless.

    path: the file or folder that it was read from.
    """

    path: Path
    config: Any  # a DecoderConfig, or a Family

    @property
    def hf(self) -> HfSource | None:
        """The HF folder that it was read from; None where it was read from another file."""
        return None

    @property
    @abstractmethod
    def sha256(self) -> str:
        """The SHA-256 of what it was read from, in hexadecimal; computed at the first call."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Every tensor's name, in the order of the files."""

    def __contains__(self, name: object) -> bool:
        return name in self.names

    @abstractmethod
    def metadata(self, key: str) -> Value | None:
        """A GGUF metadata value: a number, a string, a tuple of strings, or a numeric array; None where there is none."""

    def tokenizer_files(self) -> Mapping[str, bytes]:
        """The files that hold its tokenizer, the one to open first; none where it has none."""
        return {}

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """The shape in numpy order, [out, in] for a linear layer. Raises InputError for an unknown name."""

    @abstractmethod
    def quantisation(self, name: str) -> str:
        """How the tensor is stored: "F32", "BF16", "Q4_1", ... Raises InputError for an unknown name."""

    def dtype(self, name: str) -> np.dtype:
        """The type in which `stored` gives the tensor: its own where that is F32, F16 or BF16, else float32."""
        return PLAIN.get(self.quantisation(name), PLAIN["F32"])

    @abstractmethod
    def stored(self, name: str) -> np.ndarray:
        """The tensor as it is stored, in C order, [out, in]; what is quantised is dequantised to float32.

        It is a view of the file where nothing had to be computed, else a new array.

        Raises:
            InputError: an unknown name, or a storage type that has no float32.
        """

    def tensor(self, name: str) -> np.ndarray:
        """The same as float32: `stored` itself where it is so."""
        return self.stored(name).astype(np.float32, copy=False)

    @abstractmethod
    def place(self, name: str) -> tuple[Path, int] | None:
        """The file, and the offset in it in bytes, at which `stored` lies as it is; None where it had to be computed."""

    def q8_0(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The tensor in Q8_0, whose product is gguf's dequantisation bit for bit.

        A tensor stored in Q8_0 gives its own blocks; any other one is quantised to Q8_0 from its float32 values.

        Returns:
            int8 [out, in], and float32 scales [out, in/32]: one for each 32 values of a row.
        Raises:
            InputError: an unknown name, a row length that is no multiple of 32, or values without finite scales.
        Source: ggml's block_q8_0: a float16 scale, then 32 int8.
        """
        shape = self.shape(name)
        if shape[-1] % Q8_0_BLOCK:
            raise InputError(
                f"{self.path}: tensor {quoted(name)} has rows of {shape[-1]}, not a multiple of 32, so it cannot be "
                "Q8_0; keep it in float32"
            )
        blocks = self._q8_0_blocks(name).reshape(-1, 2 + Q8_0_BLOCK)
        scales = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
        if not np.isfinite(scales).all():
            raise InputError(
                f"{self.path}: tensor {quoted(name)} has NaN, Inf or too large values for Q8_0; keep it in float32"
            )
        values = np.ascontiguousarray(blocks[:, 2:]).view(np.int8)
        return values.reshape(shape), scales.reshape(*shape[:-1], -1)

    def _q8_0_blocks(self, name: str) -> np.ndarray:
        with np.errstate(all="ignore"):  # NaN and overflow are found in the scales
            return quantize(self.tensor(name), GGMLQuantizationType.Q8_0)

    def mins(self, name: str) -> np.ndarray:
        """What a tensor in Q4_1 or Q5_1 adds to each block's quants: float32 [out, in/32], one for each 32 of a row.

        Raises:
            InputError: an unknown name, or a tensor that is stored in another way.
        """
        raise InputError(f"{self.path}: tensor {quoted(name)} is stored as {self.quantisation(name)}, without minimums")
