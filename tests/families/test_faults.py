"""Single families: none of them differs from itself, and what makes one another one than a Llama is missed by its name.

The graph is the reference's, of the family's HF folder; the other side is transformers' own model, as a trace or as a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from families.converter import family_gguf
from families.faults import FAULTS, FamilyFault
from families.models import AS_GGUF_SAYS, KINDS, N_TOKENS, family_model, tokens
from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result
from opdiff.exporters.bound import BoundCheckpoint
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import WEIGHT_FILE, canonical_names, export, shared_weights, write_graph
from opdiff.exporters.tapping import collected
from opdiff.exporters.to_onnx import to_onnx
from opdiff.exporters.variants import hf
from opdiff.exporters.variants.hf_load import BY_INDEX
from opdiff.exporters.variants.registry import parse_variant
from opdiff.graphs.taps import Source, Tap
from opdiff.graphs.trace import save_trace

Placed = tuple[FamilyFault, int]
TOKENS = tuple(tokens().tolist())


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers share."""
    return tmp_path_factory.getbasetemp().parent / "families"


def right(kind: str, root: Path) -> Path:
    """The reference's graph of a family, beside its HF folder; made once, whoever asks first."""
    folder = root / kind.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "reference.onnx"
    with FileLock(folder / "lock"):
        if not path.exists():
            family_model(kind).save_pretrained(folder / "hf")
            checkpoint = open_checkpoint(str(folder / "hf"))
            export(checkpoint, [parse_variant("reference")], folder, link=False, length=N_TOKENS)
    return path


def patched(kind: str, placed: Sequence[Placed], experts: str = "eager") -> hf.TappedModel:
    model = family_model(kind, experts_implementation=experts)
    for fault, block in placed:
        fault.apply(model, block)
    return hf.tapped(model)


def traced(kind: str, placed: Sequence[Placed], path: Path) -> Path:
    """What transformers' model with these faults gives at its stages."""
    with torch.no_grad(), collected() as taps:
        patched(kind, placed)(tokens())
    node = Source("", "", None, None)
    save_trace(path, "hf", TOKENS, [(Tap(name, t.axes, node), t.value.numpy()) for name, t in taps.items()], {})
    return path


def exported(kind: str, placed: Sequence[Placed], root: Path, path: Path) -> Path:
    """Its graph, beside the reference's, whose weights it shares."""
    folder = right(kind, root).parent
    checkpoint = open_checkpoint(str(folder / "hf"))
    weights = shared_weights(checkpoint, folder / WEIGHT_FILE, with_q8_0=False, link=False)
    bound = BoundCheckpoint(checkpoint.config, weights)
    graph = to_onnx(patched(kind, placed, BY_INDEX), canonical_names(bound), n_tokens=N_TOKENS)
    return write_graph(graph, bound, weights, folder / path.name, {"runtime": path.stem})


def assert_named(result: Result, placed: Sequence[Placed]) -> None:
    """The regions of these faults and no other; each fault told once, by one of its names or by all of them together."""
    assert {d.tap for d in result.divergences} == {tap for fault, block in placed for tap in fault.taps(block)}
    for fault in {fault.name: fault for fault, _ in placed}.values():
        taps = {tap for other, block in placed for tap in other.taps(block) if other is fault}
        causes = [cause for cause in result.root_causes if taps & set(cause.taps)]
        told = {str(cause.convention) for cause in causes}
        told |= {fit.split("=")[0] for cause in causes for fit in cause.also_fits}
        assert told & fault.conventions, [cause.text for cause in causes]
        assert len(causes) <= len(fault.conventions), [cause.text for cause in causes]
    assert result.closed.complete


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_blamed_in_transformers_own_run_of_a_family(kind, root, tmp_path):
    result = compare(right(kind, root), traced(kind, [], tmp_path / "t.safetensors"))
    assert result.parity, [cause.text for cause in result.root_causes]


IN_LLAMA_CPP = ("mistral", "gemma2", "olmo2", "glm4", "cohere2", "smollm3", "mixtral", "qwen3_moe", "glm4_moe")


@pytest.mark.parametrize("kind", IN_LLAMA_CPP)
def test_nothing_is_blamed_in_llama_cpps_run_of_a_family(kind, tmp_path):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed; it is compiled, so it is an extra")
    from opdiff.exporters.runtimes.llama_cpp import write_trace

    model = family_model(kind, **AS_GGUF_SAYS.get(kind, {}))
    checkpoint = open_checkpoint(str(family_gguf(model, tmp_path / "model.gguf")))
    write_trace(checkpoint, TOKENS, tmp_path / "t.safetensors")
    variant = "reference" if checkpoint.config.experts else "reference:activations=ggml"
    (path,) = export(checkpoint, [parse_variant(variant)], tmp_path / "out", link=False, length=N_TOKENS)
    result = compare(path, tmp_path / "t.safetensors")
    assert result.parity, [cause.text for cause in result.root_causes]


IN_BLOCKS = [fault for fault in FAULTS if fault.blocks is not None]


def places() -> list[tuple[FamilyFault, tuple[int, ...]]]:
    """Each fault in all the blocks in which it makes a difference, in some, and in one."""
    found = {}
    for fault in IN_BLOCKS:
        for blocks in (fault.blocks or (), (fault.blocks or ())[::2], (fault.blocks or ())[-1:]):
            found[fault.kind, fault.name, blocks] = (fault, blocks)
    return list(found.values())


@pytest.mark.parametrize(
    ("fault", "blocks"),
    places(),
    ids=lambda one: f"{one.kind}: {one.name}" if isinstance(one, FamilyFault) else str(one),
)
def test_what_a_family_has_of_its_own_is_missed_in_all_blocks_some_or_one(fault, blocks, root, tmp_path):
    placed = [(fault, block) for block in blocks]
    assert_named(compare(right(fault.kind, root), traced(fault.kind, placed, tmp_path / "t.safetensors")), placed)


@pytest.mark.parametrize(
    "fault", [fault for fault in FAULTS if fault.blocks is None], ids=lambda f: f"{f.kind}: {f.name}"
)
def test_what_a_family_has_of_its_own_outside_of_the_blocks_is_missed(fault, root, tmp_path):
    placed = [(fault, 0)]
    assert_named(compare(right(fault.kind, root), traced(fault.kind, placed, tmp_path / "t.safetensors")), placed)


NO_EXPORT = {"llama with dynamic scaling"}  # transformers' own code decides by a tensor's value there


def packed() -> list[list[Placed]]:
    """For each kind of model, as many of its faults as have room, one to a block: the later ones, which are more its own."""
    packs: list[list[Placed]] = []
    for kind in dict.fromkeys(fault.kind for fault in IN_BLOCKS if fault.kind not in NO_EXPORT):
        pack: dict[int, FamilyFault] = {}
        for fault in reversed([fault for fault in IN_BLOCKS if fault.kind == kind]):
            free = [block for block in fault.blocks or () if block not in pack]
            if free:
                pack[free[0]] = fault
        packs.append([(fault, block) for block, fault in pack.items()])
    return packs


@pytest.mark.parametrize("placed", packed(), ids=lambda placed: f"{placed[0][0].kind}: {placed[0][0].name} and others")
def test_faults_of_a_family_are_told_apart_in_its_graph(placed, root, request):
    path = exported(placed[0][0].kind, placed, root, Path(f"b{abs(hash(request.node.name))}.onnx"))
    result = compare(right(placed[0][0].kind, root), path, TOKENS)
    assert_named(result, placed)
    for divergence in result.divergences:
        assert divergence.b_node is not None
        assert divergence.b_node.source is not None
