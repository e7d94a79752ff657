"""The export: a checkpoint and its variants to .onnx files that share their weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch

from ..graphs.artifact import refer_to_external, save_artifact
from ..graphs.by_content import data_file, remove_others
from ..graphs.cache import with_cache_named
from ..graphs.errors import InputError
from ..graphs.halves import stored_in_half
from ..graphs.instantiate import with_blocks
from ..graphs.leftovers import alone_in
from ..graphs.progress import count
from ..graphs.stages import split_tap_name, tap_name
from ..graphs.weights import LINKED, SharedWeights, TensorSource, WeightFile, write_safetensors
from .bound import MINS, QUANTS, SCALES, STORAGE, BoundCheckpoint, to_numpy
from .checkpoints import Checkpoint
from .checkpoints.gguf_file import STORED_WITH_MINS
from .linking import linked
from .to_onnx import ExportedGraph, storage_key, to_onnx
from .tokenizers.beside import tokenizer_facts
from .variants.registry import VariantRequest

WEIGHT_FILE = "weights.safetensors"
_OWN_WEIGHTS = ".weights.safetensors"  # how the name of a file ends that one graph alone reads
_PATTERN_BLOCKS = 2
_LINEAR = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
Progress = Callable[[str], None]


def export(
    checkpoint: Checkpoint,
    variants: Sequence[VariantRequest],
    folder: Path,
    progress: Progress = lambda step: None,
    note: Progress = lambda text: None,
    link: bool = True,
    length: int | None = None,
    cache: bool = False,
    positions: bool = False,
) -> list[Path]:
    """Write one .onnx for each variant into `folder`, and the weights that they share.

    Args:
        note: is told, in words, what the user should know of.
        link: let the graphs read the checkpoint's own file, by a hard link, where its tensors can be read in place.
        length: export for exactly so many tokens; None: for as many as the variant can.
        cache: let the graphs take and give a KV cache.
        positions: let the graphs take the positions of the tokens.
    Raises:
        InputError: a variant cannot run this checkpoint, or the folder cannot be written.
    """
    if cache and positions:
        raise InputError(
            "--positions: a graph with a cache counts its positions by itself; leave --cache or --positions out"
        )
    stems, config = _stems(variants), checkpoint.config
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{folder}: cannot be made ({e.strerror}); choose another --out folder") from e
    with alone_in(folder, lambda: note(f"{folder}: another export writes there; waiting for its end")):
        progress("exporting weights")
        with_q8_0 = any(v.weights == "q8_0" for v in variants)
        weights = shared_weights(checkpoint, folder / WEIGHT_FILE, with_q8_0, note, link)
        bound = BoundCheckpoint(config, weights, checkpoint.hf)
        tokenizer = tokenizer_facts(checkpoint, folder)
        paths = []
        for n, (variant, stem) in enumerate(zip(variants, stems, strict=True)):
            progress(f"exporting {stem}")
            count(n, len(variants))
            graph = exported(variant, bound, length, cache, positions)
            options = json.dumps(dict(variant.options))
            facts = {"runtime": variant.name, "options": options, "checkpoint": checkpoint.sha256, **tokenizer}
            paths.append(write_graph(graph, bound, weights, folder / f"{stem}.onnx", facts))
        return paths


def shared_weights(
    checkpoint: Checkpoint, path: Path, with_q8_0: bool, note: Progress = lambda text: None, link: bool = True
) -> SharedWeights:
    """The checkpoint's tensors (and its linear weights in Q8_0), mapped; a weight file is written where needed.

    What is stored in half precision stays so; what is quantised is dequantised to float32. Tensors that can be read in
    the checkpoint's own file are not written, where that can be linked.
    """
    sources = list(_sources(checkpoint, with_q8_0))
    storage = json.dumps({name: checkpoint.quantisation(name) for name in checkpoint.names})
    facts = {"checkpoint": checkpoint.sha256, STORAGE: storage}
    if path.exists():
        try:
            existing: SharedWeights | None = SharedWeights(path)
        except InputError:
            existing = None  # damaged: written anew
        is_read = any(path.parent.glob("*.onnx"))
        if existing is not None and is_read and existing.metadata.get("checkpoint") != checkpoint.sha256:
            raise InputError(
                f"{path}: holds the weights of another checkpoint, which the graphs in its folder read; "
                "choose another --out folder, or empty this one"
            )
        if existing is not None and _serves(existing, facts, sources, link):
            return existing
        if existing is not None and is_read:
            raise InputError(
                f"{path}: lacks what is needed now (Q8_0 weights, or copies of what is linked), and the graphs beside it "
                "read it as it is; export all variants together, or choose another --out folder"
            )
    listed = linked(checkpoint, path.parent, note) if link else {}
    in_place = {name for held in listed.values() for name in held}
    write_safetensors(path, [s for s in sources if s.name not in in_place], {**facts, LINKED: json.dumps(listed)})
    return SharedWeights(path)


def _serves(
    weights: SharedWeights, facts: Mapping[str, str], sources: Iterable[TensorSource], may_be_linked: bool
) -> bool:
    """Whether weights that are there already are those that are wanted."""
    same = all(weights.metadata.get(key) == fact for key, fact in facts.items())
    return same and all(s.name in weights for s in sources) and (may_be_linked or not weights.linked)


def _sources(checkpoint: Checkpoint, with_q8_0: bool) -> Iterable[TensorSource]:
    for name in checkpoint.names:
        shape = checkpoint.shape(name)
        yield TensorSource(name, checkpoint.dtype(name), shape, partial(checkpoint.stored, name))
        if checkpoint.quantisation(name) in STORED_WITH_MINS and len(shape) == 2:  # of experts, nobody asks for them
            n_out, n_in = shape
            yield TensorSource(name + MINS, np.dtype(np.float32), (n_out, n_in // 32), partial(checkpoint.mins, name))
        if with_q8_0 and _is_linear(checkpoint, name):
            n_out, n_in = shape
            scales = (n_out, n_in // 32)
            yield TensorSource(name + QUANTS, np.dtype(np.int8), shape, partial(_q8_0, checkpoint, name, 0))
            yield TensorSource(name + SCALES, np.dtype(np.float32), scales, partial(_q8_0, checkpoint, name, 1))


def _q8_0(checkpoint: Checkpoint, name: str, part: int) -> np.ndarray:
    return checkpoint.q8_0(name)[part]


def _is_linear(checkpoint: Checkpoint, name: str) -> bool:
    if checkpoint.config.tied_head and name == "token_embd.weight":
        return True
    return name == "output.weight" or (name.endswith(".weight") and name.split(".")[-2] in _LINEAR)


def exported(
    variant: VariantRequest,
    checkpoint: BoundCheckpoint,
    length: int | None = None,
    cache: bool = False,
    positions: bool = False,
) -> ExportedGraph:
    """The variant's graph; where its blocks are known to be alike, two are exported and the rest instantiated.

    Raises:
        InputError: it cannot be built or exported; the text begins with its name.
    """
    n_blocks = checkpoint.config.n_blocks
    is_pattern = n_blocks > _PATTERN_BLOCKS and variant.has_uniform_blocks(checkpoint)
    built_from = checkpoint.first_blocks(_PATTERN_BLOCKS) if is_pattern else checkpoint
    module = variant.build(built_from)
    try:
        with variant.at_home():
            graph = to_onnx(module, canonical_names(built_from), n_tokens=length, cache=cache, positions=positions)
    except InputError as e:
        raise InputError(f"variant {variant.name}: {e}") from e
    _check_names(variant, graph)
    if not is_pattern:
        return graph
    axes = dict(_axes_of_all(graph.axes, n_blocks))
    states = tuple(_taps_of_all(graph.states, n_blocks))
    return replace(graph, model=with_blocks(graph.model, n_blocks), axes=axes, states=states)


def _check_names(variant: VariantRequest, graph: ExportedGraph) -> None:
    inside = graph.model.graph
    for others, what in ((inside.initializer, "a tensor of the checkpoint"), (inside.input, "an input of the graph")):
        taken = next((other.name for other in others if other.name in graph.axes), None)
        if taken is not None:
            raise InputError(f"variant {variant.name}: tap {taken}: {what} has this name; give the tap another")


def canonical_names(checkpoint: BoundCheckpoint) -> dict[tuple, str]:
    """The name of each of the checkpoint's tensors, by where it stands in memory."""
    return {storage_key(tensor): name for name, tensor in checkpoint.named_tensors()}


def _axes_of_all(axes: Mapping[str, tuple[str, ...]], n_blocks: int) -> Iterable[tuple[str, tuple[str, ...]]]:
    for name in _taps_of_all(tuple(axes), n_blocks):
        yield name, axes[name if name in axes else tap_name(split_tap_name(name)[1], _PATTERN_BLOCKS - 1)]


def _taps_of_all(taps: Sequence[str], n_blocks: int) -> Iterable[str]:
    """The taps of all blocks, from those of the first ones, in their order."""
    last = f"blk.{_PATTERN_BLOCKS - 1}."
    block = [name for name in taps if name.startswith(last)]
    for name in taps:
        yield name
        if block and name == block[-1]:
            for n in range(_PATTERN_BLOCKS, n_blocks):
                yield from (f"blk.{n}.{inner.removeprefix(last)}" for inner in block)


def write_graph(
    graph: ExportedGraph, checkpoint: BoundCheckpoint, weights: SharedWeights, path: Path, facts: Mapping[str, str]
) -> Path:
    """Save the graph beside the shared weights; tensors that only this variant has go to a file of its own."""
    stored_in_half(graph.model, {name: weights.elem_type(name) for name in weights})
    external = [i for i in graph.model.graph.initializer if i.data_location == onnx.TensorProto.EXTERNAL]
    own = {i.name: graph.parameters[i.name] for i in external if i.name not in weights}
    own_file = _own_weights(own, path) if own else weights
    for initializer in external:
        file = weights if initializer.name in weights else own_file
        refer_to_external(initializer, file.file_of(initializer.name).name, *file.location(initializer.name))
    facts = {**facts, "config": checkpoint.config.to_json(), "weights": weights.path.name, **graph.lengths.facts()}
    if graph.states:
        facts["cache"] = json.dumps(with_cache_named(graph.model, graph.states))
    save_artifact(graph.model, path, graph.axes, facts)
    remove_others(path, _OWN_WEIGHTS, own_file.path)
    return path


def _own_weights(tensors: Mapping[str, torch.Tensor], graph: Path) -> WeightFile:
    arrays = {name: to_numpy(tensor) for name, tensor in tensors.items()}
    sources = [TensorSource(name, a.dtype, a.shape, partial(np.asarray, a)) for name, a in arrays.items()]
    path = data_file(graph, _sha256(arrays), _OWN_WEIGHTS)
    write_safetensors(path, sources, {})
    return WeightFile(path)


def _sha256(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(repr((name, array.dtype, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _stems(variants: Sequence[VariantRequest]) -> list[str]:
    """A file name for each: the variant's own, and its options too where two share a name."""
    names = [variant.name for variant in variants]
    stems = []
    for variant in variants:
        options = "".join(f".{key}={value.replace('/', '_')}" for key, value in variant.options.items())
        stems.append(variant.name if names.count(variant.name) == 1 else variant.name + options)
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise InputError(
            f"two variants are called {twice}; ask for each once, or export those of two files into two folders"
        )
    return stems
