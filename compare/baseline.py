"""A baseline: the causes of an earlier result are known and accepted; what is new, and what is gone, is found here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .result import Result, RootCause

Identity = tuple[str, ...]
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_VERSION = re.compile(r"\s+[vb]?\d[\w.+-]*")


@dataclass(frozen=True, slots=True)
class Placed:
    """A cause, and those of its taps of which something is said."""

    cause: RootCause
    taps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """A result against a baseline. A cause that spreads is `known` at its old places and `new` at the others.

    Args:
        gone: causes of the baseline, where this run compared the same taps and did not find them.
        unseen: the same, where this run did not compare those taps.
        left_over: a difference that no region accounts for, where the baseline had none such; None: there is none.
        has_same_tokens: whether both are of the same tokens; other ones may show less.
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

    def accepts(self, cause: RootCause) -> bool:
        """Whether a cause of the result is known at all of its taps."""
        return all(one.cause is not cause for one in self.new)


def compared(result: Result, baseline: Result, path: Path) -> Compared:
    """Hold a result against a baseline of the same pair.

    Args:
        path: of the baseline's file, for messages.
    Raises:
        InputError: the baseline is of other runtimes, or of another checkpoint.
    """
    _check_pair(result, baseline, path)
    accepted, found = _taps_by_identity(baseline), _taps_by_identity(result)
    seen = {row.tap for row in result.rows}
    missing = [
        (cause, set(cause.taps) - found.get(_identity(cause, baseline), set())) for cause in baseline.root_causes
    ]
    is_left_over = result.closed.all_found is False and baseline.closed.all_found is not False
    known_at = [
        (cause, set(cause.taps) & accepted.get(_identity(cause, result), set())) for cause in result.root_causes
    ]
    return Compared(
        known=_placed(known_at),
        new=_placed((cause, set(cause.taps) - known) for cause, known in known_at),
        gone=_placed((cause, taps & seen) for cause, taps in missing),
        unseen=_placed((cause, taps - seen) for cause, taps in missing),
        left_over=result.closed.text if is_left_over else None,
        has_same_tokens=result.tokens == baseline.tokens,
    )
