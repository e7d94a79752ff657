"""The map of two graphs as a file: which value of one is which of the other. A user may correct it, and hand it in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...graphs.errors import InputError
from ...graphs.reading import text_in

SCHEMA = "opdiff.map/1"


@dataclass(frozen=True, slots=True)
class Mapped:
    """One entry: a value of A and one of B, by their names in the graphs, and the name that both get."""

    tap: str
    a: str
    b: str


def map_text(entries: Sequence[Mapped]) -> str:
    """A map file's text."""
    points = [{"tap": one.tap, "a": one.a, "b": one.b} for one in entries]
    return json.dumps({"schema": SCHEMA, "points": points}, indent=1) + "\n"


def read_map(path: Path) -> tuple[Mapped, ...]:
    """The entries of a map file.

    Raises:
        InputError: no such file, or it is no map.
    """
    try:
        read = json.loads(text_in(path, "give a map that opdiff align --out wrote"))
        schema, points = read["schema"], read["points"]
        entries = tuple(Mapped(str(one.get("tap") or one["a"]), str(one["a"]), str(one["b"])) for one in points)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        reason = f"{type(e).__name__}: {e}"[:120]
        raise InputError(f"{path}: no map of two graphs ({reason}); opdiff align --out writes one") from e
    if schema != SCHEMA:
        raise InputError(f"{path}: its schema is {schema!r}, where {SCHEMA!r} is read; make it again with opdiff align")
    taps = [one.tap for one in entries]
    if len(set(taps)) < len(taps):
        twice = next(tap for tap in taps if taps.count(tap) > 1)
        raise InputError(f"{path}: the tap {twice} stands in it twice; let each stand once")
    for side in "ab":
        names = [getattr(one, side) for one in entries]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{path}: {side.upper()}'s value {twice} stands in it twice; let each stand once")
    return entries
