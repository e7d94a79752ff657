"""Where an ONNX node comes from: what the exporter left in its metadata."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import lru_cache

import onnx

from .taps import Source

COPY_OF = "opdiff.copy_of"  # the key under which a copy of a node says of which
_READ = 1 << 13  # texts that are kept as they were read: many nodes come from one line
_LONGEST = 80  # characters of an attribute that are shown
_NOT_SHOWN = (
    onnx.AttributeProto.GRAPH,
    onnx.AttributeProto.GRAPHS,
    onnx.AttributeProto.TENSOR,
    onnx.AttributeProto.TENSORS,
)
STACK_TRACE = "pkg.torch.onnx.stack_trace"  # under which torch's exporter notes it
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in \S+(?:\n(?! *File ")([^\n]*))?')
_PLAIN = re.compile(r"'([^'\\\n]*)'")  # a text of Python's that needs no escapes; ast takes ten times as long
_PLAIN_LIST = re.compile(rf"\[(?:{_PLAIN.pattern}(?:, |(?=\])))*\]")
_INSTALLED = re.compile(r"/(?:site|dist)-packages/")
# what wraps a module's own code, and never computes anything of it
_WRAPPERS = re.compile(
    r"(?:^|/)torch/(?:fx|_\w+|export|utils|nn|onnx)/|/(?:site|dist)-packages/torch/"
    r"|/transformers/(?:utils/|modeling_rope_utils\.py)|/exporters/(?:tapping|to_onnx|marks|variants/hf)\.py$|^<"
)


def source_of(node: onnx.NodeProto) -> Source:
    """Name, op type, scope and source line; scope and line are None where the exporter left none."""
    metadata = {prop.key: prop.value for prop in node.metadata_props}
    return Source(
        node.name,
        node.op_type,
        _scope(metadata.get("pkg.torch.onnx.name_scopes", "")),
        next((line.place for line in own_lines(node)), None),
        _attributes(node),
        metadata.get(COPY_OF),
    )


def _attributes(node: onnx.NodeProto) -> str:
    """Each attribute and its value; a long one is cut, and a subgraph is only named."""
    return ", ".join(
        one.name if one.type in _NOT_SHOWN else _attribute(one.SerializeToString()) for one in node.attribute
    )


@lru_cache(_READ)
def _attribute(data: bytes) -> str:
    one = onnx.AttributeProto.FromString(data)
    try:
        text = str(onnx.helper.printable_attribute(one))
    except ValueError:  # of a type that onnx does not know
        return one.name
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a program: `file.py:42`, and what stands there, "" where that is not known."""

    place: str
    text: str


def own_lines(node: onnx.NodeProto) -> list[Line]:
    """The lines of the user's own code; where there is none, of an installed model's: the innermost, then those that call it."""
    lines = lines_of(node)
    return [line for line in lines if not _INSTALLED.search(line.place)] or lines


def lines_of(node: onnx.NodeProto) -> list[Line]:
    """The line of each frame that computes something of the node, the innermost first."""
    return list(_lines(next((prop.value for prop in node.metadata_props if prop.key == STACK_TRACE), "")))


@lru_cache(_READ)
def _lines(trace: str) -> tuple[Line, ...]:
    frames = [match.groups("") for match in _FRAME.finditer(trace) if not _WRAPPERS.search(match[1])]
    return tuple(Line(f"{path}:{number}", text.strip()) for path, number, text in reversed(frames))


@lru_cache(_READ)
def _scope(scopes: str) -> str | None:
    """The module in which a node was made, of the exporter's list of modules and the node."""
    try:
        names = _PLAIN.findall(scopes) if _PLAIN_LIST.fullmatch(scopes) else ast.literal_eval(scopes)
        return str(names[-2]) if len(names) > 1 else None
    except (KeyError, ValueError, SyntaxError, TypeError, IndexError):
        return None
