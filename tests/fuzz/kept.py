"""Cases that failed, put aside as they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def keep(name: str, number: int, words: list[str], wrong: str, work: Path) -> None:
    """Put a case that failed aside, with its command."""
    kept = work / "failed" / f"{name}-{number}"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(work / "case", kept)
    (kept / "command.json").write_text(json.dumps({"words": words, "wrong": wrong}))
