"""What a tokenizer offers, and what every source of one shares."""

from collections.abc import Sequence
from typing import Any, Protocol

from ...graphs.errors import InputError

INSTALL_TOKENIZERS = "pip install 'tokenizers>=0.21'"


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def source(self) -> str:
        """The file, and how it cuts a text: for reports."""

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""

    def encode(self, text: str, special: bool = True, add_bos: bool | None = None) -> list[int]:
        """The ids of a text.

        Args:
            special: True: the text of a special token becomes that token. False: it is plain text, except for the
                tokens that the model's maker added as ordinary words (user-defined ones), as in llama.cpp.
            add_bos: None: BOS and EOS as the file says, which is what llama.cpp does to a prompt. False: neither.
                True: BOS, and EOS as the file says.
        Raises:
            InputError: a text with lone surrogates, or BOS asked for where there is none.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included; bytes that are not UTF-8 become U+FFFD. InputError: no such id."""

    def token(self, id: int) -> str:
        """A token as the vocabulary writes it (`Ġcapital`). InputError: no such id."""


def check_text(text: str) -> None:
    """Raise InputError for a text that is not Unicode: one that holds half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text has a lone surrogate at character {error.start}, so it is not Unicode; give it as UTF-8"
        ) from error


def library() -> Any:
    """HF's `tokenizers`, imported when it is first needed. InputError: it is not installed."""
    try:
        import tokenizers
    except ImportError as error:
        raise InputError(f"the tokenizers package is not installed; {INSTALL_TOKENIZERS}") from error
    return tokenizers
