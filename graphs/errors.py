"""The errors that a user meets: one line that says what, where, and what to do."""

from __future__ import annotations

from pathlib import Path


class OpdiffError(Exception):
    """The base of every error that opdiff raises on purpose; the commands print it and exit with 2."""


class InputError(OpdiffError):
    """A file, an option or a value from outside that cannot be used as it is."""


class ShapeError(OpdiffError):
    """Two shapes, or a shape and its axes, that cannot be brought together."""


class Interrupted(OpdiffError):
    """The user stopped a command; the text says how far it came."""


def damaged(path: Path, what: str, error: Exception) -> InputError:
    """What to say of a file that cannot be read."""
    reason = " ".join(str(error).split())[:160]
    return InputError(f"{path}: not {what}, or damaged ({reason or type(error).__name__}); write it anew")
