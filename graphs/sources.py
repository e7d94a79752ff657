"""Where an ONNX node comes from: what the exporter left in its metadata."""

from __future__ import annotations

import ast
import re

import onnx

from .taps import Source

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')
_LIBRARIES = ("/torch/", "/exporters/tapping.py", "/exporters/variants/hf.py", "/exporters/to_onnx.py")


def source_of(node: onnx.NodeProto) -> Source:
    """Name, op type, scope and source line; scope and line are None where the exporter left none."""
    metadata = {prop.key: prop.value for prop in node.metadata_props}
    return Source(node.name, node.op_type, _scope(metadata), _line(metadata.get("pkg.torch.onnx.stack_trace", "")))


def _scope(metadata: dict[str, str]) -> str | None:
    try:
        scopes = ast.literal_eval(metadata["pkg.torch.onnx.name_scopes"])
        return str(scopes[-2]) if len(scopes) > 1 else None
    except (KeyError, ValueError, SyntaxError, TypeError, IndexError):
        return None


def _line(stack_trace: str) -> str | None:
    """`file.py:42` of the innermost frame that is no library's."""
    frames = _FRAME.findall(stack_trace)
    own = [frame for frame in frames if not any(part in frame[0] for part in _LIBRARIES)]
    return f"{(own or frames)[-1][0]}:{(own or frames)[-1][1]}" if frames else None
