"""Faults of the machine under a command: memory or disk that ran out, streams that are closed. Each is one line."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from .errors import Interrupted, OpdiffError
from .printable import one_line, shortened

_LONGEST_LINE = 1000  # characters: what a library says of a hostile file has no end
_OUT_OF_MEMORY = "out of memory; give fewer tokens, close other programs, or raise the limit (ulimit -v)"
_NATIVE = "a native library failed ({}), as some do when memory runs out; give fewer tokens, or close other programs"
# How native libraries say it: C++, torch, onnxruntime, the loader of shared libraries, Python's threads.
_MEMORY_WORDS = (
    "bad_alloc",
    "DefaultCPUAllocator",
    "Failed to allocate memory",
    "failed to map segment",
    "annot allocate memory",
    "can't start new thread",
)
_OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM)
_OF_FILES = (errno.EMFILE, errno.ENFILE)


def open_streams() -> None:
    """Let a standard stream that the caller closed lead nowhere; else the first file that is opened takes its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (it stays open)


@contextmanager
def faults_told() -> Iterator[None]:
    """End the command with one line for opdiff's own errors and for faults of the machine: with status 2, or 130 where the
    user stopped it. Where the reader of its output went away, with that of SIGPIPE, and no line.
    """
    try:
        yield
    except BrokenPipeError:
        _exit(141)
    except (OpdiffError, MemoryError, OSError, RuntimeError, ImportError, SystemError) as e:
        line = _fault(e)
        if line is None:
            raise
        _exit(130 if isinstance(e, Interrupted) else 2, line)


def _fault(error: Exception) -> str | None:
    """What to say; None for an error that is neither the machine's nor opdiff's own."""
    if any(_is_of_memory(one) for one in _chain(error)):
        return _OUT_OF_MEMORY
    if isinstance(error, OpdiffError):
        return shortened(one_line(str(error)), _LONGEST_LINE)
    if isinstance(error, OSError) and error.errno in (*_OF_DISK, *_OF_FILES):
        return f"{error.filename or 'output'}: {error.strerror}; choose another place"
    if isinstance(error, SystemError):  # its code in C said that it failed, and not why
        return _NATIVE.format(shortened(one_line(str(error)), _LONGEST_LINE))
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def _is_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or any(words in str(error) for words in _MEMORY_WORDS)


def _exit(status: int, line: str = "") -> NoReturn:
    """Say it and leave; what the streams still hold has nowhere to go."""
    with suppress(OSError):
        if line:
            print(f"opdiff: {line}", file=sys.stderr, flush=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)
