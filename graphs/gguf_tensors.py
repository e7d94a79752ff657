"""The tensors of a GGUF file, by gguf's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType

from .errors import InputError, damaged

_PLAIN = {kind.name for kind in GGMLQuantizationType if kind.name in ("F64", "F32", "F16", "I64", "I32", "I16", "I8")}


def read_gguf(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a GGUF file that are plain numbers, as views of the mapped file, and its texts.

    Raises:
        InputError: a file that cannot be read, or a tensor of packed numbers.
    """
    try:
        file = _BoundedReader(path)
        texts = {name: f.contents() for name, f in file.fields.items() if f.types == [GGUFValueType.STRING]}
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror or e})") from e
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, MemoryError) as e:
        raise damaged(path, "a GGUF file", e) from e
    for tensor in file.tensors:
        if tensor.tensor_type.name not in _PLAIN | {"BF16"}:
            kind = tensor.tensor_type.name
            raise InputError(f"{path}: tensor {tensor.name} is stored as {kind}, which is no number; write it as F32")
    return {tensor.name: _values(tensor) for tensor in file.tensors}, texts


class _BoundedReader(GGUFReader):
    """gguf's reader, which believes every count in the file, held to the bytes that there are."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        if end > self.data.size:
            raise ValueError(f"its header asks for byte {end}, and it has {self.data.size}")
        return super()._get(int(offset), dtype, count, override_order)


def _values(tensor: Any) -> np.ndarray:
    if tensor.tensor_type != GGMLQuantizationType.BF16:
        return np.asarray(tensor.data)
    import ml_dtypes

    return np.asarray(tensor.data).view(ml_dtypes.bfloat16)
