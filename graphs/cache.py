"""A graph's cache: the inputs that take what the step before left, and the taps that leave it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx

from .artifact import Artifact
from .slices import rename_captured
from .stages import CACHES, split_tap_name, tap_name

BEFORE = "/past"  # behind a tap's name, while a graph is made: the input that takes it
_WORDS = {"k_cache": "key", "v_cache": "value"}


def with_cache_named(model: onnx.ModelProto, taps: Iterable[str]) -> dict[str, str]:
    """Name the inputs that take what these taps were: `past_key.0` for `blk.0.k_cache`; and give each tap out as
    `present_key.0`, too. In place.

    Returns:
        for each such input its tap.
    """
    graph = model.graph
    names = {tap + BEFORE: _name("past", tap) for tap in taps}
    for info in graph.input:
        info.name = names.get(info.name, info.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    outputs = {output.name: output for output in graph.output}
    for tap in taps:
        present = _name("present", tap)
        graph.node.append(onnx.helper.make_node("Identity", [tap], [present], present))
        info = onnx.ValueInfoProto.FromString(outputs[tap].SerializeToString())
        info.name = present
        graph.output.append(info)
    return {names[tap + BEFORE]: tap for tap in taps}


def _name(word: str, tap: str) -> str:
    block, stage = split_tap_name(tap)
    if block is None or stage not in _WORDS:
        return f"{word}.{tap}"
    return f"{word}_{_WORDS[stage]}.{block}"


def empty(info: onnx.ValueInfoProto, axes: Sequence[str], n_rows: int) -> np.ndarray:
    """What an input for a cache takes in the first step: nothing where its size is open, zeros elsewhere.

    Args:
        axes: those of the tap that leaves it.
        n_rows: the size of a batch.
    """
    kind = info.type.tensor_type
    dims = zip(axes, kind.shape.dim, strict=True)
    shape = [n_rows if word == "batch" and not dim.dim_value else dim.dim_value for word, dim in dims]
    return np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))


def with_cache_stages(artifact: Artifact) -> Artifact:
    """The artifact with a stage for what attention reads of all steps, where it keeps no cache: the keys and values of its
    one step, under another name.
    """
    taps = {tap.name: tap for tap in artifact.taps}
    added = [
        (taps[source], replace(taps[source], name=name, axes=_of_slots(taps[source].axes)))
        for source, name in _caches(taps)
    ]
    if not added:
        return artifact
    model = onnx.ModelProto.FromString(artifact.model.SerializeToString())
    for old, new in added:
        _read_as(model.graph, old.name, new.name)
    return replace(artifact, model=model, taps=(*artifact.taps, *(new for _, new in added)))


def _caches(taps: Iterable[str]) -> Iterator[tuple[str, str]]:
    """For each block that has keys and values but no cache, what a cache would be made of, and its name."""
    known = set(taps)
    for source in known:
        block, stage = split_tap_name(source)
        name = next((tap_name(cache, block) for cache, of in CACHES.items() if of == stage), None)
        if block is not None and name is not None and name not in known:
            yield source, name


def _of_slots(axes: Sequence[str]) -> tuple[str, ...]:
    return tuple("slot" if word == "token" else word for word in axes)


def _read_as(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let all that read a value read it under a second name."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        rename_captured(node, {old: new})
    made = next(place for place, node in enumerate(graph.node) if old in node.output)
    identity = onnx.helper.make_node("Identity", [old], [new], f"{new}/Identity")
    identity.metadata_props.extend(graph.node[made].metadata_props)
    graph.node.insert(made + 1, identity)
    info = next(info for info in (*graph.output, *graph.value_info) if info.name == old)
    graph.output.append(onnx.ValueInfoProto.FromString(info.SerializeToString()))
    graph.output[-1].name = new
