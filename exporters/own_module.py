"""Any torch module of one's own as it is: no checkpoint, no taps; torch's own export of it, with the inputs it was traced on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from ..graphs.by_content import data_file, remove_others
from ..graphs.errors import InputError
from ..graphs.leftovers import temporary_folder
from ..graphs.weights import written_beside
from .refusal import export_reason, reason
from .stack_traces import whole_stack_traces
from .to_onnx import OPSET, quiet
from .variants.own_file import beside, imported

_DATA = ".onnx.data"
_ASKED = "must return a torch module and its example inputs: a tensor, a tuple of them, or a dict by name"


def export_module(text: str, folder: Path) -> list[Path]:
    """Write NAME.onnx and NAME.npz, its example inputs, for FILE.py:NAME.

    Args:
        text: the file, and the name of a function without arguments that returns the module and its example inputs.
    Raises:
        InputError: no such file or function, it returns something else, or torch cannot export the module.
    """
    file, _, name = text.rpartition(":")
    if not file or not name:
        raise InputError(
            f"--module {text}: write it as FILE.py:NAME, where NAME returns a module and its example inputs"
        )
    make = getattr(imported(Path(file)), name, None)
    if not callable(make):
        raise InputError(f"{file}: has no function {name}")
    with beside(Path(file).parent):
        module, inputs = _made(make, text)
        folder.mkdir(parents=True, exist_ok=True)
        return list(write_module(module, inputs, folder / f"{name}.onnx", text))


def write_module(module: nn.Module, inputs: Any, path: Path, text: str = "") -> tuple[Path, Path]:
    """Write any torch module as torch exports it, and beside it its example inputs as an .npz.

    Args:
        inputs: a tensor, a tuple of them, or a dict by name.
        text: what to call it in messages.
    Raises:
        InputError: it is no module with its inputs, or torch cannot export it.
    """
    module, inputs = _checked(module, inputs, text or type(module).__name__)
    program, given = _exported(module, inputs, text or type(module).__name__), path.with_suffix(".npz")
    names = _save(program, path)
    values = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
    with written_beside(given) as partial, partial.open("wb") as opened:
        np.savez(opened, **{name: _array(value) for name, value in zip(names, values, strict=True)})  # type: ignore[arg-type]
    return path, given


def _save(program: torch.onnx.ONNXProgram, path: Path) -> list[str]:
    """Write the graph and its data, whole or not at all; the names of its inputs."""
    with temporary_folder(path.parent) as folder:
        draft = folder / path.name
        try:
            with quiet():
                program.save(str(draft), external_data=True)
            model, data = onnx.load(draft, load_external_data=False), draft.with_name(f"{draft.name}.data")
            kept = _named_by_content(model, data, path) if data.exists() else None
        except OSError as e:
            raise InputError(f"{path}: cannot be written ({e.strerror or e}); choose another place") from e
        with written_beside(path) as partial:
            partial.write_bytes(model.SerializeToString())
    remove_others(path, _DATA, kept)
    return [info.name for info in model.graph.input]


def _named_by_content(model: onnx.ModelProto, data: Path, graph: Path) -> Path:
    """Put the data beside the graph, which names them."""
    with data.open("rb") as file:
        kept = data_file(graph, hashlib.file_digest(file, "sha256").hexdigest(), _DATA)
        os.fsync(file.fileno())
    os.replace(data, kept)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = kept.name
    return kept


def _array(value: Tensor) -> np.ndarray:
    return value.detach().float().numpy() if value.dtype == torch.bfloat16 else value.detach().numpy()


def _made(make: Any, text: str) -> tuple[nn.Module, Mapping[str, Tensor] | Sequence[Tensor]]:
    try:
        made = make()
    except Exception as e:  # the user's own function may raise anything
        raise InputError(f"{text}: cannot be made: {reason(e)}") from e
    if not (isinstance(made, (tuple, list)) and len(made) == 2):
        raise InputError(f"{text}: {_ASKED}")
    return _checked(made[0], made[1], text)


def _checked(module: Any, inputs: Any, text: str) -> tuple[nn.Module, Mapping[str, Tensor] | Sequence[Tensor]]:
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    values = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    if (
        not isinstance(module, nn.Module)
        or not isinstance(values, (tuple, list))
        or not values
        or not all(isinstance(value, Tensor) for value in values)
    ):
        raise InputError(f"{text}: {_ASKED}")
    return module.eval(), inputs


def _exported(module: nn.Module, inputs: Mapping[str, Tensor] | Sequence[Tensor], text: str) -> torch.onnx.ONNXProgram:
    args, named = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})
    try:
        with quiet(), whole_stack_traces(), torch.no_grad():
            program = torch.onnx.export(
                module, args, kwargs=named, dynamo=True, opset_version=OPSET, verbose=False, optimize=True
            )
    except Exception as e:  # torch's own errors, and whatever a user's forward raises
        raise InputError(f"{text}: the module cannot be exported: {export_reason(e)}") from e
    assert program is not None
    return program
