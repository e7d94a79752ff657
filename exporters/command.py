"""The command `opdiff export`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..graphs.errors import Interrupted
from .checkpoints import open_checkpoint
from .export import export
from .variants.registry import parse_variant


def run_export(
    model: str,
    variants: Sequence[str],
    folder: Path,
    link: bool = True,
    length: int | None = None,
    cache: bool = False,
) -> list[Path]:
    """Export the variants of a model into a folder, with a progress line on stderr where that is a terminal.

    Args:
        link, length, cache: as for `export`.
    Raises:
        Interrupted: the user stopped it; what was written before is whole.
    """
    requests = [parse_variant(text) for text in variants]
    steps = ["the checkpoint"]
    columns = (SpinnerColumn(), TextColumn("exporting {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=None)

        def enter(step: str) -> None:
            steps.append(step)
            progress.update(task, description=step)

        def note(text: str) -> None:
            progress.console.print(f"opdiff: {text}", markup=False, highlight=False, soft_wrap=True)

        try:
            return export(open_checkpoint(model, folder), requests, folder, enter, note, link, length, cache)
        except KeyboardInterrupt as e:
            done = ", ".join(steps[1:-1]) or "nothing"
            raise Interrupted(f"{folder}: interrupted at {steps[-1]}; written before, and whole: {done}") from e
