"""The whole values of every tap that was compared, kept as traces, which can be sides again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...graphs.axes import canonical_axes
from ...graphs.errors import InputError
from ...graphs.trace import FIRST_POSITION, save_trace
from ..sides.side import Side

ROLES = ("a", "b", "reference")


def write_values(folder: Path, sides: Iterable[Side], tokens: Iterable[int], first_position: int) -> None:
    """Write `a.safetensors`, `b.safetensors` and, where there is one, `reference.safetensors`.

    Args:
        first_position: that of the first token.
    Raises:
        InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{folder}: cannot be made ({e.strerror}); choose another folder for --values") from e
    for role, side in zip(ROLES, sides, strict=False):
        facts = {FIRST_POSITION: str(first_position)}
        save_trace(folder / f"{role}.safetensors", side.info.runtime, list(tokens) or None, _pairs(side), facts)


def _pairs(side: Side) -> Iterable:
    for name, tap in side.taps.items():
        value, words = side.values[name], canonical_axes(tap.axes)
        axes = words if len(words) == value.ndim else tuple(word for word in words if word != "batch")
        yield replace(tap, axes=axes), np.ascontiguousarray(value)
