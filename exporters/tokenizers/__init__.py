"""Tokenizers: text to token ids as a checkpoint has it, and as other runtimes have it."""

from .opening import open_tokenizer
from .tokenizer import Tokenizer

__all__ = ["Tokenizer", "open_tokenizer"]
