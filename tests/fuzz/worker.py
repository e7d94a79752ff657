"""Runs cases in a process of its own and tells of each on stdout, so that what kills it is known. Started by `running.py`."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import click
from click.testing import CliRunner, Result

from opdiff.__main__ import main

from .formats import case_of, make_valid
from .kept import OUTPUTS, keep

SECONDS = 10.0  # of CPU
GROWTH = 2 << 30  # bytes
_WAITS = 60.0  # seconds, on a machine that may be busy: what waits for a pipe needs no CPU
_ADDRESSES = 12 << 30  # bytes; beyond it the process gets no memory, so that a case cannot harm the machine
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_PROGRESS = re.compile(r"opdiff: .*\(\d+ s\)")


@main.command("read-checkpoint")
@click.argument("model", type=str)
def read_checkpoint(model: str) -> None:
    """What an export reads: the configuration, every tensor, and every one in Q8_0."""
    from opdiff.exporters.checkpoints import open_checkpoint
    from opdiff.exporters.export import shared_weights

    checkpoint = open_checkpoint(model, None)
    with tempfile.TemporaryDirectory() as folder:
        shared_weights(checkpoint, Path(folder) / "weights.safetensors", with_q8_0=True, link=False)


@main.command("read-prompts")
@click.argument("model")
@click.argument("path", type=click.Path(path_type=Path))
def read_prompts(model: str, path: Path) -> None:
    """What a verdict reads of its prompts."""
    from opdiff.exporters import prompts
    from opdiff.exporters.checkpoints import open_checkpoint
    from opdiff.exporters.tokenizers import open_tokenizer

    checkpoint = open_checkpoint(model, None)
    list(prompts.prompts_of(prompts.read_prompts(path), open_tokenizer(checkpoint), checkpoint, 4))


@main.command("read-variant")
@click.argument("text")
def read_variant(text: str) -> None:
    """What an export reads of --variant."""
    from opdiff.exporters.variants.registry import parse_variant

    parse_variant(text)


def _waited(*_: object) -> None:
    raise TimeoutError(f"waits for {_WAITS:.0f} s")


def outcome(words: list[str], folder: Path) -> dict[str, str]:
    """Run a command in a folder: its status and its line, and under `wrong` what counts as a failure."""
    before, memory, start = _files(folder), _peak(), time.process_time()
    signal.setitimer(signal.ITIMER_REAL, _WAITS)
    done = CliRunner().invoke(main, words)
    signal.setitimer(signal.ITIMER_REAL, 0)
    took, grown = time.process_time() - start, _peak() - memory
    wrong = _wrong(done)
    left = {name for name in _files(folder) - before if not (done.exit_code in (0, 1) and name in OUTPUTS)}
    if wrong is None and left:
        wrong = f"left behind: {sorted(left)}"
    if wrong is None and took > SECONDS:
        wrong = f"took {took:.0f} s"
    if wrong is None and grown > GROWTH:
        wrong = f"took {grown >> 20} MB"
    told = {"status": str(done.exit_code), "line": done.stderr.strip()[-1200:] if done.exit_code == 2 else ""}
    return {**told, "wrong": wrong} if wrong else told


def _wrong(done: Result) -> str | None:
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        assert done.exc_info is not None
        where = [f for f in traceback.extract_tb(done.exc_info[2]) if "/click/" not in f.filename][-3:]
        places = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(where))
        return f"traceback: {type(done.exception).__name__}: {str(done.exception)[:200]!r} at {places}"
    if done.exit_code not in (0, 1, 2):
        return f"status {done.exit_code}"
    if _CONTROL.search(done.output):
        return f"control character on the terminal: {_CONTROL.findall(done.output)[:3]}"
    lines = [line for line in done.stderr.split("\n") if line and not _PROGRESS.fullmatch(line)]
    if done.exit_code == 2 and any(line.startswith("Error: ") for line in lines):
        return None  # click's own, for what is no option or argument
    if done.exit_code == 2 and not (len(lines) == 1 and lines[0].startswith("opdiff: ") and len(lines[0]) < 1200):
        return f"no one line: {done.stderr[-300:]!r}"
    if done.exit_code == 2 and done.stdout:
        return f"an answer beside an error: {done.stdout[:100]!r}"
    return None


def _files(folder: Path) -> set[str]:
    temporary = {f"tmp/{name}" for name in os.listdir(tempfile.gettempdir())}
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} | temporary


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def run(name: str, numbers: range, work: Path, valid: Path) -> None:
    """Each number of a case on a line of its own before it runs, and what came of it on the next one."""
    for number in numbers:
        folder = work / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        words = case_of(name, number, valid, folder)
        print(json.dumps({"case": number, "words": words}), flush=True)
        os.chdir(folder)
        told = outcome(words, folder)
        os.chdir(work)
        if "wrong" in told:
            keep(name, number, words, told["wrong"], work)
        print(json.dumps({"case": number, **told}), flush=True)


if __name__ == "__main__":
    _, _name, _first, _end, _step, _work = sys.argv
    _root = Path(_work)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _waited)
    (_root / "tmp").mkdir(exist_ok=True)
    tempfile.tempdir = str(_root / "tmp")
    _valid = _root / "valid"
    if not _valid.exists():
        _valid.mkdir()
        make_valid(_name, _valid)
    run(_name, range(int(_first), int(_end), int(_step)), _root, _valid)
