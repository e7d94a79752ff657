"""The command `opdiff verdict`, once its contest is prepared."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ...graphs.decoding import Contest
from ...graphs.weights import written_beside
from ..report.printing import printing
from .report import print_verdict
from .verdict import Verdict, decide


def run_verdict(contest: Contest, top_k: int, json_path: Path | None) -> bool:
    """Judge, print, and write the JSON where asked; True where every named candidate passes."""
    verdict = _decided(contest, top_k)
    if json_path is not None:
        with written_beside(json_path) as partial:
            partial.write_text(verdict.to_json() + "\n", encoding="utf-8")
    with printing():
        print_verdict(verdict, Console(width=None if sys.stdout.isatty() else 150, soft_wrap=True, highlight=False))
    return verdict.passes


def _decided(contest: Contest, top_k: int) -> Verdict:
    """Decide, with a progress bar on stderr where that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("decoding", total=len(contest.prompts) * contest.n_steps)

        def tell(step: str, done: int, total: int) -> None:
            progress.update(task, description=step, completed=done, total=total or None)

        return decide(contest, top_k, tell)
