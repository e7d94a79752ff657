"""A command that is killed at every point, in one pass.

What a killed process leaves on the disk depends on where it was killed alone. So at each point the process forks: it kills
itself, with SIGKILL, and its clone, which stands at the very same point, goes on from there once the test has looked at what is
left. A point is each event of Python's audit hooks by which files and folders change, just before it; and moments at random.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from .warm import PATIENCE_SECONDS, run, start

_CHANGES = {
    "mmap.__new__",
    "os.chmod",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "os.utime",
    "shutil.rmtree",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_MOMENTS = 8  # at random, of a command; between two, the clone works for 0.05 to 0.25 seconds of its processor's time


@dataclass(frozen=True, slots=True)
class Killed:
    """A process that was killed before `event`, and the command goes on when the next one is asked for."""

    event: str


def kills(arguments: list[str], folder: Path, said: Path, **environment: str) -> Iterator[Killed]:
    """Each death of the command. It returns when a clone has reached the end.

    Raises:
        AssertionError: the last one ended with another status than 0 or 1.
    """
    ours, theirs = Pipe()
    process = start(run, arguments, folder, said, environment, partial(_die_often, theirs), partial(_end, theirs))
    theirs.close()
    while True:
        assert ours.poll(PATIENCE_SECONDS), f"nothing more is heard of {arguments}"
        told = ours.recv()
        if isinstance(told, int):
            assert told in (0, 1), (said / "err").read_text()
            break
        process.join(PATIENCE_SECONDS)
        assert process.exitcode == -signal.SIGKILL
        yield Killed(told)
        ours.send("go on")


def _die_often(pipe: Connection) -> None:
    """Let this process die at each point from now on."""
    moments = iter([random.uniform(0.05, 0.25) for _ in range(_MOMENTS)])

    def die(event: str) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        parent = os.getpid()
        if os.fork():
            os.kill(parent, signal.SIGKILL)
        while os.getppid() == parent:
            time.sleep(0.001)
        pipe.send(event)
        pipe.recv()
        signal.setitimer(signal.ITIMER_VIRTUAL, next(moments, 0))

    def hook(event: str, given: tuple) -> None:
        if event in _CHANGES or (event == "open" and isinstance(given[2], int) and given[2] & _WRITING):
            die(f"{event} {given[:2]}")

    signal.signal(signal.SIGVTALRM, lambda *_: die("a moment at random"))
    sys.addaudithook(hook)


def _end(pipe: Connection, status: int) -> None:
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    pipe.send(status)
    os._exit(0)
