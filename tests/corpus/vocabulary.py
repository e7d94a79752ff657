"""Byte-level BPE vocabularies inside a GGUF file: a small one of the 256 bytes and a few merges, or another file's, whole."""

from __future__ import annotations

from pathlib import Path

from gguf import GGUFReader, GGUFWriter, TokenType
from transformers.convert_slow_tokenizer import bytes_to_unicode

_MERGES = ("t h", "th e", "Ġ the", "i n", "a n", "Ġ a", "e r", "1 2")
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_BYTES = list(bytes_to_unicode().values())
_MERGED = [merge.replace(" ", "") for merge in _MERGES]
N_TOKENS = len(_BYTES) + len(_MERGED) + len(_SPECIAL)


def write_vocabulary(writer: GGUFWriter, n_tokens: int = N_TOKENS) -> None:
    """Add the `tokenizer.ggml.*` fields; unused tokens make up the number."""
    assert n_tokens >= N_TOKENS
    unused = [f"[unused{i}]" for i in range(n_tokens - N_TOKENS)]
    plain = len(_BYTES) + len(_MERGED)
    types = [TokenType.NORMAL] * plain + [TokenType.CONTROL] * len(_SPECIAL) + [TokenType.UNUSED] * len(unused)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*_BYTES, *_MERGED, *_SPECIAL, *unused])
    writer.add_token_types(types)
    writer.add_token_merges(list(_MERGES))
    writer.add_bos_token_id(plain)
    writer.add_eos_token_id(plain)
    writer.add_add_bos_token(False)


def copy_vocabulary(writer: GGUFWriter, source: Path, n_tokens: int) -> None:
    """Add another GGUF file's tokens, merges, types and special tokens, and its pre-tokeniser."""
    fields = GGUFReader(source).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == n_tokens
    writer.add_tokenizer_model(fields["tokenizer.ggml.model"].contents())
    writer.add_tokenizer_pre(fields["tokenizer.ggml.pre"].contents())
    writer.add_token_list(tokens)
    writer.add_token_types(fields["tokenizer.ggml.token_type"].contents())
    writer.add_token_merges(fields["tokenizer.ggml.merges"].contents())
    writer.add_bos_token_id(fields["tokenizer.ggml.bos_token_id"].contents())
    writer.add_eos_token_id(fields["tokenizer.ggml.eos_token_id"].contents())
    writer.add_add_bos_token(False)
