"""What a runtime wrote down in steps: a file whose tensors are called `step.3.blk.0.q_proj`, or a folder of one file a step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..tensor_files import TensorFile, read_tensors

_TENSOR = re.compile(r"step\.(\d{1,9})\.(.+)")
_FILE = re.compile(r"(?:.*\.)?step\.(\d{1,9})\.(?:safetensors|npz|gguf)")


def read_in_steps(path: Path) -> tuple[TensorFile, list[TensorFile]]:
    """What is of no step, and what is of each step, in their order; no steps, where all tokens were fed at once.

    Raises:
        InputError: a file that cannot be read, a folder without steps, or steps of which one is missing.
    """
    if not path.is_dir():
        file = read_tensors(path)
        rest, steps = _apart(file.tensors)
        return TensorFile(rest, file.texts), [TensorFile(steps[n], {}) for n in _in_order(path, steps)]
    files = {int(found[1]): one for one in path.iterdir() if (found := _FILE.fullmatch(one.name))}
    if not files:
        raise InputError(f"{path}: a folder without a step; name its files step.0.npz, step.1.npz and so on")
    parts = [read_tensors(files[n]) for n in _in_order(path, files)]
    return TensorFile({}, parts[0].texts), parts


def _apart(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[int, dict[str, np.ndarray]]]:
    rest: dict[str, np.ndarray] = {}
    steps: dict[int, dict[str, np.ndarray]] = {}
    for name, value in tensors.items():
        found = _TENSOR.fullmatch(name)
        if found is None:
            rest[name] = value
        else:
            steps.setdefault(int(found[1]), {})[found[2]] = value
    return rest, steps


def _in_order(path: Path, steps: Mapping[int, object]) -> list[int]:
    """The numbers of the steps, which begin with 0 or 1 and leave none out."""
    numbers = sorted(steps)
    if numbers and (numbers[0] > 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers)))):
        missing = next(n for n in range(numbers[-1]) if n not in steps)
        raise InputError(f"{path}: step {missing} is missing; write every step, from step 0 on")
    return numbers
