"""`tap` and `past`: how a torch module marks its stages and its cache. They need no torch themselves, so that importing
opdiff stays cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..graphs.errors import InputError

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Tapped:
    """One value that a module marked while it was traced."""

    name: str
    value: Any
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Collector:
    taps: dict[str, Tapped]
    mark: Callable[[Any], Any]
    given: Mapping[str, Any] | None
    asked: dict[str, Any] = field(default_factory=dict)


_collector: ContextVar[_Collector | None] = ContextVar("opdiff_taps", default=None)


def tap(name: str, value: Value, axes: str) -> Value:
    """Mark `value` as the tap `name`; outside of an export this does nothing.

    Use what it returns, so that the tapped value is the one that is read on.

    Args:
        name: a stage, with its block where it belongs to one: `blk.0.q_rope`, `logits`.
        value: a torch tensor of any shape.
        axes: one word for each dimension: `token head channel`.
    Raises:
        InputError: during an export, when the name is taken or the axes do not fit the shape.
    """
    collector = _collector.get()
    if collector is None:
        return value
    taps = collector.taps
    words = tuple(axes.split())
    if name in taps:
        raise InputError(f"tap {name}: marked twice; give each tap a name of its own")
    rank = len(value.shape)  # type: ignore[attr-defined]
    if len(words) != rank:
        raise InputError(f"tap {name}: {len(words)} axes ({axes!r}) for a tensor of {rank} dimensions; name each one")
    marked = collector.mark(value)
    taps[name] = Tapped(name, marked, words)
    return marked


def past(name: str, initial: Value) -> Value:
    """What the tap `name` was at the end of the step before: a cache. In the first step, and outside of an export with
    `--cache`, it is `initial`.

    Args:
        name: a tap that the same forward marks later: `blk.0.k_cache`.
        initial: a torch tensor without rows, `k[:0]`, for what grows by the tokens of each step; zeros of its size for
            what keeps its size.
    """
    collector = _collector.get()
    if collector is None or collector.given is None:
        return initial
    collector.asked.setdefault(name, initial)
    return collector.given.get(name, initial)


def keeps_cache() -> bool:
    """Whether this is an export with `--cache`."""
    collector = _collector.get()
    return collector is not None and collector.given is not None


@contextmanager
def collected(
    mark: Callable[[Any], Any] = lambda value: value,
    given: Mapping[str, Any] | None = None,
    asked: dict[str, Any] | None = None,
) -> Iterator[dict[str, Tapped]]:
    """Collect what `tap` marks inside this block, by name and in order of marking; `tap` returns what `mark` does.

    Args:
        given: what `past` returns, by name, instead of what it is given; None: there is no cache.
        asked: takes what `past` was given, by name.
    """
    taps: dict[str, Tapped] = {}
    token = _collector.set(_Collector(taps, mark, given, {} if asked is None else asked))
    try:
        yield taps
    finally:
        _collector.reset(token)
