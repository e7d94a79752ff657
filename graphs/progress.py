"""How far the work is: steps and counts, shown on stderr while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, TypeVar

T = TypeVar("T")
Watcher = Callable[[int, int], None]  # how many are done, of how many
Loudness = Literal["quiet", "normal", "verbose"]
_SILENT_SECONDS = 10.0  # of a run without a terminal, after which each step is told in a line

_watcher: ContextVar[Watcher | None] = ContextVar("opdiff_watcher", default=None)
loudness: ContextVar[Loudness] = ContextVar("opdiff_loudness", default="normal")


def counted(items: Collection[T]) -> Iterator[T]:
    """The items, one by one; whoever watches is told how many are done. What is counted within is a part of this."""
    watcher = _watcher.get()
    if watcher is None:
        yield from items
        return
    _watcher.set(None)
    try:
        for n, item in enumerate(items):
            watcher(n, len(items))
            yield item
        watcher(len(items), len(items))
    finally:
        _watcher.set(watcher)


@contextmanager
def uncounted() -> Iterator[None]:
    """Nobody is told how much of what is done within is done: it runs beside something else that is counted."""
    watcher = _watcher.set(None)
    try:
        yield
    finally:
        _watcher.reset(watcher)


def count(done: int, total: int) -> None:
    """Tell whoever watches how many are done, for a loop that does not hold its items."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(done, total)


class Steps:
    """The steps of one command as they begin. `done` are those before the one that runs."""

    def __init__(self, show: Callable[[str], None], note: Callable[[str], None]) -> None:
        self._show, self.note = show, note
        self.names: list[str] = []

    def enter(self, step: str) -> None:
        """Begin a step."""
        self.names.append(step)
        self._show(step)

    @property
    def current(self) -> str:
        return self.names[-1] if self.names else "starting"


@contextmanager
def steps_shown() -> Iterator[Steps]:
    """Steps on stderr: a bar where that is a terminal; else a line each, once the run has taken ten seconds.

    Where `loudness` is quiet, nothing; verbose, a line each from the start.
    """
    loud = loudness.get()
    if loud == "quiet":
        shown = _nothing()
    elif sys.stderr.isatty() and loud == "normal":
        shown = _bar()
    else:
        shown = _lines(0.0 if loud == "verbose" else _SILENT_SECONDS)
    with shown as (steps, watcher):
        before = _watcher.get()
        _watcher.set(watcher)
        try:
            yield steps
        finally:
            _watcher.set(before)


@contextmanager
def _nothing() -> Iterator[tuple[Steps, Watcher | None]]:
    yield Steps(lambda step: None, _told), None


@contextmanager
def _lines(after: float) -> Iterator[tuple[Steps, Watcher | None]]:
    """A line for each step that begins, or is still going on, when so many seconds have passed."""
    start, told = time.monotonic(), [""]

    def tell(step: str) -> None:
        seconds = time.monotonic() - start
        if seconds >= after and step != told[0]:
            told[0] = step
            _told(f"{step} ({seconds:.0f} s)")

    steps = Steps(tell, _told)
    yield steps, lambda done, total: tell(steps.current)


@contextmanager
def _bar() -> Iterator[tuple[Steps, Watcher | None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def note(text: str) -> None:
            progress.console.print(f"opdiff: {text}", markup=False, highlight=False, soft_wrap=True)

        yield (
            Steps(lambda step: progress.reset(task, description=step, total=None), note),
            lambda done, total: progress.update(task, completed=done, total=total),
        )


def _told(text: str) -> None:
    print(f"opdiff: {text}", file=sys.stderr, flush=True)
