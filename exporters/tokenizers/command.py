"""The command `opdiff tokenize`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from ...graphs.errors import InputError
from ...graphs.weights import written_beside
from ..checkpoints import find_model
from .opening import open_tokenizer
from .others import encode_with_hf, encode_with_llama_cpp, first_difference, load_hf_tokenizer
from .tokenizer import Tokenizer

SCHEMA = "opdiff.tokens/1"


@dataclass(frozen=True, slots=True)
class Parting:
    """Where another runtime's tokens part from ours.

    runtime: `llama.cpp` or `hf`. ids: all of its own. index: that of the first other token; None: they are equal.
    ours, theirs: the pieces there; None: the list has ended.
    """

    runtime: str
    ids: list[int]
    index: int | None
    ours: str | None
    theirs: str | None


def run_tokenize(model: str, text: str, against: Sequence[str], no_bos: bool, json_path: Path | None) -> bool:
    """Print a text's tokens, and where other runtimes' part from them; whether all are equal."""
    if model == "seed":
        raise InputError("seed: the synthetic checkpoint has no tokenizer; give token ids instead of text")
    path = find_model(model)
    tokenizer = open_tokenizer(path)
    ids = tokenizer.encode(text, add_bos=False if no_bos else None)
    partings = [_parting(runtime, ids, _theirs(runtime, path, text, no_bos), tokenizer) for runtime in against]
    _print(tokenizer, ids, partings)
    if json_path is not None:
        _write_json(json_path, tokenizer, text, ids, partings)
    return all(parting.index is None for parting in partings)


def _theirs(runtime: str, path: Path, text: str, no_bos: bool) -> list[int]:
    if runtime == "hf":
        return encode_with_hf(load_hf_tokenizer(path), [text], not no_bos)[0]
    if path.is_dir():
        raise InputError(f"{path}: llama.cpp reads GGUF files only; give --against hf, or the model as GGUF")
    return encode_with_llama_cpp(path, [text], add_bos=not no_bos)[0]


def _parting(runtime: str, ids: list[int], theirs: list[int], tokenizer: Tokenizer) -> Parting:
    index = first_difference(ids, theirs)
    if index is None:
        return Parting(runtime, theirs, None, None, None)
    return Parting(runtime, theirs, index, *(_piece(tokenizer, side[index : index + 1]) for side in (ids, theirs)))


def _piece(tokenizer: Tokenizer, ids: Sequence[int]) -> str | None:
    """The one token of `ids` as the vocabulary writes it; None: there is none."""
    try:
        return tokenizer.token(ids[0]) if ids else None
    except InputError:  # another runtime may count tokens that the file has not
        return f"no token {ids[0]} in the vocabulary"


def _print(tokenizer: Tokenizer, ids: Sequence[int], partings: Sequence[Parting]) -> None:
    console = Console()
    for parting in partings:
        console.print(escape(_sentence(parting)), soft_wrap=True, highlight=False)
    console.print(escape(tokenizer.source), soft_wrap=True, highlight=False)
    table = Table("index", "id", Column("piece", overflow="fold"))
    for index, id in enumerate(ids):
        table.add_row(str(index), str(id), escape(_visible(tokenizer.token(id))))
    console.print(table)


def _sentence(parting: Parting) -> str:
    if parting.index is None:
        return f"same: {parting.runtime} gives the same {len(parting.ids)} tokens"
    ours, theirs = ("the end" if piece is None else _visible(piece) for piece in (parting.ours, parting.theirs))
    return f"differ: {parting.runtime} parts at token {parting.index}: {ours} here, {theirs} there"


def _visible(piece: str) -> str:
    """A piece with its control characters, which a terminal would obey, written as escapes."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in piece)


def _write_json(path: Path, tokenizer: Tokenizer, text: str, ids: list[int], partings: Sequence[Parting]) -> None:
    content: Mapping[str, object] = {
        "schema": SCHEMA,
        "source": tokenizer.source,
        "text": text,
        "ids": ids,
        "pieces": [tokenizer.token(id) for id in ids],
        "same": all(parting.index is None for parting in partings),
        "against": [asdict(parting) for parting in partings],
    }
    with written_beside(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
