"""Checkpoints: the weights and the configuration of a decoder, read lazily from a GGUF file."""

from .config import DecoderConfig
from .gguf_file import Checkpoint
from .named import open_checkpoint

__all__ = ["Checkpoint", "DecoderConfig", "open_checkpoint"]
