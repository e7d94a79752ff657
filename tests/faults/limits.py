"""What is taken from a process before a command runs in it."""

from __future__ import annotations

import os
import resource
import tempfile


def little_room() -> None:
    """No file may grow over 1 kB, as where a disk is full; the write then fails, for Python ignores the signal."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


def as_nobody() -> None:
    """A user without a name and without rights, as in many containers."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(65533, 65533, 65533)
        os.setresuid(65533, 65533, 65533)
    tempfile.tempdir = None
