"""The command `opdiff compare`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from ..graphs.adopt.optimised import optimised
from ..graphs.errors import InputError, Interrupted
from ..graphs.leftovers import temporary_folder
from ..graphs.progress import steps_shown
from ..graphs.schedule.steps import parse_schedule
from ..graphs.tensor_files import read_tensors
from .align.map_file import read_map
from .baseline import Compared, compared
from .diagnose import compare
from .outputs import Outputs
from .report.against import baseline_lines
from .report.annotations import github_annotations
from .report.printing import printing
from .report.terminal import Shown, print_result
from .result import Result

_STEPS = {
    "load": "reading both",
    "align": "running both step by step, and finding which value is which",
    "run": "running both on the tokens",
    "replay": "replaying every region on A's values, in double precision",
    "explain": "explaining what differs, and asking what this input can show",
    "effects": "mending region by region",
}
PiecesOf = Callable[[Collection[int], Iterable[str | None]], Mapping[int, str]]


@dataclass(frozen=True, slots=True)
class Asked:
    """What `opdiff compare` is asked to compare.

    Args:
        a, b, reference: .onnx files or traces.
        tokens: as `1,5,3`; None: those of a trace.
        names, inputs, inputs_b, map_path: files, as the command's help says.
        optimization_a, optimization_b: onnxruntime's levels.
        provider_a, provider_b: the execution provider on which that side is run whole; None: as a graph, on the CPU.
        values: the folder for every side's whole values.
        position_offset: the position of the first token; None: that of a trace, or 0.
    """

    a: Path
    b: Path
    reference: Path | None = None
    tokens: str | None = None
    names: Path | None = None
    inputs: Path | None = None
    inputs_b: Path | None = None
    map_path: Path | None = None
    optimization_a: str | None = None
    optimization_b: str | None = None
    provider_a: str | None = None
    provider_b: str | None = None
    schedule_a: str = "whole"
    schedule_b: str = "whole"
    values: Path | None = None
    position_offset: int | None = None


def run_compare(
    asked: Asked,
    outputs: Outputs,
    shown: Shown,
    baseline: Path | None = None,
    pieces_of: PiecesOf = lambda tokens, files: {},
) -> bool:
    """Compare, print, and write what is asked for; True where the two are the same, or nothing is new to the baseline.

    pieces_of: the text of tokens, by the first of these tokenizers that can be read.
    """
    outputs.check()
    accepted = None if baseline is None else _accepted(baseline)
    result = with_pieces(_compared(asked, outputs.has_pictures), pieces_of)
    return show(result, outputs, shown, baseline, accepted)


def _accepted(baseline: Path) -> Result:
    from .saved import read_result  # with pydantic, for which no other comparison need wait

    return read_result(baseline)


def show(result: Result, outputs: Outputs, shown: Shown, baseline: Path | None, accepted: Result | None) -> bool:
    """Print a result, and write it where asked; True where it passes: same, or nothing new to the baseline."""
    against = None if baseline is None or accepted is None else compared(result, accepted, baseline)
    outputs.write(result, against)
    with printing():
        print_result(result, console(), shown)
        lines = () if against is None else ("", *baseline_lines(against))
        for line in (*lines, *_annotations(result, against)):
            print(line)
    return result.parity if against is None else against.passes


def _annotations(result: Result, against: Compared | None) -> Iterator[str]:
    """What GitHub shows at the source lines, in its own runs."""
    if os.environ.get("GITHUB_ACTIONS") == "true":
        yield from github_annotations(result, Path(os.environ.get("GITHUB_WORKSPACE", ".")), against)


def console() -> Console:
    """A terminal as wide as it is; a pipe or a file as wide as the tables need."""
    return Console(width=None if sys.stdout.isatty() else 132, soft_wrap=True)


def with_pieces(result: Result, pieces_of: PiecesOf) -> Result:
    """The same, with the text of its tokens, and of those that the logits prefer."""
    top = (token for p in result.positions for token, _ in (*p.a_top, *p.b_top))
    sides = [side for side in (result.a, result.b, result.reference) if side is not None]
    return replace(result, pieces=pieces_of({*result.tokens, *top}, [side.tokenizer for side in sides]))


def _compared(asked: Asked, with_pictures: bool) -> Result:
    """Compare, with the steps on stderr.

    with_pictures: as `rows` has it.

    Raises:
        Interrupted: the user stopped it.
    """
    with temporary_folder() as folder, steps_shown() as steps:
        try:
            a, b = (
                path if level is None else optimised(path, level, folder)
                for path, level in ((asked.a, asked.optimization_a), (asked.b, asked.optimization_b))
            )
            return compare(
                a,
                b,
                None if asked.tokens is None else parse_tokens(asked.tokens),
                asked.reference,
                lambda step: steps.enter(_STEPS[step]),
                asked.names,
                read_inputs(asked.inputs, asked.inputs_b),
                () if asked.map_path is None else read_map(asked.map_path),
                (parse_schedule(asked.schedule_a), parse_schedule(asked.schedule_b)),
                asked.values,
                asked.position_offset,
                with_pictures,
                (asked.provider_a, asked.provider_b),
            )
        except KeyboardInterrupt as e:
            names = f"{asked.a.name} and {asked.b.name}"
            raise Interrupted(f"{names}: interrupted while {steps.current}; nothing was written") from e


def read_inputs(both: Path | None, of_b: Path | None) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """The inputs of A and of B by name: those of the first file, and for B those of the second one in their place.

    Raises:
        InputError: a file that cannot be read.
    """
    ours = {} if both is None else dict(read_tensors(both).tensors)
    return ours, ours if of_b is None else {**ours, **read_tensors(of_b).tensors}


def parse_tokens(text: str) -> list[int]:
    """`1,5,3` as numbers.

    Raises:
        InputError: something else than whole numbers between commas.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as e:
        raise InputError(f"--tokens {text!r}: not a list of token ids; write it as 1,5,3") from e
