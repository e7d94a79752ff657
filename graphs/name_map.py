"""A name map: which of a foreign runtime's tensors is which stage, and in which axes. A TOML file.

[names]
"layer{N}.attn.q" = "blk.{N}.q_proj"    # {N} is the number of a block
"input_ids" = "tokens"

[axes]
q_proj = "token head channel"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import InputError
from .reading import text_in
from .stages import CACHES, OF_SOME, STAGES, is_stage

TOKENS = "tokens"
AXES = ("batch", "token", "head", "key", "channel", "vocab", "slot", "expert", "choice")
_BLOCK = "{N}"


@dataclass(frozen=True)
class NameMap:
    """`tap_of` names a tensor's tap; `axes` gives a stage's axes, where the map says them."""

    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    patterns: tuple[tuple[re.Pattern[str], str], ...] = ()

    def tap_of(self, tensor: str) -> str | None:
        """The tap that the map gives a tensor; None where it does not name it. What stands first in the map wins."""
        for pattern, target in self.patterns:
            match = pattern.fullmatch(tensor)
            if match:
                return target.replace(_BLOCK, str(int(match["N"]))) if _BLOCK in target else target
        return None


def read_name_map(path: Path) -> NameMap:
    """Read and check a name map.

    Raises:
        InputError: no such file, no TOML, another table, a stage or axis that does not exist, a stage named twice.
    """
    try:
        tables = tomllib.loads(text_in(path, "give the path of a name map"))
    except (ValueError, RecursionError) as e:
        raise InputError(
            f"{path}: no TOML that can be read ({e}); write it as a table [names] and a table [axes]"
        ) from e
    for name, table in tables.items():
        texts = isinstance(table, dict) and all(isinstance(value, str) for value in table.values())
        if name not in ("names", "axes") or not texts:
            raise InputError(f'{path}: {name}: a name map is [names] with "their.name" = "blk.0.q_proj", and [axes]')
    names = tables.get("names", {})
    _check_targets(path, names)
    axes = {stage: _axes(path, stage, words) for stage, words in tables.get("axes", {}).items()}
    return NameMap(axes, tuple((_pattern(name), target) for name, target in names.items()))


def _check_targets(path: Path, names: Mapping[str, str]) -> None:
    first: dict[str, str] = {}
    for name, target in names.items():
        if (_BLOCK in name) != (_BLOCK in target):
            raise InputError(f'{path}: "{name}" = "{target}": {_BLOCK} must stand on both sides, or on neither')
        if target != TOKENS and not is_stage(target.replace(_BLOCK, "0")):
            raise InputError(f'{path}: "{target}" is no stage; stages are {TOKENS}, logits, blk.0.q_proj and so on')
        if first.setdefault(target, name) != name:
            raise InputError(f'{path}: "{first[target]}" and "{name}" are both {target}; name each stage once')


def _axes(path: Path, stage: str, text: str) -> tuple[str, ...]:
    words = tuple(text.split())
    if stage not in (*STAGES, *CACHES, *OF_SOME):
        raise InputError(f"{path}: axes of {stage}, which is no stage; leave out the block, as in q_rope")
    if not words or len(set(words)) < len(words) or not set(words) <= set(AXES):
        raise InputError(f"{path}: axes of {stage} are {text!r}; use each at most once of {' '.join(AXES)}")
    return words


def _pattern(name: str) -> re.Pattern[str]:
    """A regular expression of one tensor name, where {N} stands for a number, the same one wherever it stands."""
    head, *rest = (re.escape(part) for part in name.split(_BLOCK))
    return re.compile(head + "".join((r"(?P<N>\d{1,9})" if i == 0 else "(?P=N)") + part for i, part in enumerate(rest)))
