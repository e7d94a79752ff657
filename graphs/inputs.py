"""What a decoder graph is fed besides its taps: the tokens, under the names that exporters give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from .artifact import Artifact
from .cache import empty
from .errors import InputError
from .positions import POSITIONS
from .schedule.steps import WHOLE, Step

_TOKENS = ("tokens", "input_ids", "token_ids")
_PADDING = 0  # the token that stands for none
_INTEGERS: dict[int, np.dtype] = {
    onnx.TensorProto.INT64: np.dtype(np.int64),
    onnx.TensorProto.INT32: np.dtype(np.int32),
}


def graph_inputs(
    artifact: Artifact, tokens: Sequence[int], step: Step | None = None, states: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """The value of each graph input for these tokens: [T], or [B, T] where the graph has a batch.

    Args:
        step: the step in which it is run; None: all tokens at once.
        states: what the step before left, by input; None: this is the first step, and a cache is empty.
    Raises:
        InputError: a graph input that opdiff does not know, no tokens at all, or a step that the graph cannot take.
    """
    if artifact.given is not None:
        return dict(artifact.given)
    if not len(tokens):
        raise InputError("no tokens given; give at least one, as in --tokens 1,5,3")
    step = step or WHOLE.steps(len(tokens))[0]
    known = fed(tokens, step, artifact.first_position)
    initializers = {i.name for i in artifact.model.graph.initializer}
    infos = [info for info in artifact.model.graph.input if info.name not in initializers]
    if not known["attention_mask"].all() and all(info.name != "attention_mask" for info in infos):
        raise InputError(f"{artifact.path}: takes no attention_mask, and cannot tell padding from the prompt")
    values = {}
    for info in infos:
        if info.name in artifact.states:
            axes = artifact.tap(artifact.states[info.name]).axes
            values[info.name] = empty(info, axes, step.n_rows) if states is None else states[info.name]
            continue
        kind = info.type.tensor_type
        if info.name not in known or kind.elem_type not in _INTEGERS:
            raise InputError(f"{artifact.path}: graph input {info.name} is unknown; opdiff feeds {', '.join(known)}")
        value = known[info.name].astype(_INTEGERS[kind.elem_type])
        if len(kind.shape.dim) < 2 and step.n_rows > 1:
            raise InputError(
                f"{artifact.path}: takes one prompt, no batch, as {info.name} of {len(kind.shape.dim)} dimension"
            )
        values[info.name] = value if len(kind.shape.dim) == 2 else value[0]
    return values


def fed(tokens: Sequence[int], step: Step, first_position: int = 0) -> dict[str, np.ndarray]:
    """What the step is fed, [rows, columns]. Other rows of the batch hold the same tokens in another order; where the
    prompt has padding, they have tokens.

    first_position: that of the prompt's first token.
    """
    is_prompt = np.zeros(step.n_keys, bool)
    is_prompt[step.keys] = True
    mask = np.ones((step.n_rows, step.n_keys), np.int64)
    mask[step.row] = is_prompt
    shifts = (np.arange(step.n_before, step.n_keys) + 1 + row for row in range(step.n_rows))
    ids = np.stack([np.asarray(tokens)[shift % len(tokens)] for shift in shifts])
    ids[step.row] = _PADDING
    ids[step.row, step.own] = np.asarray(tokens)[step.start : step.end]
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, step.n_before :] + first_position
    return {**dict.fromkeys(_TOKENS, ids), "attention_mask": mask, POSITIONS: positions}
