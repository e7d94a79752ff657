"""Variants as users write them: a Python file, exported and run."""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx_text import artifact_regions

from opdiff.compare.diagnose import compare
from opdiff.compare.result import RootCause
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import export
from opdiff.exporters.variants.registry import parse_variant
from opdiff.graphs.artifact import Artifact, load_artifact
from opdiff.graphs.run import Runner, run_regions

FEW_TOKENS = (1, 5, 3, 7, 2, 9)
HEAD = '''
import torch
from torch import nn
from opdiff import tap


class Small(nn.Module):
    """An embedding, a body, which is no stage that the catalogue would search for a name, and a head."""

    def __init__(self, checkpoint):
        super().__init__()
        self.embedding = nn.Parameter(checkpoint["token_embd.weight"], requires_grad=False)
        self.head = nn.Parameter(checkpoint["output.weight"], requires_grad=False)
        torch.manual_seed(0)
        self.wpe = nn.Parameter(torch.randn(64, 32), requires_grad=False)
        self.register_buffer("causal", torch.ones(64, 64, dtype=torch.bool).tril(), persistent=False)

    def forward(self, tokens):
        x = tap("embed", self.embedding[tokens], axes="token channel")
        x = tap("body", self.body(x), axes="token channel")
        return tap("logits", x @ self.head.T, axes="token vocab")

'''


def written(folder: Path, body: str, name: str = "mine.py") -> Path:
    """A file of a variant `Mine`, whose `body(self, x)` is given."""
    indented = "\n".join(f"        {line}" for line in body.splitlines())
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEAD}\nclass Mine(Small):\n    def body(self, x):\n{indented}\n")
    return path


def line_of(path: Path, text: str) -> str:
    """`file.py:42` of the only line that holds `text`."""
    (found,) = [n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line]
    return f"{path}:{found}"


def text_at(source: str | None, path: Path) -> str:
    """What stands at a line that was told, which must be one of this file."""
    assert source is not None
    file, _, number = source.rpartition(":")
    assert Path(file) == path
    return linecache.getline(file, int(number)).strip()


def exported(path: Path, name: str = "Mine", length: int | None = None) -> Artifact:
    """A variant of a user's file on the seed checkpoint, exported beside it."""
    request = parse_variant(f"{path}:{name}")
    (graph,) = export(open_checkpoint("seed", path.parent), [request], path.parent / "out", length=length)
    return load_artifact(graph)


def told(folder: Path, a: str, b: str) -> tuple[RootCause, list[Path]]:
    """The only cause of two bodies, the second wrong, which closes; and their files."""
    files = [written(folder / name, body, f"{name}.py") for name, body in (("first", a), ("second", b))]
    result = compare(*(exported(file, length=len(FEW_TOKENS)).path for file in files), FEW_TOKENS)
    (cause,) = result.root_causes
    assert result.closed.complete
    return cause, files


def logits(artifact: Artifact, tokens: Sequence[int]) -> np.ndarray:
    """What the graph makes of these tokens, in onnxruntime."""
    return run_regions(artifact_regions(artifact), {"tokens": np.asarray(tokens)}, Runner())["logits"]


def expected(path: Path, tokens: Sequence[int], name: str = "Mine") -> np.ndarray:
    """What torch makes of them."""
    import torch

    from opdiff.exporters.bound import BoundCheckpoint
    from opdiff.graphs.weights import SharedWeights

    config = open_checkpoint("seed", path.parent).config
    module = parse_variant(f"{path}:{name}").build(
        BoundCheckpoint(config, SharedWeights(path.parent / "out" / "weights.safetensors"))
    )
    with torch.no_grad():
        return module(torch.tensor(tokens)).numpy()
