"""Positions: the input of a graph that takes them, and which ones there are."""

from __future__ import annotations

import numpy as np

from .decoder_config import DecoderConfig
from .errors import InputError

POSITIONS = "position_ids"
_MOST = int(np.iinfo(np.int32).max)  # which runtimes hold them in


def check_positions(first: int, n_tokens: int) -> None:
    """See to it that so many tokens can stand at positions from `first` on.

    Raises:
        InputError: a position is negative, or beyond int32.
    """
    if first < 0 or first + n_tokens - 1 > _MOST:
        raise InputError(f"--position-offset {first}: positions are 0 to {_MOST}; give another one")


def check_table(where: str, config: object, first: int, n_tokens: int) -> None:
    """See to it that a decoder with a table of learned positions has those.

    Args:
        where: its file.
        config: its DecoderConfig, or anything else, of which nothing is known.
    Raises:
        InputError: its table has fewer.
    """
    if not isinstance(config, DecoderConfig) or config.positions != "learned":
        return
    if first and first + n_tokens > config.context_length:
        raise InputError(
            f"{where}: its table has the positions 0 to {config.context_length - 1}, where "
            f"{positions_text(first, n_tokens)} are asked for; give another --position-offset"
        )


def positions_text(first: int, n_tokens: int) -> str:
    """`positions 4090 to 4113`."""
    return f"positions {first} to {first + n_tokens - 1}" if n_tokens > 1 else f"position {first}"
