"""The command `opdiff report`: a saved result shown again, with no model at hand."""

from __future__ import annotations

from pathlib import Path

from .command import console, show
from .outputs import Outputs
from .report.printing import printing
from .report.terminal import Shown
from .result import Result
from .saved import read_result, read_saved
from .verdict.report import print_verdict


def run_report(path: Path, outputs: Outputs, shown: Shown, baseline: Path | None) -> bool:
    """Print a saved result or verdict, and write what is asked for; True where it passes.

    Raises:
        InputError: the file holds neither, or one of another version.
    """
    outputs.check()
    found = read_saved(path)
    if isinstance(found, Result):
        return show(found, outputs, shown, baseline, None if baseline is None else read_result(baseline))
    outputs.write(found)
    with printing():
        print_verdict(found, console(), shown.quiet)
    return found.passes
