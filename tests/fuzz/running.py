"""Cases of one format in worker processes: what came of each, whatever kills a worker."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .kept import keep

_HUNG = 120.0  # seconds without a word from a worker, on a machine that may be busy
_TESTS = Path(__file__).parent.parent


@dataclass
class Tally:
    """What came of the cases of a format: by exit status, the kinds of error lines, the failures, and each case's line."""

    n_cases: int = 0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str, list[str]]] = field(default_factory=list)
    told: dict[int, str] = field(default_factory=dict)

    def add(self, told: dict[str, Any], words: list[str]) -> None:
        self.n_cases += 1
        self.told[told["case"]] = told.get("line", "")
        self.statuses[told.get("status", "died")] += 1
        if told.get("line"):
            self.lines[_kind(told["line"])] += 1
        if "wrong" in told:
            self.failures.append((told["case"], told["wrong"], words))


def _kind(line: str) -> str:
    """A line without what is this case's own: names, numbers and paths."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\([^)]*\)|\[[^]]*\]", "*", line.splitlines()[-1])
    text = re.sub(r"\S*\.(?:onnx|gguf|npz|safetensors|json|toml)\b|\S*\d\S*", "*", text)
    return text[:100]


def run_cases(name: str, first: int, n: int, work: Path, seconds: float = 1e9, step: int = 1) -> Tally:
    """Run cases first, first + step, ... until there are n, or the time is up."""
    tally, start = Tally(), time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    end, at = first + n * step, first
    while at < end and time.monotonic() - start < seconds:
        at = _one_worker(name, at, end, step, work, tally, start + seconds)
    tally.seconds = time.monotonic() - start
    return tally


def _one_worker(name: str, first: int, end: int, step: int, work: Path, tally: Tally, until: float) -> int:
    """Run cases until they end, or one of them kills or hangs the worker; the number of the next case."""
    command = [sys.executable, "-m", "fuzz.worker", name, str(first), str(end), str(step), str(work)]
    env = {**os.environ, "OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONUTF8": "1"}
    log = work / "stderr.txt"
    with log.open("w") as errors:
        worker = subprocess.Popen(command, cwd=_TESTS, env=env, stdout=subprocess.PIPE, stderr=errors)
    assert worker.stdout is not None
    at, words, is_open = first, list[str](), False
    try:
        while time.monotonic() < until:
            if not select.select([worker.stdout], [], [], _HUNG)[0]:
                worker.kill()
                _dead(name, at, words, f"hangs for {_HUNG:.0f} s", tally, work)
                return at + step
            line = worker.stdout.readline()
            if not line:
                break
            told = json.loads(line)
            if "words" in told:
                at, words, is_open = told["case"], told["words"], True
            else:
                tally.add(told, words)
                at, is_open = at + step, False
        else:
            worker.kill()
            return at
        status = worker.wait()
        if status and not is_open:
            raise RuntimeError(f"the worker itself failed: {log.read_text()[-2000:]}")
        if is_open:
            what = signal.Signals(-status).name if status < 0 else f"status {status}: {log.read_text()[-300:]}"
            _dead(name, at, words, f"died: {what}", tally, work)
        return at + step if is_open else end
    finally:
        worker.kill()
        worker.wait()


def _dead(name: str, number: int, words: list[str], wrong: str, tally: Tally, work: Path) -> None:
    tally.add({"case": number, "wrong": wrong}, words)
    keep(name, number, words, wrong, work)
