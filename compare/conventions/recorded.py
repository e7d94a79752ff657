"""The decoder's configuration as a graph records it: any text that a file brings, so checked before the catalogue reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import cast, get_type_hints

from .case import Config

_LARGEST = 1 << 31


def decoder_of(recorded: Mapping[str, object]) -> Config | None:
    """The configuration with all that the catalogue reads; None where something is missing, or cannot be."""
    kinds = {
        name: get_type_hints(one.fget)["return"] for name, one in vars(Config).items() if isinstance(one, property)
    }
    if not all(_can_be(recorded.get(name), kind) for name, kind in kinds.items()):
        return None
    found = cast(Config, SimpleNamespace(**{name: recorded[name] for name in kinds}))
    return None if found.n_heads % found.n_kv_heads or found.head_dim % 2 else found


def _can_be(value: object, kind: type) -> bool:
    if kind is int:
        return type(value) is int and 0 < value < _LARGEST
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value) and value > 0  # type: ignore[arg-type, operator]
    return type(value) is kind
