"""Processes that are to be interrupted."""

from __future__ import annotations

import signal


def heed_interrupts() -> None:
    """Take SIGINT as a program in a terminal does: a shell starts those in the background deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
