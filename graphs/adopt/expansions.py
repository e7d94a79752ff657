"""onnxruntime's own operators as steps of ONNX: each one's known inputs and attributes; with any other it stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import NodeProto

from ..stepping import Typed


def expanded(node: NodeProto, values: Mapping[str, Typed]) -> Sequence[NodeProto] | None:
    """The steps that a node stands for on these values; None where it is not known, or has what is not modelled."""
    return None
