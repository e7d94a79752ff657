"""The variant `reference`: one decoder, with what distinguishes families as its settings."""

from .block import Block
from .decoder import Reference, reference
from .rotary import rotate_half_split, rotate_interleaved

__all__ = ["Block", "Reference", "reference", "rotate_half_split", "rotate_interleaved"]
