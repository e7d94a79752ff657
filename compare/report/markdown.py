"""Markdown of text that others wrote: shown as it is, whatever stands in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ...graphs.printable import one_line

_MARKS = str.maketrans({mark: f"\\{mark}" for mark in "\\`*[]<>&|~"} | {"@": "@<!-- -->", "$": "<span>$</span>"})
_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # within a word it is none of Markdown's
_NUMBER_SIGN = re.compile(r"#(?=\d)")
_ADDRESS = re.compile(r"(?i)\b(www)\.|(://)")


def escaped(text: str) -> str:
    """Text in one line, in which nothing is Markdown, HTML, a mention, an issue, a formula or a link; not for a line's begin."""
    marked = _UNDERSCORE.sub(r"\\_", one_line(text).translate(_MARKS))
    marked = _NUMBER_SIGN.sub("#<!-- -->", marked)
    return _ADDRESS.sub(lambda found: f"{found[1]}\\." if found[1] else "\\://", marked)


def code(text: str) -> str:
    """Text as code in one line, outside of tables."""
    shown = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    padding = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{padding}{shown}{padding}{fence}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown."""
    lines = (headings, ["---"] * len(headings), *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def folded(title: str, *parts: str) -> str:
    """What opens by a click. title: plain text of our own."""
    return "\n\n".join((f"<details><summary>{title}</summary>", *parts, "</details>"))
