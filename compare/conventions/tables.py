"""What the catalogue's decorated functions are entered in: models by stage, standard values by convention."""

from __future__ import annotations

from collections.abc import Callable

from ...graphs.decoder_config import DecoderConfig
from .case import Array
from .settings import Value

MODELS: dict[str, Callable[..., Array]] = {}  # each takes a run and the block, which is None outside of the blocks
STANDARDS: dict[str, Callable[[DecoderConfig], Value]] = {}
