"""The command `opdiff verdict`, once its contest is prepared."""

from __future__ import annotations

import sys

from rich.console import Console

from ..graphs.decoding import Contest
from ..graphs.progress import count, loudness, steps_shown
from .outputs import Outputs
from .report.printing import printing
from .verdict.report import print_verdict
from .verdict.verdict import Verdict, decide


def run_verdict(contest: Contest, top_k: int, outputs: Outputs) -> bool:
    """Judge, print, and write what is asked for; True where every named candidate passes."""
    verdict = _decided(contest, top_k)
    outputs.write(verdict)
    with printing():
        console = Console(width=None if sys.stdout.isatty() else 150, soft_wrap=True, highlight=False)
        print_verdict(verdict, console, loudness.get() == "quiet")
    return verdict.passes


def _decided(contest: Contest, top_k: int) -> Verdict:
    """Decide, with its progress on stderr."""
    with steps_shown() as steps:

        def tell(step: str, done: int, total: int) -> None:
            if step != steps.current:
                steps.enter(step)
            if total:
                count(done, total)

        return decide(contest, top_k, tell)
