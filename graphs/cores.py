"""The machine's cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")
S = TypeVar("S")


def n_usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_all_cores(function: Callable[[S], T], items: Collection[S]) -> Iterator[T]:
    """What a function makes of each item, in order; so many at once as there are cores, each in a copy of this context, which
    has numpy's settings.
    """
    cores = ThreadPoolExecutor(n_usable_cores())
    try:
        for made in [cores.submit(copy_context().run, function, item) for item in items]:
            yield made.result()
    finally:
        cores.shutdown(cancel_futures=True)


def side_by_side(first: Callable[[], S], second: Callable[[], T]) -> tuple[S, T]:
    """What two functions make, the second one in a thread of its own, in a copy of this context."""
    with ThreadPoolExecutor(1) as beside:
        other = beside.submit(copy_context().run, second)
        return first(), other.result()
