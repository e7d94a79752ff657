"""A model's own `tokenizer.json`, as it stands beside its safetensors."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os.path import exists
from pathlib import Path
from typing import Any

from ...graphs.errors import InputError
from ...graphs.reading import text_in
from .tokenizer import check_text, library


class JsonTokenizer:
    """The tokenizer of an HF folder, which gives the ids that HF's own tokenizers give.

    Truncation and padding that the file may ask for are turned off.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            InputError: the file is missing or is not a tokenizer.json, or the tokenizers package is not installed.
        """
        self._path = path
        self._tokenizer = _load(path)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @property
    def source(self) -> str:
        return str(self._path)

    @property
    def vocab_size(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, special: bool = True, add_bos: bool | None = None) -> list[int]:
        check_text(text)
        self._tokenizer.encode_special_tokens = not special
        with _one_line(self._path):
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_bos is not False).ids
        return self._with_bos(ids) if add_bos else ids

    def decode(self, ids: Sequence[int]) -> str:
        for id in ids:
            self.token(id)
        with _one_line(self._path):
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def token(self, id: int) -> str:
        token = self._tokenizer.id_to_token(id) if id >= 0 else None
        if token is None:
            raise InputError(f"{self._path}: no token {id}; it has {self.vocab_size} tokens")
        return str(token)

    def _with_bos(self, ids: list[int]) -> list[int]:
        """The ids with BOS in front, unless the file's own template has put it there."""
        bos = _bos_text(self._path.with_name("tokenizer_config.json"))
        id = None if bos is None else self._tokenizer.token_to_id(bos)
        if id is None:
            raise InputError(
                f"{self._path}: BOS is asked for, and tokenizer_config.json beside it names none; encode with add_bos=False"
            )
        added = self._tokenizer.encode("", add_special_tokens=True).ids
        return ids if added[:1] == [id] else [id, *ids]


def _load(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file; a folder of safetensors needs its tokenizer.json beside them")
    load = library().Tokenizer.from_file
    with _one_line(path):
        return load(str(path))


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """What the library cannot do with a file, as one line.

    It raises plain Exception, whatever is wrong; or it panics, which is no Exception, and writes so on stderr by itself.
    """
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(
            f"{path}: not a tokenizer.json that can be used ({error!s:.160}); download it again"
        ) from error
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _bos_text(path: Path) -> str | None:
    if not exists(path):
        return None
    try:
        config = json.loads(text_in(path, "download it again"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); download it again") from error
    bos = config.get("bos_token") if isinstance(config, dict) else None
    text = bos.get("content") if isinstance(bos, dict) else bos
    return text if isinstance(text, str) else None
