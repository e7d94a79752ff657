"""What a decoder graph is fed besides its taps: the tokens, under the names that exporters give them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from .artifact import Artifact
from .errors import InputError

_TOKENS = ("tokens", "input_ids", "token_ids")
_INTEGERS: dict[int, np.dtype] = {
    onnx.TensorProto.INT64: np.dtype(np.int64),
    onnx.TensorProto.INT32: np.dtype(np.int32),
}


def graph_inputs(artifact: Artifact, tokens: Sequence[int]) -> dict[str, np.ndarray]:
    """The value of each graph input for these tokens: [T], or [1, T] where the graph has a batch.

    Raises:
        InputError: a graph input that opdiff does not know, or no tokens at all.
    """
    if artifact.given is not None:
        return dict(artifact.given)
    if not len(tokens):
        raise InputError("no tokens given; give at least one, as in --tokens 1,5,3")
    length = len(tokens)
    known: dict[str, np.ndarray] = {name: np.asarray(tokens) for name in _TOKENS}
    known["attention_mask"], known["position_ids"] = np.ones(length), np.arange(length)
    initializers = {i.name for i in artifact.model.graph.initializer}
    values = {}
    for info in artifact.model.graph.input:
        if info.name in initializers:
            continue
        kind = info.type.tensor_type
        if info.name not in known or kind.elem_type not in _INTEGERS:
            raise InputError(f"{artifact.path}: graph input {info.name} is unknown; opdiff feeds {', '.join(known)}")
        value = known[info.name].astype(_INTEGERS[kind.elem_type])
        values[info.name] = value[None] if len(kind.shape.dim) == 2 else value
    return values
