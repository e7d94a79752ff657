"""llama.cpp's forward pass over a GGUF file, as a trace: its own weights as they are stored, its own CPU kernels.

The stages of the families that opdiff's decoder covers are let out, by the eval callback of llama-cpp-python's low-level API
(package llama-cpp-python). Flash attention is off, for it hides the scores.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ...graphs.cores import n_usable_cores
from ...graphs.decoder_config import RopeScaling
from ...graphs.errors import InputError
from ...graphs.provenance import versions
from ...graphs.schedule.steps import WHOLE, Schedule
from ...graphs.trace import FIRST_POSITION
from ..checkpoints import Checkpoint
from ..checkpoints.families import family_of_architecture
from ..tokenizers.beside import tokenizer_facts

CACHES = ("f32", "f16", "q8_0")
_INSTALL = "pip install llama-cpp-python==0.3.36 (it is compiled, which takes some minutes)"


def write_trace(
    checkpoint: Checkpoint,
    tokens: Sequence[int],
    path: Path,
    schedule: Schedule = WHOLE,
    cache: str = CACHES[0],
    first_position: int = 0,
) -> None:
    """Run llama.cpp in a process of its own and write the trace to `path`, whole or not at all.

    Args:
        schedule: in which steps it is fed.
        cache: the type of its KV cache.
        first_position: that of the first token.
    Raises:
        InputError: a schedule with padding, or with a batch that RoPE cannot take; llama-cpp-python is not installed, the checkpoint is no GGUF file, or llama.cpp cannot run it.
    """
    try:
        found = version("llama-cpp-python")
    except PackageNotFoundError as e:
        raise InputError(f"runtime llama.cpp: llama-cpp-python is not installed; {_INSTALL}") from e
    if not is_gguf(checkpoint.path):
        raise InputError(f"{checkpoint.path}: llama.cpp reads GGUF files only; convert it, or use --runtime hf")
    if schedule.pad_left or schedule.pad_right:
        raise InputError(f"schedule {schedule.text}: llama.cpp knows no padding; leave pad-left and pad-right out")
    end, n_cells = first_position + len(tokens), schedule.n_rows * len(tokens)
    n_threads = n_usable_cores()
    question = {
        "model": str(checkpoint.path.resolve()),
        "tokens": list(tokens),
        "steps": schedule.text,
        "first_position": first_position,
        "n_context": _n_context(checkpoint.config.rope_scaling, end, n_cells, schedule),
        "cache": cache,
        "n_threads": n_threads,
        "out": str(path.resolve()),
        "runtime": f"llama.cpp (llama-cpp-python {found})",
        "renamed": dict(family_of_architecture(checkpoint.config.architecture).gguf_names),
        "facts": {
            "config": checkpoint.config.to_json(),
            "checkpoint": checkpoint.sha256,
            "versions": json.dumps({**versions(), "llama-cpp-python": found}),
            "options": json.dumps({"flash_attention": "off", "kv_cache": cache, "n_threads": str(n_threads)}),
            "schedule": schedule.text,
            FIRST_POSITION: str(first_position),
            **tokenizer_facts(checkpoint, path.parent),
        },
    }
    command = [sys.executable, "-P", "-m", f"{__package__}.llama_cpp_child"]
    ran = subprocess.run(command, input=json.dumps(question), capture_output=True, encoding="utf-8", errors="replace")
    if ran.returncode:
        why = reason(ran.returncode, ran.stderr)
        raise InputError(f"{checkpoint.path}: {why}; try another version of llama-cpp-python, or --runtime hf")


def _n_context(scaling: RopeScaling | None, end: int, n_cells: int, schedule: Schedule) -> int:
    """The size of llama.cpp's context, by which it chooses longrope's factors: the tokens of all rows, or one that has the long
    ones where the positions reach behind the original context.

    Raises:
        InputError: the rows of a batch reach behind it together, and none does alone.
    """
    original = scaling.original_context if scaling is not None and scaling.kind == "longrope" else None
    if original is None:
        return n_cells
    if end > original:
        return max(n_cells, original + 1)
    if n_cells > original and schedule.n_rows > 1:
        raise InputError(
            f"schedule {schedule.text}: for a context of {n_cells} tokens llama.cpp takes longrope's long factors, where one row "
            f"has the short ones (up to {original}); leave batch out"
        )
    return n_cells


def is_gguf(path: Path) -> bool:
    """Whether the path is a file that begins as GGUF does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def reason(status: int, log: str) -> str:
    """What a child says, with llama.cpp's own reason where its log has one: an error on loading, an assertion."""
    lines = [" ".join(line.split()) for line in log.splitlines() if line.strip()]
    said = [line.removeprefix("opdiff: ") for line in lines if line.startswith("opdiff: ")]
    reasons = [line for line in lines if "error loading" in line or "GGML_ASSERT" in line or "invalid" in line]
    what = said[0] if said else f"llama.cpp ended with status {status}"
    why = (reasons or ([] if said else lines[-1:]))[:1]
    return " ".join([what, *(f"({text[:160]})" for text in why)])
