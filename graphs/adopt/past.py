"""What a graph by another hand takes of the step before: inputs for a past, each with the output that it becomes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import onnx

from ..errors import InputError
from ..schedule.steps import Schedule, Step
from .opened import Foreign

PAST = re.compile(r"past|cache")
_PRESENT = re.compile(r"present|cache|past|new|updated")
_BOTH = re.compile(r"key_?values?")
_SAID_BY_ALL = frozenset(
    ["past", "present", "cache", "cached", "new", "updated", "values", "kv", "in", "out", "input", "output"]
)
_SHORT = {"k": "key", "v": "value", "keys": "key"}
_LEAST_RANK = 3  # a cache has places, channels, and heads or a batch


def states_of(foreign: Foreign) -> dict[str, str]:
    """For each input that takes what the step before left, the output that leaves it: of one type and rank, and of the same
    words and numbers in their names but for past and present.
    """
    graph = foreign.model.graph
    held = {tensor.name for tensor in graph.initializer}
    inputs = _by_sign(info for info in graph.input if info.name not in held and is_past(info))
    outputs = _by_sign(info for info in graph.output if _PRESENT.search(info.name))
    return {
        before: outputs[sign][0]
        for sign, (before, *others) in inputs.items()
        if not others and len(outputs.get(sign, ())) == 1
    }


def _by_sign(infos: Iterable[onnx.ValueInfoProto]) -> dict[tuple, list[str]]:
    found: dict[tuple, list[str]] = {}
    for info in infos:
        found.setdefault(_sign(info), []).append(info.name)
    return found


def growing(foreign: Foreign) -> dict[str, frozenset[int]]:
    """For each such input, the axes along which its output has another size: those of the places."""
    infos = {info.name: info for info in (*foreign.model.graph.input, *foreign.model.graph.output)}
    return {
        name: frozenset(
            axis
            for axis, (before, after) in enumerate(zip(_dims(infos[name]), _dims(infos[output]), strict=True))
            if before.dim_value <= 0 and before.dim_param != after.dim_param
        )
        for name, output in states_of(foreign).items()
    }


def is_past(info: onnx.ValueInfoProto) -> bool:
    """Whether an input is for a cache."""
    return bool(PAST.search(info.name)) and len(_dims(info)) >= _LEAST_RANK


def steps_of(foreign: Foreign, schedule: Schedule, tokens: Sequence[int]) -> tuple[Step, ...]:
    """The steps in which a graph is fed; none where that is all at once.

    Raises:
        InputError: it cannot be fed so.
    """
    if schedule.is_whole:
        return ()
    if schedule.is_mixed:
        raise InputError(
            f"{foreign.path}: has no taps, and such graphs are fed one prompt without padding, where {schedule.text} is asked "
            "for; leave batch, pad-left and pad-right out"
        )
    steps, states = schedule.steps(len(tokens)), states_of(foreign)
    if len(steps) < 2:
        return ()
    alone = [info.name for info in foreign.model.graph.input if is_past(info) and info.name not in states]
    if alone:
        raise InputError(
            f"{foreign.path}: takes {alone[0]}, and no output of its graph says what that is in the next step, so it cannot be "
            f"fed in {len(steps)} steps"
        )
    if not states:
        raise InputError(
            f"{foreign.path}: keeps no cache (no inputs as past_key_values.0.key with outputs as present.0.key), and cannot be "
            f"fed in {len(steps)} steps; export it with its past as inputs"
        )
    return steps


def _dims(info: onnx.ValueInfoProto) -> Sequence[onnx.TensorShapeProto.Dimension]:
    return info.type.tensor_type.shape.dim


def _sign(info: onnx.ValueInfoProto) -> tuple:
    """What a past and its present share."""
    words = re.findall(r"[a-z]+|\d+", _BOTH.sub("", info.name.lower()))
    told = sorted(_SHORT.get(word, word) for word in words if word not in _SAID_BY_ALL and not word.isdigit())
    kind = info.type.tensor_type
    return tuple(told), tuple(filter(str.isdigit, words)), kind.elem_type, len(_dims(info))
