"""A model's tokenizer by its path, whatever kind of model it is."""

import mmap
from os.path import exists  # Path's own raises where a name is too long
from pathlib import Path

from ...graphs.errors import InputError
from ..checkpoints import Checkpoint
from ..checkpoints.gguf_header import Value, read_header
from .byte_level import ByteLevelTokenizer
from .special_tokens import Metadata
from .tokenizer import Tokenizer
from .tokenizer_json import JsonTokenizer
from .vocabulary import read_vocabulary


def open_tokenizer(model: Path | Checkpoint) -> Tokenizer:
    """Open a model's tokenizer.

    Args:
        model: the path of a GGUF file (a vocabulary-only one will do), of a folder with a tokenizer.json, of a file in
            such a folder; or an open checkpoint.
    Raises:
        InputError: the path is missing or of another kind, the file is damaged, its tokenizer is not one that is
            supported, or the tokenizers package is not installed.
    """
    path = model.path if isinstance(model, Checkpoint) else model
    if not exists(path):
        raise InputError(f"{path}: no such file; give a GGUF file, or a folder with a tokenizer.json")
    if path.is_dir() or path.suffix in (".json", ".safetensors"):
        return JsonTokenizer(_beside(path))
    metadata: Metadata = model.metadata if isinstance(model, Checkpoint) else _header(path).get
    try:
        vocabulary = read_vocabulary(metadata)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return ByteLevelTokenizer(str(path), vocabulary)


def _beside(path: Path) -> Path:
    """The tokenizer.json that belongs to a path: the path itself, in the folder, or beside the file."""
    if path.is_dir():
        return path / "tokenizer.json"
    return path if path.name.endswith("tokenizer.json") else path.with_name("tokenizer.json")


def _header(path: Path) -> dict[str, Value]:
    """A GGUF's metadata; the file need not be a decoder, nor have any tensor."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return dict(read_header(memoryview(data)).fields)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise InputError(f"{path}: cannot be opened ({error}); give a GGUF file that can be read") from error
