"""What the command `opdiff verdict` prepares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ..graphs.decoding import Contest
from ..graphs.errors import Interrupted
from ..graphs.progress import steps_shown
from .verdict import ContestRequest, open_contest


@contextmanager
def prepared_contest(request: ContestRequest) -> Iterator[Contest]:
    """`open_contest`, with its progress on stderr, until everything is there.

    Raises:
        Interrupted: the user stopped it, then or within the block.
    """
    step = "reading the request"
    with ExitStack() as stack:
        try:
            with steps_shown() as steps:
                steps.enter(step)
                try:
                    contest = stack.enter_context(open_contest(request, steps.enter))
                finally:
                    step = steps.current
            step = "decoding"
            yield contest
        except KeyboardInterrupt as e:
            raise Interrupted(f"{request.model}: interrupted while {step}; there is no verdict") from e
