"""What the command `opdiff verdict` prepares."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..graphs.decoding import Contest
from ..graphs.errors import Interrupted
from .verdict import ContestRequest, open_contest


@contextmanager
def prepared_contest(request: ContestRequest) -> Iterator[Contest]:
    """`open_contest`, with a progress line on stderr where that is a terminal, until everything is there.

    Raises:
        Interrupted: the user stopped it, then or within the block.
    """
    steps = ["reading the request"]
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with ExitStack() as stack:
        try:
            with Progress(
                *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
            ) as shown:
                task = shown.add_task("", total=None)

                def enter(step: str) -> None:
                    steps.append(step)
                    shown.update(task, description=step)

                contest = stack.enter_context(open_contest(request, enter))
            enter("decoding")
            yield contest
        except KeyboardInterrupt as e:
            raise Interrupted(f"{request.model}: interrupted while {steps[-1]}; there is no verdict") from e
