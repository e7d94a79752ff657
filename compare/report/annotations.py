"""GitHub annotations: an error at B's line of each cause, and a notice at A's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...graphs.printable import one_line
from ..baseline import Compared
from ..result import Result
from .sentences import short_lines

_MESSAGE = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_PROPERTY = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A", ":": "%3A", ",": "%2C"})


def github_annotations(result: Result, root: Path, against: Compared | None = None) -> Iterator[str]:
    """A line to print for each source line that is a file's below the repository root; what a baseline knows is a notice."""
    for cause in result.root_causes:
        what, where, *rest = map(one_line, short_lines(cause, result))
        level = "error" if against is None or against.new_taps(cause) else "notice"
        yield from _annotation(level, cause.source, root, what, "\n".join((where, *rest)))
        step = f"the same step of {one_line(result.a.name)}, A"
        yield from _annotation("notice", cause.a_source, root, what, f"{step}\n{where}")


def _annotation(level: str, source: str | None, root: Path, title: str, message: str) -> Iterator[str]:
    place = None if source is None else _place(source, root)
    if place is not None:
        properties = {"file": place[0], "line": place[1], "title": f"opdiff: {title}"}
        told = ",".join(f"{name}={value.translate(_PROPERTY)}" for name, value in properties.items())
        yield f"::{level} {told}::{message.translate(_MESSAGE)}"


def _place(source: str, root: Path) -> tuple[str, str] | None:
    """The file, from the root, and the line; None where it is no file below the root."""
    file, _, line = source.rpartition(":")
    try:
        path = Path(file).resolve().relative_to(root.resolve())
    except (ValueError, OSError):
        return None
    return (path.as_posix(), line) if line.isdecimal() and (root / path).is_file() else None
