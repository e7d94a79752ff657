"""The pytest plugin: a fixture that writes down what a runtime computes in a test, as a trace that opdiff compares.

pytest imports this at its start, in every project that has opdiff installed, so it imports nothing but pytest until it is used.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest


class TraceRecorder:
    """Collects stages by name, and writes them as a trace."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = {}

    def record(self, name: str, value: Any, axes: str | None = None) -> None:
        """Keep a copy of one value.

        Args:
            name: a stage, `blk.0.q_proj`; `tokens`, the token ids; of a runtime that is fed in steps, `step.1.blk.0.q_proj`.
            value: what numpy takes as an array, or a torch tensor.
            axes: a word for each dimension, `head token channel`, where they are not in the stage's usual order.
        Raises:
            InputError: the name was recorded before, or the axes are not the stage's.
        """
        import numpy as np

        from ..graphs.errors import InputError

        if name in self._values:
            raise InputError(f"{name}: recorded twice; give a later step its number, step.1.{name}")
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = value.float() if value.is_floating_point() else value
        array = np.array(value, order="C")
        self._values[name] = array if axes is None else np.ascontiguousarray(_in_usual_order(name, array, axes))

    def save(self, path: str | Path | None = None) -> Path:
        """Write the trace, whole or not at all, and say where: a file of the test's own folder, or `path`.

        Raises:
            InputError: nothing was recorded, or the file cannot be written.
        """
        from safetensors.numpy import save

        from ..graphs.errors import InputError
        from ..graphs.weights import written_beside

        path = self._path if path is None else Path(path)
        if not self._values:
            raise InputError(f"{path}: nothing was recorded; call record for each stage first")
        content = save(self._values, {"opdiff.runtime": self._path.stem})
        with written_beside(path) as partial:
            partial.write_bytes(content)
        return path


def _in_usual_order(name: str, value: Any, axes: str) -> Any:
    """The value with its dimensions in an order that the stage may have."""
    from ..graphs.errors import InputError
    from ..graphs.stages import default_axes

    words, stage = tuple(axes.split()), name.rpartition(".")[2]
    layouts = default_axes(stage, value.ndim)
    for layout in layouts:
        if sorted(layout) == sorted(words):
            return value.transpose([words.index(word) for word in layout])
    usual = " or ".join(map(" ".join, layouts)) or "no stage of so many dimensions"
    raise InputError(f"{name}: axes {axes!r} for a value of shape {list(value.shape)}; {stage} is {usual}")


@pytest.fixture
def opdiff_trace(request: pytest.FixtureRequest, tmp_path: Path) -> TraceRecorder:
    """Writes down what a runtime computes in this test: `.record("blk.0.q_proj", array)`, then `.save()` gives a trace's path."""
    name = re.sub(r"\W+", "_", request.node.name).strip("_")
    return TraceRecorder(tmp_path / f"{name}.safetensors")
