"""Byte-level BPE from a GGUF's vocabulary: the merging is HF's library's, what happens around it is llama.cpp's."""

from collections.abc import Sequence
from typing import Any

from ...graphs.errors import InputError
from .special_tokens import take_apart
from .tokenizer import check_text, library
from .vocabulary import Vocabulary


def byte_alphabet() -> str:
    """The character that stands for each of the 256 bytes: itself where it can be seen, else one from U+0100 on.

    Source: bytes_to_unicode in GPT-2's encoder.py.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in visible else next(others)) for byte in range(256))


_ALPHABET = byte_alphabet()
_TO_BYTE = {ord(char): byte for byte, char in enumerate(_ALPHABET)}


class ByteLevelTokenizer:
    """The tokenizer of a GGUF, which gives the ids that llama.cpp gives.

    A byte that the vocabulary has no token for is left out, as in llama.cpp. Not reproduced: `clean_spaces`, by which
    llama.cpp's own decoding takes away spaces in front of punctuation.
    """

    def __init__(self, name: str, vocabulary: Vocabulary) -> None:
        """
        Args:
            name: the file, for messages.
        Raises:
            InputError: the tokenizers package is not installed.
        """
        self._name, self._vocabulary = name, vocabulary
        self._special = {token.id: token.text for token in vocabulary.special}
        self._bpe = _build(vocabulary)

    @property
    def source(self) -> str:
        return f"{self._name} (pre-tokeniser {self._vocabulary.pre.name})"

    @property
    def vocab_size(self) -> int:
        return len(self._vocabulary.tokens)

    def encode(self, text: str, special: bool = True, add_bos: bool | None = None) -> list[int]:
        check_text(text)
        vocabulary, ids = self._vocabulary, []
        if vocabulary.add_bos if add_bos is None else add_bos:
            ids.append(self._needed(vocabulary.bos, "BOS"))
        for part in take_apart(text, vocabulary.special, special):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += [id for id in self._bpe.encode(part, add_special_tokens=False).ids if id < self.vocab_size]
        if vocabulary.add_eos and add_bos is not False:
            ids.append(self._needed(vocabulary.eos, "EOS"))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self._bytes, ids)).decode("utf-8", "replace")

    def token(self, id: int) -> str:
        if not 0 <= id < self.vocab_size:
            raise InputError(f"{self._name}: no token {id}; ids go from 0 to {self.vocab_size - 1}")
        return self._vocabulary.tokens[id]

    def _bytes(self, id: int) -> bytes:
        token = self.token(id)
        if id in self._special:
            return token.encode()
        try:
            return bytes([_TO_BYTE[ord(char)] for char in token])
        except KeyError:  # not written in the byte alphabet, so it is text as it stands
            return token.encode()

    def _needed(self, id: int | None, what: str) -> int:
        if id is None:
            raise InputError(
                f"{self._name}: {what} is asked for, and the vocabulary names none; encode with add_bos=False"
            )
        return id


def _build(vocabulary: Vocabulary) -> Any:
    """HF's tokenizer over the vocabulary, without special tokens.

    Characters of the byte alphabet that are no tokens get ids behind the vocabulary, which `encode` drops: left out of
    the library's vocabulary they would vanish before the merging, and their neighbours would merge across the gap.
    """
    tokenizers = library()
    ids = {token: id for id, token in enumerate(vocabulary.tokens)}
    for char in _ALPHABET:
        ids.setdefault(char, len(ids))
    pre = tokenizers.pre_tokenizers
    bpe = tokenizers.models.BPE(ids, list(vocabulary.merges), ignore_merges=vocabulary.pre.ignore_merges)
    built = tokenizers.Tokenizer(bpe)
    cuts = [pre.Split(tokenizers.Regex(cut), "isolated") for cut in vocabulary.pre.cuts]
    built.pre_tokenizer = pre.Sequence([*cuts, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    return built
