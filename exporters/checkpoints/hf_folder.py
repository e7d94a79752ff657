"""A checkpoint in an HF folder, of a family that opdiff's own decoder covers, under GGUF's names."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...graphs.errors import InputError
from .checkpoint import PLAIN, Checkpoint, HfSource
from .gguf_header import quoted
from .hf_config import read_hf_config
from .hf_files import CONFIG, HfFiles
from .hf_tensors import Recipe, recipes
from .shapes import check_tensors

_KINDS = {dtype: kind for kind, dtype in PLAIN.items()}
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


class HfFolder(Checkpoint):
    """The weights of one decoder in a folder.

    They come as GGUF has them: a `llama` decoder's rows of attn_q and attn_k with the two channels of a RoPE pair side by side,
    fused projections split, experts stacked.

    Raises:
        InputError: it holds no decoder that `read_hf_config` knows, or not all of one.
    """

    def __init__(self, files: HfFiles) -> None:
        self.path, self._files, self._places = files.path, files, dict(files.places)
        try:
            self.config = read_hf_config(files.fields, tied_head=_HEAD not in self._places, files=self._places)
            self._drop_copy_of_the_embedding()
            self._recipes = recipes(self.config, {name: file[name].shape for name, file in self._places.items()})
            check_tensors(self.config, {name: self.shape(name) for name in self._recipes})
        except InputError as error:
            raise type(error)(f"{self.path}: {error}") from error

    @property
    def sha256(self) -> str:
        return self._files.sha256

    @property
    def hf(self) -> HfSource:
        as_stored = {name: recipe for name, recipe in self._recipes.items() if recipe.is_as_stored}
        return HfSource(self.path, {recipe.sources[0]: name for name, recipe in as_stored.items()})

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._recipes)

    def metadata(self, key: str) -> None:
        """None: an HF folder has no GGUF metadata."""

    def tokenizer_files(self) -> Mapping[str, bytes]:
        return self._files.tokenizer_files()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._recipe(name).shape(lambda source: self._places[source][source].shape)

    def quantisation(self, name: str) -> str:
        recipe = self._recipe(name)
        dtype = self._places[recipe.sources[0]][recipe.sources[0]].dtype
        return "F32" if recipe.plus_one else _KINDS.get(dtype, str(dtype))

    def stored(self, name: str) -> np.ndarray:
        kind = self.quantisation(name)
        if kind not in PLAIN:
            raise InputError(f"{self.path}: tensor {quoted(name)} holds {kind}, no float; use another checkpoint")
        return self._recipe(name).values(lambda source: self._places[source][source])

    def place(self, name: str) -> tuple[Path, int] | None:
        recipe = self._recipe(name)
        source, row = recipe.sources[0], recipe.first_row
        values = self._places[source][source]
        if values.dtype not in _KINDS or row is None:
            return None
        row_bytes = values.nbytes // len(values)
        return self._places[source].path, self._places[source].location(source)[0] + row * row_bytes

    def _recipe(self, name: str) -> Recipe:
        try:
            return self._recipes[name]
        except KeyError as error:
            raise InputError(f"{self.path}: no tensor {quoted(name)}; `names` lists those that it has") from error

    def _drop_copy_of_the_embedding(self) -> None:
        """Some tied checkpoints hold the head a second time; where it is another one, readers do not agree on it."""
        if not self.config.tied_head or _HEAD not in self._places or _EMBEDDING not in self._places:
            return
        head, embedding = (self._places[name][name] for name in (_HEAD, _EMBEDDING))
        if not np.array_equal(head, embedding):
            raise InputError(
                f"tie_word_embeddings is true, and {_HEAD} differs from {_EMBEDDING}; correct {CONFIG} at its source"
            )
        del self._places[_HEAD]
