"""Files of named tensors, as other programs write them: safetensors, npz and GGUF. Nothing in them is run or unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError  # numpy's reader of a header raises it

import numpy as np

from .errors import InputError, damaged
from .weights import WeightFile

_UNPACKED, _TIMES = 1 << 30, 50  # bytes that any .npz may have, and how many times its own size


@dataclass(frozen=True, slots=True)
class TensorFile:
    """The tensors of a file by name, and the texts that its header holds."""

    tensors: Mapping[str, np.ndarray] = field(repr=False)
    texts: Mapping[str, str]


def read_tensors(path: Path) -> TensorFile:
    """The tensors of a .safetensors, .npz or .gguf file; those of safetensors and GGUF are views of the mapped file.

    Raises:
        InputError: no such file, another ending, or a file that is damaged, cut short or holds Python objects.
    """
    reader = {".safetensors": _safetensors, ".npz": _npz, ".gguf": _gguf}.get(path.suffix)
    if reader is None:
        raise InputError(f"{path}: not a file of tensors; give a .safetensors, .npz or .gguf file")
    if not path.is_file():
        raise InputError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; give the path of a tensor file")
    return reader(path)


def _gguf(path: Path) -> TensorFile:
    from .gguf_tensors import read_gguf  # with gguf, for which no comparison of graphs need wait

    return TensorFile(*read_gguf(path))


def _safetensors(path: Path) -> TensorFile:
    file = WeightFile(path)
    texts = {str(key): value for key, value in file.metadata.items() if isinstance(value, str)}
    return TensorFile({name: file[name] for name in file}, texts)


def _npz(path: Path) -> TensorFile:
    try:
        _check_is_no_bomb(path)
        with np.load(path, allow_pickle=False) as file:
            return TensorFile({name: np.asarray(file[name]) for name in file.files}, {})
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror or e})") from e
    except (ValueError, TypeError, SyntaxError, EOFError, MemoryError, RuntimeError, AttributeError, TokenError) as e:
        raise damaged(path, "an .npz of plain arrays", e) from e
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as e:
        raise damaged(path, "an .npz of plain arrays", e) from e


def _check_is_no_bomb(path: Path) -> None:
    """Refuse what would unpack to many times its size: arrays of numbers are packed to a tenth at the best."""
    with zipfile.ZipFile(path) as archive:
        n_bytes = sum(member.file_size for member in archive.infolist())
    if n_bytes > max(_UNPACKED, _TIMES * path.stat().st_size):
        raise InputError(f"{path}: would unpack to {n_bytes >> 20} MB, {_TIMES} times its size or more; write it anew")
