"""From which lines of a module something was called, while it is exported."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.fx.experimental.proxy_tensor import PythonKeyTracer

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_CALLER = str(Path(__file__).parent / "to_onnx.py")  # what runs the module


@contextmanager
def whole_stack_traces() -> Iterator[None]:
    """Let each node's stack trace reach the line that made it; torch keeps only the frames of `forward` methods."""
    original = PythonKeyTracer._filter_traceback_frames

    def own(tracer: PythonKeyTracer, stack: traceback.StackSummary) -> traceback.StackSummary:
        return _own(stack)

    PythonKeyTracer._filter_traceback_frames = own  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        PythonKeyTracer._filter_traceback_frames = original  # type: ignore[method-assign]


def stack_trace(above: int) -> str:
    """The module's own lines that run now, as a node's stack trace has them: the innermost last.

    above: how many calls above this one's caller are none of the module's.
    """
    frames = traceback.extract_stack()[: -above - 1]
    return "".join(_own(frames).format()).strip()


def _own(stack: Iterable[traceback.FrameSummary]) -> traceback.StackSummary:
    """The frames of the module and of what it calls, without torch's."""
    frames = [frame for frame in stack if not frame.filename.startswith(_TORCH)]
    start = max((i for i, frame in enumerate(frames) if frame.filename == _CALLER), default=-1)
    return traceback.StackSummary.from_list(frames[start + 1 :])
