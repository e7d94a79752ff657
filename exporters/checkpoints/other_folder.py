"""A checkpoint in an HF folder of a family that opdiff's own decoder does not cover: transformers alone runs it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...graphs.errors import InputError
from .checkpoint import PLAIN, Checkpoint, HfSource
from .gguf_header import quoted
from .hf_files import CONFIG, HfFiles

_KINDS = {dtype: kind for kind, dtype in PLAIN.items()}


@dataclass(frozen=True, slots=True)
class Family:
    """What is known of a decoder that only transformers runs.

    refusal: why opdiff's own decoder does not, in words.
    """

    model_type: str
    n_blocks: int
    vocab_size: int
    context_length: int
    refusal: str
    tied_head = False  # nothing of its blocks and its head is known here
    has_equal_blocks = False

    def to_json(self) -> str:
        """What a report shows and tokens are checked by; no convention of the catalogue has a standard value for it."""
        return json.dumps({"architecture": self.model_type, "n_blocks": self.n_blocks, "vocab_size": self.vocab_size})


class OtherFolder(Checkpoint):
    """The tensors of the folder's safetensors under their own names; those that hold no floats are left out.

    Args:
        refusal: why opdiff's own decoder does not cover it.
    Raises:
        InputError: it is quantised, or asks for code that is not transformers' own.
    """

    def __init__(self, files: HfFiles, refusal: str) -> None:
        self.path, self._files, self._refusal = files.path, files, refusal
        if files.fields.get("quantization_config"):
            raise InputError(f"{self.path}: {refusal}")
        self._names = tuple(name for name, place in files.places.items() if place[name].dtype in _KINDS)

    @cached_property
    def config(self) -> Family:
        """What transformers makes of config.json; where it cannot, as of a family of one's own, what stands there."""
        try:
            read = read_config(self.path).get_text_config(decoder=True)
        except InputError:
            read = SimpleNamespace(**self._files.fields)
        return Family(
            model_type=str(getattr(read, "model_type", "unknown")),
            n_blocks=_count(read, "num_hidden_layers", 1),
            vocab_size=_count(read, "vocab_size", 1),
            context_length=_count(read, "max_position_embeddings", 1 << 31),
            refusal=self._refusal,
        )

    @property
    def sha256(self) -> str:
        return self._files.sha256

    @property
    def hf(self) -> HfSource:
        return HfSource(self.path, {name: name for name in self._names})

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def metadata(self, key: str) -> None:
        """None: an HF folder has no GGUF metadata."""

    def tokenizer_files(self) -> Mapping[str, bytes]:
        return self._files.tokenizer_files()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.stored(name).shape

    def quantisation(self, name: str) -> str:
        return _KINDS[self.stored(name).dtype]

    def stored(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise InputError(f"{self.path}: no tensor {quoted(name)}; `names` lists those that it has")
        return self._files.places[name][name]

    def place(self, name: str) -> tuple[Path, int]:
        file = self._files.places[name]
        return file.path, file.location(name)[0]


def _count(config: Any, key: str, default: int) -> int:
    value = getattr(config, key, None)
    return value if isinstance(value, int) else default


def read_config(folder: Path) -> Any:
    """transformers' own configuration of an HF folder; code that the folder brings along is never run.

    Raises:
        InputError: transformers is not installed, does not know the family, or cannot read config.json.
    """
    try:
        import transformers
    except ImportError as e:
        raise InputError(f"{folder}: transformers is not installed, which reads it; pip install 'opdiff[hf]'") from e
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as e:  # whatever a configuration's own checks raise
        text = shorten(str(e), 200, placeholder=" ...")
        raise InputError(f"{folder / CONFIG}: transformers cannot read it ({text}); correct it") from e
