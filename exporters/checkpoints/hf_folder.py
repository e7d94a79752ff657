"""A checkpoint in an HF folder: config.json and safetensors, in one file or in shards, mapped under GGUF's names."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from os.path import isfile  # Path's own raises where a name is too long
from pathlib import Path

import numpy as np
from gguf.constants import MODEL_ARCH_NAMES
from gguf.tensor_mapping import get_tensor_name_map

from ...graphs.errors import InputError
from ...graphs.weights import WeightFile
from .checkpoint import PLAIN, Checkpoint
from .config import DecoderConfig, check_tensors
from .gguf_header import quoted
from .hf_config import read_hf_config

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_KINDS = {dtype: kind for kind, dtype in PLAIN.items()}
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_ARCHITECTURES = {name: architecture for architecture, name in MODEL_ARCH_NAMES.items()}


class HfFolder(Checkpoint):
    """The weights of one decoder in a folder as `save_pretrained` writes it.

    A `llama` decoder's rows of attn_q and attn_k come in GGUF's order, in which the two channels of a RoPE pair stand
    side by side; so do their biases.

    Raises:
        InputError: a file is missing, foreign, cut short or damaged, a shard lies outside the folder, or the folder
            holds no decoder that `read_hf_config` knows.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        fields = _json(self.path / CONFIG)
        self._places = _places(self.path)
        try:
            self.config = read_hf_config(fields, tied_head=_HEAD not in self._places)
            self._drop_copy_of_the_embedding()
            self._hf_names = _gguf_names(self.config, self._places)
            check_tensors(self.config, {name: self.shape(name) for name in self._hf_names})
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of a list of the files that were read, each with its own SHA-256; computed at the first call."""
        files = [self.path / CONFIG, *sorted({place.path for place in self._places.values()})]
        return hashlib.sha256("".join(f"{_sha256(file)}  {file.name}\n" for file in files).encode()).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._hf_names)

    def metadata(self, key: str) -> None:
        """None: an HF folder has no GGUF metadata."""

    def tokenizer_files(self) -> Mapping[str, bytes]:
        """Its tokenizer.json, and tokenizer_config.json, which names BOS."""
        files = [self.path / name for name in ("tokenizer.json", "tokenizer_config.json")]
        return {file.name: file.read_bytes() for file in files if file.is_file()} if files[0].is_file() else {}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._as_in_file(name).shape

    def quantisation(self, name: str) -> str:
        dtype = self._as_in_file(name).dtype
        return _KINDS.get(dtype, str(dtype))

    def stored(self, name: str) -> np.ndarray:
        values = self._as_in_file(name)
        if values.dtype not in _KINDS:
            raise InputError(
                f"{self.path}: tensor {quoted(name)} holds {values.dtype}, no float; use another checkpoint"
            )
        return paired_rows(values, self.config.head_dim) if self._is_permuted(name) else values

    def place(self, name: str) -> tuple[Path, int] | None:
        if self._as_in_file(name).dtype not in _KINDS or self._is_permuted(name):
            return None
        hf_name = self._hf_names[name]
        return self._places[hf_name].path, self._places[hf_name].location(hf_name)[0]

    def _is_permuted(self, name: str) -> bool:
        """Whether GGUF's order of its rows is another than the file's."""
        return self.config.architecture == "llama" and (".attn_q." in name or ".attn_k." in name)

    def _as_in_file(self, name: str) -> np.ndarray:
        """The tensor as it stands in its file: a view of the memory map."""
        try:
            hf_name = self._hf_names[name]
        except KeyError as error:
            raise InputError(f"{self.path}: no tensor {quoted(name)}; `names` lists those that it has") from error
        return self._places[hf_name][hf_name]

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


def paired_rows(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Within each head put rows i and i + D/2 side by side: a half-split RoPE pairing becomes an interleaved one.

    Source: llama.cpp's convert_hf_to_gguf.py, LlamaModel.permute.
    """
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _gguf_names(config: DecoderConfig, hf_names: Iterable[str]) -> dict[str, str]:
    """GGUF name -> HF name of each tensor."""
    known = get_tensor_name_map(_ARCHITECTURES[config.architecture], 1)
    names: dict[str, str] = {}
    for hf_name in hf_names:
        block, rest = _block_and_rest(hf_name)
        name = known.get_name(rest, (".weight", ".bias"))
        if name is None or name.replace("blk.0.", f"blk.{block}.") in names:
            raise InputError(
                f"tensor {quoted(hf_name)} is no part of the decoders that opdiff knows; use another checkpoint"
            )
        names[name.replace("blk.0.", f"blk.{block}.")] = hf_name
    return names


def _block_and_rest(hf_name: str) -> tuple[str, str]:
    """The number of a tensor's block, and its name in block 0."""
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", hf_name)
    return (found[1], f"model.layers.0.{found[2]}") if found else ("0", hf_name)


def _places(folder: Path) -> dict[str, WeightFile]:
    """The file of each tensor, by HF name; tables of RoPE that old checkpoints hold are left out."""
    if isfile(folder / WEIGHTS):
        file = WeightFile(_within(folder, WEIGHTS))
        places = dict.fromkeys(file, file)
    elif isfile(folder / INDEX):
        places = _places_in_shards(folder)
    else:
        raise InputError(f"{folder}: holds neither {WEIGHTS} nor {INDEX}; save the model as safetensors")
    return {name: file for name, file in places.items() if not name.endswith(".rotary_emb.inv_freq")}


def _places_in_shards(folder: Path) -> dict[str, WeightFile]:
    weight_map = _json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise InputError(f"{folder / INDEX}: has no weight_map from tensors to files; download it again")
    shards = {shard: WeightFile(_within(folder, shard)) for shard in dict.fromkeys(weight_map.values())}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise InputError(
                f"{folder / INDEX}: places tensor {quoted(name)} in {quoted(shard)}, which has none; {_AGAIN}"
            )
    return {name: shards[shard] for name, shard in weight_map.items()}


_AGAIN = "download the folder again"


def _within(folder: Path, name: str) -> Path:
    """A file of the folder; in huggingface_hub's cache it is a link to the `blobs` beside the snapshots."""
    if re.search(r"[/\\\0]", name) or name in ("", ".", ".."):
        raise InputError(
            f"{folder / INDEX}: {quoted(name)} is no file name, so it may lie outside the folder; {_AGAIN}"
        )
    if not isfile(folder / name):
        raise InputError(f"{folder}: no file {quoted(name)}; {_AGAIN}")
    home, path = folder.resolve(), (folder / name).resolve()
    if not path.is_relative_to(home) and path.parent != home.parent.parent / "blobs":
        raise InputError(f"{folder / name}: leads outside its folder; put the file itself there")
    return folder / name


def _json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a folder with the whole checkpoint"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error!s:.80}); download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no table; download it again")
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
