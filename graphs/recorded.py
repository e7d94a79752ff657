"""A graph run whole on an execution provider, as a trace: what that provider's own kernels give at every tap.

It runs in a process of its own: the libraries of some providers disturb what runs beside or after them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from .artifact import Artifact, InFile, read_model
from .errors import InputError
from .inputs import graph_inputs
from .kernels import RECORDING, assigned
from .run import as_taken
from .trace import Trace, checked_trace

_OUTSIDE = "session.model_external_initializers_file_folder_path"
_LONGEST = 200  # letters of what a provider complains of


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a provider gave.

    lacking: the taps that its file does not have as values of its own, such as steps of a fused operator.
    note: which nodes the provider ran.
    """

    trace: Trace
    lacking: tuple[str, ...]
    note: str


def check_provider(name: str) -> None:
    """See to it that this onnxruntime has an execution provider.

    Raises:
        InputError: it has none of that name.
    """
    if name not in ort.get_available_providers():
        have = ", ".join(ort.get_available_providers())
        raise InputError(f"provider {name}: not in this onnxruntime, which has {have}; install a build that has it")


def recorded_on(provider: str, artifact: Artifact, tokens: Sequence[int]) -> Recorded:
    """The artifact's file, as it stands, run whole on a provider.

    Raises:
        InputError: the provider cannot run it, gives NaN or Inf, or nothing that could be compared.
    """
    model, _ = read_model(artifact.path)
    places = artifact.in_file or {tap: InFile(tap) for tap in artifact.tap_names}
    made = {name for node in model.graph.node for name in node.output}
    held = {tap: place for tap, place in places.items() if place.name in made}
    names = list(dict.fromkeys(place.name for place in held.values()))
    values, told = _apart(artifact.path, names, graph_inputs(artifact, tokens), provider)
    laid_out = {tap: place.laid_out(values[place.name]) for tap, place in held.items()}
    fitting = {tap: value for tap, value in laid_out.items() if value is not None}
    if not fitting:
        raise InputError(f"{artifact.path}: none of the values that could be compared is one that {provider} gives")
    short = provider.removesuffix("ExecutionProvider")
    trace = checked_trace(
        artifact.path,
        f"{artifact.path.stem}[{short}]",
        f"{artifact.runtime} on {provider}",
        tokens,
        [(artifact.tap(tap), value) for tap, value in fitting.items()],
        artifact.facts,
        artifact.first_position,
    )
    lacking = tuple(tap for tap in artifact.tap_names if tap not in fitting)
    return Recorded(trace, lacking, f"{trace.name} is {artifact.path.name} run whole on {provider}{told}")


def _apart(
    path: Path, names: Sequence[str], feeds: Mapping[str, np.ndarray], provider: str
) -> tuple[Mapping[str, np.ndarray], str]:
    """What `_run` gives, of a process of its own."""
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            values, told = pool.submit(_run, path, names, feeds, provider).result()
    except BrokenProcessPool as e:
        raise InputError(f"{path}: {provider} crashed on it") from e
    return dict(zip(names, values, strict=True)), told


def _run(
    path: Path, names: Sequence[str], feeds: Mapping[str, np.ndarray], provider: str
) -> tuple[list[np.ndarray], str]:
    """These values of the file, and which of its nodes the provider ran."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(*RECORDING)
    options.add_session_config_entry(_OUTSIDE, str(path.parent.resolve()))
    model, _ = read_model(path)
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=[provider])
        return session.run(list(names), as_taken(session, feeds)), _told(session, provider)
    except Exception as e:  # onnxruntime's own classes
        lines = str(e).splitlines() or [type(e).__name__]
        raise InputError(f"{path}: {provider} cannot run it ({lines[0].rsplit(' : ', 1)[-1][:_LONGEST]})") from e


def _told(session: ort.InferenceSession, provider: str) -> str:
    """`, 96 of its 98 nodes; the others (Loop) ran on CPUExecutionProvider`."""
    nodes = assigned(session)
    others = [(name, operator) for name, operator in nodes if name != provider]
    if not others:
        return ""
    operators = ", ".join(dict.fromkeys(operator for _, operator in others))
    names = " and ".join(dict.fromkeys(name for name, _ in others))
    return f", {len(nodes) - len(others)} of its {len(nodes)} nodes; the others ({operators}) ran on {names}"
