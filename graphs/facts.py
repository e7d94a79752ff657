"""What an exporter or a tracer wrote down beside the values: texts by name, in the file itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .artifact import read_model
from .tensor_files import read_tensors
from .weights import inside

_KEY = "opdiff."
TOKENIZER = "tokenizer"  # names the file of a model's tokenizer, in the same folder


def facts_of(path: Path) -> dict[str, str]:
    """The facts of an .onnx file or of a file of tensors; none of one that opdiff did not write.

    Raises:
        InputError: it cannot be read.
    """
    texts = (
        {p.key: p.value for p in read_model(path)[0].metadata_props}
        if path.suffix == ".onnx"
        else read_tensors(path).texts
    )
    return {key.removeprefix(_KEY): text for key, text in texts.items() if key.startswith(_KEY)}


def tokenizer_named(path: Path, facts: Mapping[str, str]) -> Path | None:
    """The file beside `path` that holds its model's tokenizer; None where it names none, or it is gone.

    Raises:
        InputError: it lies outside of the folder.
    """
    if TOKENIZER not in facts:
        return None
    file = inside(path, facts[TOKENIZER], f"{path}: its tokenizer")
    return file if file.is_file() else None
