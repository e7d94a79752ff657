"""What a GGUF says about its tokenizer, read and checked: tokens, merges, special tokens, BOS and EOS."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...graphs.errors import InputError
from ..checkpoints.gguf_header import Value, quoted
from .pre_tokenizers import PreTokenizer, pre_tokenizer
from .special_tokens import Metadata, SpecialToken, TokenType, special_tokens

_KEY = "tokenizer.ggml."
_OTHER_MODELS = {
    "llama": "SentencePiece",
    "bert": "WordPiece",
    "t5": "Unigram",
    "rwkv": "RWKV",
    "plamo2": "PLaMo-2",
    "gemma4": "BPE over UTF-8 text",
    "hybriddna": "BPE with DNA k-mers",
    "whitespace": "words between spaces",
}
_CONVERT = "convert the checkpoint again"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A byte-level BPE vocabulary.

    tokens: each token as the file writes it, by id. merges: pairs of tokens, the first of them merged first.
    special: the tokens whose text is looked for in front of everything else, in the order of looking.
    bos, eos: ids, or None. add_bos, add_eos: whether a text gets them unless the caller says otherwise.
    """

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]
    special: tuple[SpecialToken, ...]
    pre: PreTokenizer
    bos: int | None
    eos: int | None
    add_bos: bool
    add_eos: bool


def read_vocabulary(metadata: Metadata) -> Vocabulary:
    """Read the `tokenizer.ggml.*` fields.

    Args:
        metadata: gives the value of a metadata key, or None.
    Raises:
        InputError: no tokenizer or one that is not byte-level BPE, no merges, a merge of an absent token, an unknown
            pre-tokeniser, a token that stands there twice, a field of the wrong kind. The message does not name the file.
    Source: llama.cpp's src/llama-vocab.cpp (llama_vocab::impl::load) for what each field means and its default.
    """
    _check_model(metadata(_KEY + "model"))
    pre = pre_tokenizer(_text(metadata, "pre"))
    tokens = _read_tokens(metadata)
    bos = _special_id(metadata, "bos_token_id", pre.default_bos, len(tokens))
    return Vocabulary(
        tokens=tokens,
        merges=_read_merges(metadata, frozenset(tokens)),
        special=special_tokens(tokens, _read_types(metadata, len(tokens)), metadata),
        pre=pre,
        bos=bos,
        eos=_special_id(metadata, "eos_token_id", 11, len(tokens)),
        add_bos=_flag(metadata, "add_bos_token", pre.add_bos),
        add_eos=_flag(metadata, "add_eos_token", False),
    )


def _check_model(model: Value | None) -> None:
    if model is None or (isinstance(model, str) and model in ("none", "no_vocab")):
        raise InputError(
            f"tokenizer.ggml.model is {model or 'not there'}, so the file has no tokenizer; give token ids instead of text"
        )
    if not isinstance(model, str) or model != "gpt2":
        name = model if isinstance(model, str) else str(type(model))
        kind = _OTHER_MODELS.get(name, "an unknown kind")
        raise InputError(
            f"tokenizer.ggml.model {quoted(name)} ({kind}) is not supported, only 'gpt2' (byte-level BPE); give token ids "
            "instead of text"
        )


def _read_tokens(metadata: Metadata) -> tuple[str, ...]:
    """The tokens; an empty one is renamed as llama.cpp renames it."""
    stored = _texts(metadata, "tokens")
    if not stored:
        raise InputError(f"no tokenizer.ggml.tokens, so the vocabulary is empty; {_CONVERT}")
    tokens = tuple(token or f"[EMPTY_{index}]" for index, token in enumerate(stored))
    first: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if first.setdefault(token, index) != index:
            raise InputError(f"token {quoted(token)} stands there twice, as {first[token]} and {index}; {_CONVERT}")
    _check_utf8(tokens)
    return tokens


def _check_utf8(tokens: Sequence[str]) -> None:
    try:
        "".join(tokens).encode()
    except UnicodeEncodeError as error:
        index = next(i for i, token in enumerate(tokens) if not _is_utf8(token))
        raise InputError(f"token {index}, {quoted(tokens[index])}, is not UTF-8; {_CONVERT}") from error


def _is_utf8(token: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in token)


def _read_merges(metadata: Metadata, tokens: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """The merges, first things first; of two equal ones only the first counts."""
    stored = _texts(metadata, "merges")
    if not stored:
        raise InputError(
            f"no tokenizer.ggml.merges, which byte-level BPE cannot do without; {_CONVERT} with its tokenizer beside it"
        )
    pairs = dict.fromkeys(stored)
    return tuple(_split_merge(index, merge, tokens) for index, merge in enumerate(pairs))


def _split_merge(index: int, merge: str, tokens: frozenset[str]) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    if not left or not right or " " in right:
        raise InputError(f"merge {index}, {quoted(merge)}, is not two tokens with one space between; {_CONVERT}")
    for token in (left, right, left + right):
        if token not in tokens:
            what = "makes" if token == left + right else "names"
            raise InputError(
                f"merge {index}, {quoted(merge)}, {what} {quoted(token)}, which is no token of the vocabulary; {_CONVERT}"
            )
    return left, right


def _read_types(metadata: Metadata, n_tokens: int) -> Sequence[int]:
    """TokenType of each token; all NORMAL where the file does not say."""
    types = metadata(_KEY + "token_type")
    if types is None:
        return [TokenType.NORMAL] * n_tokens
    if not isinstance(types, np.ndarray) or types.dtype.kind not in "iu" or len(types) < n_tokens:
        raise InputError(f"tokenizer.ggml.token_type is not an integer for each of the {n_tokens} tokens; {_CONVERT}")
    return [int(number) for number in types[:n_tokens]]


def _special_id(metadata: Metadata, name: str, default: int | None, n_tokens: int) -> int | None:
    """The file's id, or the default if the vocabulary is large enough to have it."""
    value = metadata(_KEY + name)
    if value is None:
        return default if default is not None and default < n_tokens else None
    if type(value) is not int or not 0 <= value < n_tokens:
        raise InputError(
            f"tokenizer.ggml.{name} is {value!r:.40}, and the vocabulary has {n_tokens} tokens; {_CONVERT}"
        )
    return value


def _flag(metadata: Metadata, name: str, default: bool) -> bool:
    value = metadata(_KEY + name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InputError(f"tokenizer.ggml.{name} is {value!r:.40}, neither true nor false; {_CONVERT}")
    return value


def _text(metadata: Metadata, name: str) -> str:
    value = metadata(_KEY + name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"tokenizer.ggml.{name} is {value!r:.40}, not a text; {_CONVERT}")
    return value or ""


def _texts(metadata: Metadata, name: str) -> tuple[str, ...]:
    value = metadata(_KEY + name)
    if value is None or (isinstance(value, np.ndarray) and not len(value)):
        return ()
    if not isinstance(value, tuple):
        raise InputError(f"tokenizer.ggml.{name} is not an array of texts; {_CONVERT}")
    return value
