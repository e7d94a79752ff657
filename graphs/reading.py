"""Opening files that strangers name: regular files alone, for a pipe makes one wait for ever, and a device has no end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import InputError


def contents(path: Path, advice: str) -> bytes:
    """The bytes of a regular file.

    Args:
        advice: what to do where it cannot be read, behind a semicolon.
    Raises:
        InputError: there is none, it is another kind of file, or it cannot be read.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{path}: neither a file nor a link to one; {advice}")
            return file.read()
    except IsADirectoryError as e:
        raise InputError(f"{path}: a folder; {advice}") from e
    except (OSError, ValueError) as e:  # ValueError: a name with NUL in it
        raise InputError(f"{path}: cannot be read ({getattr(e, 'strerror', None) or e}); {advice}") from e


def text_in(path: Path, advice: str) -> str:
    """The text of a regular file in UTF-8.

    Raises:
        InputError: as above, or it is no UTF-8.
    """
    try:
        return contents(path, advice).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: not UTF-8 ({e.reason} at byte {e.start}); {advice}") from e


def is_regular(path: Path) -> bool:
    """Whether there is a regular file of this name, or a link that leads to one."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
