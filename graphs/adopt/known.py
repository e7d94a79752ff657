"""All operators that are known as steps, wherever they are written down."""

from __future__ import annotations

from . import blocks, fused, whole_numbers  # noqa: F401  what they know is registered with them
from .expansions import expanded

__all__ = ["expanded"]
