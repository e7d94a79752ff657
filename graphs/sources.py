"""Where an ONNX node comes from: what the exporter left in its metadata."""

from __future__ import annotations

import ast
import re

import onnx

from .taps import Source

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_INSTALLED = re.compile(r"/(?:site|dist)-packages/")
# what wraps a module's own code, and never computes anything of it
_WRAPPERS = re.compile(
    r"(?:^|/)torch/(?:fx|_\w+|export|utils|nn|onnx)/|/(?:site|dist)-packages/torch/"
    r"|/transformers/(?:utils/|modeling_rope_utils\.py)|/exporters/(?:tapping|to_onnx|marks|variants/hf)\.py$|^<"
)


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
    """`file.py:42` of the innermost frame of the user's own code; where there is none, of an installed model's."""
    frames = [(path, line) for path, line, _ in _FRAME.findall(stack_trace) if not _WRAPPERS.search(path)]
    own = [frame for frame in frames if not _INSTALLED.search(frame[0])]
    return ":".join((own or frames)[-1]) if frames else None
