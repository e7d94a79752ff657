"""Text from files on the terminal, in tables and lines: what does not show is written out, and brackets are no markup."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ...graphs.printable import one_line


class PlainTable(Table):
    """A table whose cells are such text."""

    def add_column(self, header: Any = "", *arguments: Any, **options: Any) -> None:
        super().add_column(Text(one_line(str(header))), *arguments, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(Text(one_line(str(cell))) for cell in cells), **options)


def plain(text: str) -> str:
    """One line of such text, for rich to print."""
    return escape(one_line(text))
