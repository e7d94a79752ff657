"""opdiff's commands, each in a process that is forked from one which has imported torch and onnxruntime."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 300
_PROGRESS = re.compile(r"^opdiff: .* \(\d+ s\)\n", re.MULTILINE)  # of a run that takes long, as on a busy machine
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}
_HEAVY = [
    "torch.onnx",
    "torch._inductor.runtime.cache_dir_utils",
    "onnxscript",
    "transformers.models.qwen3.modeling_qwen3",
    "pytest",
    "opdiff.__main__",
    "opdiff.compare.align_command",
    "opdiff.compare.command",
    "opdiff.compare.report.html",
    "opdiff.compare.verdict_command",
    "opdiff.compare.verdict.html",
    "opdiff.exporters.command",
    "opdiff.exporters.own_module",
    "opdiff.exporters.runtimes.command",
    "opdiff.exporters.runtimes.hf",
    "opdiff.exporters.verdict_command",
]

_context = get_context("forkserver")
_context.set_forkserver_preload(_HEAVY)


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended: `status` is -9 where it was killed."""

    status: int
    out: str
    err: str


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Call a function of a module in a warm process. The first call waits until that is warm."""
    with_ours = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        process = _context.Process(target=target, args=arguments)
        process.start()
        return process
    finally:
        for name, value in with_ours.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def opdiff(
    arguments: Sequence[object], folder: Path, prepare: Callable[[], None] | None = None, **environment: str
) -> Done:
    """Run a command in a folder. `prepare`, which a module holds, is called before it."""
    said = folder.parent / f"{folder.name}.said"
    said.mkdir(exist_ok=True)
    process = start(run, [str(word) for word in arguments], folder, said, environment, prepare)
    process.join(PATIENCE_SECONDS)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"opdiff {arguments}: still runs")
    out, err = ((said / name).read_text() for name in ("out", "err"))
    return Done(process.exitcode, out, _PROGRESS.sub("", err))


def run(
    arguments: list[str],
    folder: Path,
    said: Path,
    environment: Mapping[str, str],
    prepare: Callable[[], None] | None = None,
    end: Callable[[int], None] = os._exit,
) -> None:
    """Run a command in this process, with its output in `out` and `err` in `said`; it ends with its status."""
    as_a_program(folder, said)
    os.environ.update(environment)
    sys.dont_write_bytecode = True  # Python's own files, which it writes as it likes
    if prepare is not None:
        prepare()
    end(status_of(arguments))


def as_a_program(folder: Path, said: Path) -> None:
    """Stand in a folder, on one core, so that no library has threads, and write to `out` and `err` in `said`."""
    os.chdir(folder)
    with suppress(AttributeError, OSError):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)


def status_of(arguments: Sequence[str]) -> int:
    """Run a command in this process: its exit status."""
    from opdiff.__main__ import main

    try:
        main.main(list(arguments), "opdiff")
    except SystemExit as e:
        status = e.code
    except BaseException as e:
        sys.excepthook(type(e), e, e.__traceback__)
        status = 1
    sys.stdout.flush()
    return status if isinstance(status, int) else int(status is not None)
