"""The checkpoint itself as the weight file: its tensors are read where they lie, through a hard link beside the graphs."""

from __future__ import annotations

import filecmp
import math
import os
from collections.abc import Callable
from pathlib import Path

from ..graphs.weights import entry_of
from .checkpoints import Checkpoint

Listed = dict[str, dict[str, dict[str, object]]]  # file in the folder -> tensor -> its entry
_OURS = (".onnx", "weights.safetensors")  # how the names end under which an export writes


def linked(checkpoint: Checkpoint, folder: Path, note: Callable[[str], None]) -> Listed:
    """Link the checkpoint's files into `folder`, each of which at least half is tensors that can be read in place.

    Returns:
        for each linked file, the tensors that are read in it; all others are to be written.
    """
    listed: Listed = {}
    for file, held in _in_place(checkpoint).items():
        if 2 * sum(n_bytes for _, n_bytes in held.values()) < file.stat().st_size:
            continue
        if _link(file, folder / file.name):
            listed[file.name] = {name: entry for name, (entry, _) in held.items()}
        else:
            note(f"{file} cannot be linked into {folder} (another file system, say), so its tensors are copied")
    return listed


def _in_place(checkpoint: Checkpoint) -> dict[Path, dict[str, tuple[dict[str, object], int]]]:
    """By file, each tensor that lies in it as it is stored, and on a multiple of its type's size: its entry, its bytes."""
    files: dict[Path, dict[str, tuple[dict[str, object], int]]] = {}
    for name in checkpoint.names:
        place, dtype, shape = checkpoint.place(name), checkpoint.dtype(name), checkpoint.shape(name)
        if place is not None and place[1] % dtype.itemsize == 0:
            held = files.setdefault(place[0], {})
            held[name] = entry_of(dtype, shape, place[1]), math.prod(shape) * dtype.itemsize
    return files


def _link(file: Path, target: Path) -> bool:
    """Give the file a second name, and never touch its bytes; False where that cannot be, or the name is taken."""
    if target.name.endswith(_OURS):
        return False
    source = file.resolve()  # a link to a symbolic link would be no file
    try:
        os.link(source, target)
    except FileExistsError:
        return target.is_file() and not target.is_symlink() and filecmp.cmp(source, target, shallow=False)
    except OSError:
        return False
    return True
