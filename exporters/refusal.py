"""What torch or a user's own code refuses, told in one line: what, at which line of the user's, and what to do."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

import torch

from ..graphs.errors import InputError

NEEDS_LENGTH = "a loop over the tokens, or a shape that is fixed, needs --length N (an export for exactly N tokens)"
_NOT_THE_USERS = (Path(torch.__file__).parent, Path(__file__).parent)
LIBRARIES = tuple(Path(sysconfig.get_path(key)) for key in ("purelib", "platlib", "stdlib"))
_LONGEST = 300


def own_line(frames: Iterable[traceback.FrameSummary]) -> str | None:
    """`file.py:42` of the innermost frame of the user's own code; None where there is none.

    That is neither torch's nor of these exporters, and of no installed package where there is a frame outside of those.
    """
    candidates = [frame for frame in frames if frame.lineno and not frame.filename.startswith("<")]
    candidates = [frame for frame in candidates if not _is_below(frame, _NOT_THE_USERS)]
    own = [frame for frame in candidates if not _is_below(frame, LIBRARIES)] or candidates
    return f"{own[-1].filename}:{own[-1].lineno}" if own else None


def _is_below(frame: traceback.FrameSummary, folders: Iterable[Path]) -> bool:
    return any(Path(frame.filename).is_relative_to(folder) for folder in folders)


def reason(error: BaseException) -> str:
    """The error in one line: its kind, what it says, and the innermost line of the user's own code."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    line = own_line(traceback.extract_tb(error.__traceback__))
    said = next((text.strip() for text in str(error).splitlines() if text.strip()), "")
    text = f"{type(error).__name__}: {said[:_LONGEST]}" if said else type(error).__name__
    return text if line is None else f"{text} ({line})"


def with_own_line(error: InputError) -> InputError:
    """One of our own errors, with the user's line at which it came, where there is one."""
    line = own_line(traceback.extract_tb(error.__traceback__))
    return error if line is None else InputError(f"{error} ({line})")


def export_reason(error: BaseException) -> str:
    """The same for what came while a module was traced, with what to do about it."""
    text = reason(error)
    if "data-dependent" in text:
        text = re.sub(r"\s*\(unhinted:.*?\)\.?", "", text)
        return f"{text}; what is computed may not depend on a tensor's values: choose with torch.where"
    named = re.sub(r"\bs\d+\b", "tokens", text)
    return f"{named}; {NEEDS_LENGTH}" if named != text else text
