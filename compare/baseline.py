"""A baseline: the causes of an earlier result are known and accepted; what is new, and what is gone, is found here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..graphs.errors import InputError
from ..graphs.stages import graph_order
from .result import Result, RootCause, SideInfo

Identity = tuple[str, ...]
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_OF_A_PLACE = (
    (re.compile(r"\bembed\b|\b(?:blk\.\d+\.)?ffn_residual\b"), "the residual stream"),
    (re.compile(r"\bblk\.\d+\."), ""),
    (re.compile(r"[\w.]+\.(?:weight|bias)\b"), "the weight"),
    (re.compile(r"\b[qkv]_(proj|norm|rope)\b"), r"qkv_\1"),
)
_VERSION = re.compile(r"\s+[vb]?\d[\w.+-]*")


@dataclass(frozen=True, slots=True)
class Placed:
    """A cause, and those of its taps of which something is said."""

    cause: RootCause
    taps: tuple[str, ...]

    @property
    def is_partial(self) -> bool:
        """Whether the cause has other taps too."""
        return len(self.taps) < len(self.cause.taps)


@dataclass(frozen=True, slots=True)
class Compared:
    """A result against a baseline. A cause that spreads is `known` at its old places and `new` at the others.

    Args:
        gone: causes of the baseline that this run did not find, where it compared the same taps.
        unseen: those of which this run did not compare the taps.
        left_over: a difference that no region accounts for, where the baseline had none; None: there is none.
        has_same_tokens: whether both are of the same tokens at the same positions; other ones may show less, or more.
    """

    known: tuple[Placed, ...]
    new: tuple[Placed, ...]
    gone: tuple[Placed, ...]
    unseen: tuple[Placed, ...]
    left_over: str | None
    has_same_tokens: bool

    @property
    def passes(self) -> bool:
        """Whether nothing is new."""
        return not self.new and self.left_over is None

    def new_taps(self, cause: RootCause) -> tuple[str, ...]:
        """Where a cause of the result is new; nowhere, if it is known at all of its taps."""
        return next((one.taps for one in self.new if one.cause is cause), ())


def compared(result: Result, baseline: Result, path: Path) -> Compared:
    """Hold a result against a baseline of the same pair.

    Args:
        path: of the baseline's file, for messages.
    Raises:
        InputError: the baseline is of other runtimes, or of another checkpoint.
    """
    _check_pair(result, baseline, path)
    accepted, found = _taps_by_identity(baseline), _taps_by_identity(result)
    known = [(cause, accepted.get(_identity(cause, result), set())) for cause in result.root_causes]
    missing = [
        (cause, set(cause.taps) - found.get(_identity(cause, baseline), set())) for cause in baseline.root_causes
    ]
    seen = {row.tap for row in result.rows}
    is_left_over = result.closed.all_found is False and baseline.closed.all_found is not False
    return Compared(
        known=_placed((cause, set(cause.taps) & taps) for cause, taps in known),
        new=_placed((cause, set(cause.taps) - taps) for cause, taps in known),
        gone=_placed((cause, taps & seen) for cause, taps in missing),
        unseen=_placed((cause, taps - seen) for cause, taps in missing),
        left_over=result.closed.text if is_left_over else None,
        has_same_tokens=(result.tokens, result.first_position) == (baseline.tokens, baseline.first_position),
    )


def _placed(found: Iterable[tuple[RootCause, set[str]]]) -> tuple[Placed, ...]:
    return tuple(Placed(cause, tuple(sorted(taps, key=graph_order))) for cause, taps in found if taps)


def _taps_by_identity(result: Result) -> dict[Identity, set[str]]:
    taps: dict[Identity, set[str]] = {}
    for cause in result.root_causes:
        taps.setdefault(_identity(cause, result), set()).update(cause.taps)
    return taps


def _identity(cause: RootCause, result: Result) -> Identity:
    """What a cause is, wherever it is and however much it does. Numbers count to three digits: on other processors, and
    solved from a trace, the rest is rounding.
    """
    said = cause.edit
    if cause.kind == "convention":
        said = (str(cause.convention), str(cause.a_value), str(cause.b_value))
    if cause.kind == "unexplained":
        said = next((one.relations for one in result.divergences if one.tap == cause.taps[0]), ())
    return (cause.kind, *map(_anywhere, said))


def _anywhere(text: str) -> str:
    """What is said of the first of a cause's taps, without the names of that place: mended there, it is still the same."""
    for pattern, word in _OF_A_PLACE:
        text = pattern.sub(word, text)
    return _NUMBER.sub(lambda number: f"{float(number[0]):.3g}", text)


def _check_pair(result: Result, baseline: Result, path: Path) -> None:
    pairs = [(result.a, baseline.a), (result.b, baseline.b)]
    if any((ours.name, _runtime(ours)) != (theirs.name, _runtime(theirs)) for ours, theirs in pairs):
        raise InputError(
            f"{path}: a baseline of {_pair(baseline)}, where this is of {_pair(result)}; give one that was saved of this pair"
        )
    for ours, theirs in pairs:
        if None not in (ours.checkpoint, theirs.checkpoint) and ours.checkpoint != theirs.checkpoint:
            raise InputError(
                f"{path}: a baseline of checkpoint {str(theirs.checkpoint)[:8]}, where this is of {str(ours.checkpoint)[:8]} "
                f"({ours.name}); save one of this checkpoint"
            )


def _runtime(side: SideInfo) -> str:
    """The runtime without its version, which may rise without another baseline."""
    return _VERSION.sub("", side.runtime)


def _pair(result: Result) -> str:
    return f"{result.a.name} ({result.a.runtime}) and {result.b.name} ({result.b.runtime})"
