"""Cases that failed: put aside as they were, and kept in `found/` once they are mended, where each is a test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

COMMAND = "command.json"
OUTPUTS = {"o.html", "o.xml", "o.md", "o.json"}  # what a case's command may write
_FOUND = Path(__file__).parent / "found"


def found() -> list[Path]:
    """The folder of every case that ever failed."""
    return sorted(path.parent for path in _FOUND.glob(f"*/{COMMAND}"))


def keep(name: str, number: int, words: list[str], wrong: str, work: Path) -> None:
    """Put a case that failed aside, with its command."""
    kept = work / "failed" / f"{name}-{number}"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(work / "case", kept, symlinks=True, ignore=_left_out)
    (kept / COMMAND).write_text(json.dumps({"words": words, "wrong": wrong}))


def _left_out(folder: str, names: list[str]) -> list[str]:
    """What the command wrote, and pipes, which cannot be copied."""
    return [name for name in names if name in OUTPUTS or (Path(folder) / name).is_fifo()]
