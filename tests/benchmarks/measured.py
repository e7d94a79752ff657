"""Commands as whole processes: wall seconds and the peak of anonymous memory."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_EVERY_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Measured:
    """The medians over several runs."""

    seconds: float
    anonymous_bytes: int


def measured(command: Sequence[str], n_runs: int, may_differ: bool = False) -> Measured:
    """Run a command several times.

    Raises:
        RuntimeError: it failed; `may_differ` lets an exit status of 1 pass, which is `opdiff compare`'s "they differ".
    """
    runs = [_run(command, (0, 1) if may_differ else (0,)) for _ in range(n_runs)]
    return Measured(statistics.median(r.seconds for r in runs), int(statistics.median(r.anonymous_bytes for r in runs)))


def _run(command: Sequence[str], allowed: Sequence[int]) -> Measured:
    run, status = watched(command)
    if status not in allowed:
        raise RuntimeError(f"{' '.join(command)}: exit status {status}")
    return run


def watched(
    command: Sequence[str],
    folder: Path | None = None,
    log: Path | None = None,
    limit_seconds: float = math.inf,
    limit_bytes: float = math.inf,
) -> tuple[Measured, int | None]:
    """One run in `folder`, and its exit status: None where it passed a limit and was stopped.

    Args:
        log: takes stdout and stderr, added to what is there; without it stdout is dropped.
        limit_bytes: of anonymous memory.
    """
    with open(log or os.devnull, "ab") as out:
        start, peak, stopped = time.perf_counter(), 0, False
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out if log else None)
        while process.poll() is None:
            peak = max(peak, _anonymous_bytes(process.pid))
            if peak > limit_bytes or time.perf_counter() - start > limit_seconds:
                process.kill()
                stopped = True
            time.sleep(_EVERY_SECONDS)
        return Measured(time.perf_counter() - start, peak), None if stopped else process.returncode


def _anonymous_bytes(pid: int) -> int:
    """Of a process and all that it started: `opdiff` itself works in a child."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    own = sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return own + sum(_anonymous_bytes(int(child)) for child in children)


def python(script: Path, *arguments: object) -> list[str]:
    """The command that runs a script of this folder in this environment."""
    return [sys.executable, str(script), *map(str, arguments)]


def opdiff(*arguments: object) -> list[str]:
    """The command `opdiff` of this environment."""
    return [str(Path(sys.executable).with_name("opdiff")), *map(str, arguments)]
