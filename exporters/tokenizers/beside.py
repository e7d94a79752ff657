"""A model's tokenizer beside what was made of the model, so that prompts and tokens can be read with no model at hand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from ...graphs.errors import InputError
from ...graphs.facts import TOKENIZER, facts_of, tokenizer_named
from ...graphs.weights import written_beside
from ..checkpoints import Checkpoint
from .opening import open_tokenizer
from .tokenizer import Tokenizer


def tokenizer_facts(checkpoint: Checkpoint, folder: Path) -> dict[str, str]:
    """Write the checkpoint's tokenizer into the folder; the fact names its file. Nothing where it has none, or another
    model's is there.
    """
    files = checkpoint.tokenizer_files()
    if not files or not all(_put(folder / name, content) for name, content in files.items()):
        return {}
    return {TOKENIZER: next(iter(files))}


def _put(path: Path, content: bytes) -> bool:
    if path.exists():
        return path.is_file() and path.read_bytes() == content
    with written_beside(path) as partial:
        partial.write_bytes(content)
    return True


def tokens_of(prompt: str, paths: Iterable[Path]) -> list[int]:
    """A prompt's ids, by the tokenizer beside the first of these graphs and traces that has one.

    Raises:
        InputError: none has one, or the prompt has no tokens.
    """
    tried = list(paths)
    for path in tried:
        file = tokenizer_named(path, facts_of(path))
        if file is not None:
            tokens = open_tokenizer(file).encode(prompt)
            if not tokens:
                raise InputError("--prompt: it has no tokens; give at least one character")
            return tokens
    raise InputError(
        f"--prompt: none of {', '.join(map(str, tried))} has its model's tokenizer beside it; give --tokens, "
        "or export it again from a model that has one"
    )


def pieces_of(tokens: Collection[int], files: Iterable[str | None]) -> Mapping[int, str]:
    """The text of each token by the first of these tokenizers that can be read; none where none can."""
    for file in files:
        if file is not None:
            try:
                tokenizer = open_tokenizer(Path(file))
            except InputError:
                continue
            return {token: text for token in sorted(tokens) if (text := text_of(tokenizer, [token])) is not None}
    return {}


def text_of(tokenizer: Tokenizer, ids: Sequence[int]) -> str | None:
    """Ids as text; one that is not whole characters as the vocabulary writes it; None where there is no such id."""
    try:
        text = tokenizer.decode(ids)
        return tokenizer.token(ids[0]) if len(ids) == 1 and "\ufffd" in text else text
    except InputError:  # there may be more logits than the vocabulary has tokens
        return None
