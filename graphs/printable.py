"""Text from files (names of nodes, tokens, paths), made safe to print: what does not show is written out."""

from __future__ import annotations

_KEPT = "\n\t"


def printable(text: str) -> str:
    """The text with control characters, lone surrogates, and marks that turn the direction of writing as `\\x1b`, `\\u202e`."""
    return "".join(one if one.isprintable() or one in _KEPT else _written_out(one) for one in text)


def one_line(text: str) -> str:
    """The same, with every run of white space as one space."""
    return printable(" ".join(text.split()))


def shortened(text: str, n_characters: int) -> str:
    """No more than so many characters, and a mark where some are left out."""
    return text if len(text) <= n_characters else f"{text[:n_characters]} ..."


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode()
