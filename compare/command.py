"""The command `opdiff compare`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..graphs.adopt.optimised import optimised
from ..graphs.errors import InputError, Interrupted
from ..graphs.run import Settings
from ..graphs.schedule.steps import WHOLE, Schedule, parse_schedule
from ..graphs.tensor_files import read_tensors
from ..graphs.weights import check_folder, written_beside
from .align.map_file import Mapped, read_map
from .diagnose import compare
from .report.printing import printing
from .report.terminal import print_result
from .result import Result

_STEPS = {
    "load": "reading both",
    "align": "running both step by step, and finding which value is which",
    "run": "running both on the tokens",
    "replay": "replaying every region on A's values, in double precision",
    "explain": "explaining what differs",
    "effects": "mending region by region",
    "input": "asking what this input can show",
}


def run_compare(
    a: Path,
    b: Path,
    reference: Path | None,
    tokens: str | None,
    names: Path | None,
    json_path: Path | None,
    every_tap: bool,
    provider: str,
    inputs: Path | None = None,
    inputs_b: Path | None = None,
    map_path: Path | None = None,
    optimization_a: str | None = None,
    optimization_b: str | None = None,
    schedule_a: str = "whole",
    schedule_b: str = "whole",
) -> bool:
    """Compare, print, and write the JSON where asked; True where the two are the same."""
    if json_path is not None:
        check_folder(json_path)
    schedules = parse_schedule(schedule_a), parse_schedule(schedule_b)
    with tempfile.TemporaryDirectory(prefix="opdiff") as folder:
        levels = optimization_a, optimization_b
        a, b = (
            path if level is None else optimised(path, level, Path(folder))
            for path, level in zip((a, b), levels, strict=True)
        )
        result = compared(
            a,
            b,
            reference,
            None if tokens is None else parse_tokens(tokens),
            Settings(provider=provider),
            names,
            read_inputs(inputs, inputs_b),
            () if map_path is None else read_map(map_path),
            schedules,
        )
    if json_path is not None:
        write_json(result, json_path)
    with printing():
        print_result(result, _console(), every_tap)
    return result.parity


def _console() -> Console:
    """A terminal as wide as it is; a pipe or a file as wide as the tables need."""
    return Console(width=None if sys.stdout.isatty() else 132, soft_wrap=True)


def compared(
    a: Path,
    b: Path,
    reference: Path | None,
    tokens: list[int] | None,
    settings: Settings,
    names: Path | None = None,
    inputs: Sequence[Mapping[str, np.ndarray]] = ({}, {}),
    mapped: Sequence[Mapped] = (),
    schedules: Sequence[Schedule] = (WHOLE, WHOLE),
) -> Result:
    """Compare, with a progress line on stderr where that is a terminal.

    Raises:
        Interrupted: the user stopped it.
    """
    console, steps = Console(stderr=True), [_STEPS["load"]]
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=None)

        def enter(step: str) -> None:
            steps.append(_STEPS[step])
            progress.update(task, description=_STEPS[step])

        try:
            return compare(a, b, tokens, reference, settings, enter, names, inputs, mapped, schedules)
        except KeyboardInterrupt as e:
            raise Interrupted(f"{a.name} and {b.name}: interrupted while {steps[-1]}; nothing was written") from e


def read_inputs(both: Path | None, of_b: Path | None) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """The inputs of A and of B by name: those of the first file, and for B those of the second one in their place.

    Raises:
        InputError: a file that cannot be read.
    """
    ours = {} if both is None else dict(read_tensors(both).tensors)
    return ours, ours if of_b is None else {**ours, **read_tensors(of_b).tensors}


def write_json(result: Result, path: Path) -> None:
    """Write the result's JSON, whole or not at all."""
    with written_beside(path) as partial:
        partial.write_text(result.to_json())


def parse_tokens(text: str) -> list[int]:
    """`1,5,3` as numbers.

    Raises:
        InputError: something else than whole numbers between commas.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as e:
        raise InputError(f"--tokens {text!r}: not a list of token ids; write it as 1,5,3") from e
