"""The files of an HF folder: config.json and safetensors, in one file or in shards, mapped under their own names."""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from os.path import isfile  # Path's own raises where a name is too long
from pathlib import Path

from ...graphs.errors import InputError
from ...graphs.reading import contents
from ...graphs.weights import WeightFile
from .gguf_header import quoted

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


class HfFiles:
    """What lies in a folder as `save_pretrained` writes it.

    fields: what config.json holds. places: the file of each tensor, by HF name.

    Raises:
        InputError: a file is missing, foreign, cut short or damaged, or a shard lies outside the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.fields = _json(self.path / CONFIG)
        self.places = _places(self.path)

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of a list of the files that were read, each with its own SHA-256; computed at the first call."""
        files = [self.path / CONFIG, *sorted({place.path for place in self.places.values()})]
        return hashlib.sha256("".join(f"{_sha256(file)}  {file.name}\n" for file in files).encode()).hexdigest()

    def tokenizer_files(self) -> Mapping[str, bytes]:
        """Its tokenizer.json, and tokenizer_config.json, which names BOS."""
        files = [self.path / name for name in ("tokenizer.json", "tokenizer_config.json")]
        return {file.name: file.read_bytes() for file in files if file.is_file()} if files[0].is_file() else {}


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
        content = json.loads(contents(path, "give a folder with the whole checkpoint"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error!s:.80}); download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no table; download it again")
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
