"""The command `opdiff export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..graphs.errors import Interrupted
from ..graphs.progress import steps_shown
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
    positions: bool = False,
) -> list[Path]:
    """Export the variants of a model into a folder, with their progress on stderr.

    Args:
        link, length, cache, positions: as for `export`.
    Raises:
        Interrupted: the user stopped it; what was written before is whole.
    """
    requests = [parse_variant(text) for text in variants]
    with steps_shown() as steps:
        steps.enter("reading the checkpoint")
        try:
            checkpoint = open_checkpoint(model, folder)
            return export(checkpoint, requests, folder, steps.enter, steps.note, link, length, cache, positions)
        except KeyboardInterrupt as e:
            done = ", ".join(name.removeprefix("exporting ") for name in steps.names[1:-1]) or "nothing"
            raise Interrupted(f"{folder}: interrupted while {steps.current}; written before, and whole: {done}") from e
