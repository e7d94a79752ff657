"""Checkpoints: the weights and the configuration of a decoder, read lazily from a GGUF file or an HF folder."""

from ...graphs.decoder_config import DecoderConfig
from .checkpoint import Checkpoint
from .named import find_model, open_checkpoint
from .other_folder import Family

__all__ = ["Checkpoint", "DecoderConfig", "Family", "find_model", "open_checkpoint"]
