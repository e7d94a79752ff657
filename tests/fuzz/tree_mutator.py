"""Damage to what JSON and TOML hold: the file stays well formed, and says something else."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 255, 1 << 31, -(1 << 31), 1 << 40, 1 << 63, 1 << 64, 10**30, 0.5, -0.0, 1e308, 1e-320,
    float("inf"), float("-inf"), float("nan"), "", "a", "0", "NaN", "\0", "\x1b[2J\x1b]0;x\x07", "\u202eabc", "\ud800",
    "../../etc/passwd", "/dev/zero", "<script>alert(1)</script>", "]]>", "&amp;", "blk.0.q_proj", "blk.999999999.q_proj",
    "{N}", "%s%s%n", "A" * 5000, "a\nb", [], {}, [[]], [None], {"": None}, [1, 2, 3], ["a", 1], {"a": {"b": []}}, [[[[[]]]]],
)  # fmt: skip
_DEEP, _DEEP_HERE = 3000, "deep here"
Place = tuple[Any, Any]  # a container, and the key or index in it


def changed(value: Any, random: Random) -> Any:
    """A copy of a tree with one to four changes: a value is made odd, left out, moved, repeated or nested deep."""
    held = {"whole": copy.deepcopy(value)}
    for _ in range(random.randint(1, 4)):
        places = list(_places(held))
        if places:
            _change(*random.choice(places), random, places)
    return held.get("whole")


def text_of(tree: Any) -> str:
    """JSON, which may hold NaN and lone surrogates as some writers' does; deep ones too."""
    return json.dumps(tree).replace(f'"{_DEEP_HERE}"', "[" * _DEEP + "]" * _DEEP)


def _places(tree: Any) -> Iterator[Place]:
    waiting = [tree]
    while waiting:
        container = waiting.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            yield container, key
            if isinstance(container[key], dict | list):
                waiting.append(container[key])


def _change(container: Any, key: Any, random: Random, places: list[Place]) -> None:
    if (isinstance(container, dict) and key not in container) or (
        isinstance(container, list) and key >= len(container)
    ):
        return  # an earlier change took it away
    kind = random.random()
    if kind < 0.5:
        container[key] = copy.deepcopy(random.choice(ODD))
    elif kind < 0.6:
        other, there = random.choice(places)
        if not isinstance(other, dict) or there in other:
            container[key] = copy.deepcopy(other[there]) if isinstance(other, dict) or there < len(other) else None
    elif kind < 0.7:
        container[key] = _near(container[key], random)
    elif kind < 0.78:
        container[key] = _DEEP_HERE
    elif kind < 0.9 and isinstance(container, dict):
        container[str(random.choice(ODD))[:200]] = container.pop(key)
    elif isinstance(container, list):
        container[key : key + random.randint(0, 1)] = [
            copy.deepcopy(container[key]) for _ in range(random.randint(0, 3))
        ]
    else:
        del container[key]


def _near(value: Any, random: Random) -> Any:
    """A value of the same kind that is not much other."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return random.choice((value + 1, value - 1, -value, value * 2, value * 1000, float(value)))
    if isinstance(value, str):
        at = random.randrange(len(value) + 1)
        return (
            value[:at] + random.choice(("", "\0", ".", "/", " ", "é", "\x7f", "0")) + value[at + random.randint(0, 1) :]
        )
    return [value]
