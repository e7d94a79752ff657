"""The corpus as artifacts: right and patched models exported with taps, as `--variant hf` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from corpus.models import TOKENS, tiny_model, write_gguf
from corpus.registry import Benign, Fault
from opdiff.exporters.bound import BoundCheckpoint
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import WEIGHT_FILE, canonical_names, export, shared_weights, write_graph
from opdiff.exporters.to_onnx import to_onnx
from opdiff.exporters.variants import hf
from opdiff.exporters.variants.registry import parse_variant


def export_right(kind: str, folder: Path) -> Path:
    """hf.onnx of the unpatched model, beside its checkpoint and weights; made once, whoever asks first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "hf.onnx"
    with FileLock(folder / "lock"):
        if not path.exists():
            checkpoint = open_checkpoint(str(write_gguf(tiny_model(kind), folder / "model.gguf")))
            export(checkpoint, [parse_variant("hf")], folder)
    return path


def export_patched(
    kind: str, patches: Sequence[tuple[Fault, int]], benign: Sequence[Benign], folder: Path, name: str
) -> Path:
    """name.onnx of a model with these faults, each in its block, and with benign changes; `hf.onnx` is there already.

    It is exported for the length of TOKENS, hf.onnx for any: so tables and masks stand in the one as constants, not in the other.
    """
    model: Any = tiny_model(kind)
    options: dict[str, Any] = {}
    for change in benign:
        change.apply(model)
        options |= {key.removesuffix("_version"): value for key, value in change.export.items()}
    for fault, block in patches:
        fault.apply(model, block)
    checkpoint = open_checkpoint(str(folder / "model.gguf"))
    weights = shared_weights(checkpoint, folder / WEIGHT_FILE, with_q8_0=False)
    bound = BoundCheckpoint(checkpoint.config, weights)
    graph = to_onnx(hf.tapped(model), canonical_names(bound), n_tokens=len(TOKENS), **options)
    return write_graph(graph, bound, weights, folder / f"{name}.onnx", {"runtime": name})
