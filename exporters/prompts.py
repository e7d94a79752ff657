"""The prompts of a verdict: the three of the bug report's project, or a file of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ..graphs.decoding import Prompt
from ..graphs.errors import InputError
from ..graphs.reading import text_in
from .checkpoints import Checkpoint
from .tokenizers import Tokenizer

DEFAULT = ("The capital of France is", "What is 2 + 2?", "fun fibonacci(n: Int): Int {")
_TOKENS_GIVEN = 'give the prompts as tokens, in a file for --prompts: [{"tokens": [1, 5, 3]}]'


def read_prompts(path: Path | None) -> list[object]:
    """The entries of a JSON list, not yet checked; without a path, the default texts.

    Raises:
        InputError: the file cannot be read, or holds no list with something in it.
    """
    if path is None:
        return list(DEFAULT)
    try:
        entries = json.loads(text_in(path, "give a JSON file with a list of prompts"))
    except (ValueError, RecursionError) as e:  # no JSON, or too deep
        raise InputError(f'{path}: not JSON ({e!s:.80}); write a list of prompts, as in ["Hello"]') from e
    if not isinstance(entries, list) or not entries:
        raise InputError(f'{path}: not a list of prompts; write one, as in ["Hello"]')
    return entries


def prompts_of(
    entries: list[object], tokenizer: Tokenizer | InputError, checkpoint: Checkpoint, n_steps: int
) -> Iterator[Prompt]:
    """Each entry as token ids: a text by the tokenizer, or an object's `tokens`, with its `text` for the reader.

    Args:
        tokenizer: or why there is none.
    Raises:
        InputError: an entry that is neither, a token that the model has not, or more than its context holds.
    """
    for n, entry in enumerate(entries, 1):
        text, tokens = _parts(entry, f"prompt {n}")
        if tokens is None:
            assert text is not None
            tokens = _encoded(text, tokenizer, f"prompt {n}")
        _check(tokens, checkpoint, n_steps, f"prompt {n}")
        yield Prompt(text, tokens)


def _parts(entry: object, where: str) -> tuple[str | None, tuple[int, ...] | None]:
    """An entry's text and tokens; at least one of them."""
    text, tokens = entry, None
    if isinstance(entry, dict) and entry.keys() <= {"text", "tokens"} and entry:
        text, tokens = entry.get("text"), entry.get("tokens")
    if not (isinstance(text, str) or (text is None and tokens is not None)):
        raise InputError(f'{where}: neither a text nor an object as {{"text": "Hello"}} or {{"tokens": [1, 5, 3]}}')
    if tokens is None:
        return str(text), None
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise InputError(f"{where}: its tokens are no list of whole numbers; write them as [1, 5, 3]")
    return text, tuple(tokens)


def _encoded(text: str, tokenizer: Tokenizer | InputError, where: str) -> tuple[int, ...]:
    if isinstance(tokenizer, InputError):
        raise InputError(f"{where}: {tokenizer}; or {_TOKENS_GIVEN}") from tokenizer
    try:
        return tuple(tokenizer.encode(text))
    except InputError as e:
        raise InputError(f"{where}: {e}") from e


def _check(tokens: tuple[int, ...], checkpoint: Checkpoint, n_steps: int, where: str) -> None:
    config = checkpoint.config
    if not tokens:
        raise InputError(f"{where}: it has no tokens; give at least one character, or one token")
    wrong = next((token for token in tokens if not 0 <= token < config.vocab_size), None)
    if wrong is not None:
        raise InputError(f"{where}: token {wrong} is none of {checkpoint.path}, which has 0 to {config.vocab_size - 1}")
    if len(tokens) + n_steps > config.context_length:
        raise InputError(
            f"{where}: {len(tokens)} tokens and {n_steps} steps are more than the model's context of "
            f"{config.context_length}; shorten it, or give a smaller --steps"
        )
