"""The command `opdiff export`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from .checkpoints import open_checkpoint
from .export import export
from .variants.registry import parse_variant


def run_export(model: str, variants: Sequence[str], folder: Path) -> list[Path]:
    """Export the variants of a model into a folder, with a progress line on stderr where that is a terminal."""
    requests = [parse_variant(text) for text in variants]
    checkpoint = open_checkpoint(model, folder)
    columns = (SpinnerColumn(), TextColumn("exporting {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=None)
        return export(checkpoint, requests, folder, lambda step: progress.update(task, description=step))
