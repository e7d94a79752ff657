"""Small graphs, written as ONNX text and saved as artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from opdiff.graphs.artifact import Artifact, load_artifact, refer_to_external, save_artifact
from opdiff.graphs.constants import Exact
from opdiff.graphs.regions import Region, cut
from opdiff.graphs.run import Precision, Runner
from opdiff.graphs.weights import TensorSource, WeightFile, write_safetensors

HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'

# Two blocks of one linear layer each, between an embedding and a head.
DECODER = """
decoder (int64[T] tokens) => (float[T,4] embed, float[T,4] "blk.0.ffn_down", float[T,4] "blk.1.ffn_down", float[T,8] logits)
{
  embed = Gather(table, tokens)
  up0 = MatMul(embed, w0)
  act0 = Relu(up0)
  "blk.0.ffn_down" = Add(embed, act0)
  up1 = MatMul("blk.0.ffn_down", w1)
  act1 = Relu(up1)
  "blk.1.ffn_down" = Add("blk.0.ffn_down", act1)
  head = Transpose<perm = [1, 0]>(table)
  logits = MatMul("blk.1.ffn_down", head)
}
"""
FLAT = ("token", "channel")
DECODER_AXES = {"embed": FLAT, "blk.0.ffn_down": FLAT, "blk.1.ffn_down": FLAT, "logits": ("token", "vocab")}


def decoder_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights for DECODER."""
    random = np.random.default_rng(seed)
    shapes = {"table": (8, 4), "w0": (4, 4), "w1": (4, 4)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def save_text(
    path: Path,
    text: str,
    axes: Mapping[str, tuple[str, ...]],
    weights: Mapping[str, np.ndarray] | None = None,
    facts: Mapping[str, str] | None = None,
    header: str = HEADER,
) -> Path:
    """Save a graph as an artifact; its weights, if any, beside it in weights.safetensors."""
    model = onnx.parser.parse_model(header + text)
    if weights:
        file = path.with_name("weights.safetensors")
        write_safetensors(file, [TensorSource(n, a.dtype, a.shape, lambda a=a: a) for n, a in weights.items()], {})
        for name, array in weights.items():
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            tensor = onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
            refer_to_external(tensor, file.name, *WeightFile(file).location(name))
            model.graph.initializer.append(tensor)
    save_artifact(model, path, axes, facts or {})
    return path


def save_decoder(path: Path, seed: int = 0, text: str = DECODER) -> Path:
    """DECODER with random weights."""
    return save_text(path, text, DECODER_AXES, decoder_weights(seed))


def region_of(folder: Path, text: str, tap: str, **taps: tuple[str, ...]) -> Region:
    """The region of one tap of a graph without outside weights."""
    return artifact_regions(load_artifact(save_text(folder / "text.onnx", text, taps)))[tap]


def artifact_regions(artifact: Artifact) -> dict[str, Region]:
    """The graph cut at all of its taps."""
    return cut(artifact, [tap.name for tap in artifact.taps])


def run_of(
    region: Region, *inputs: np.ndarray, precision: Precision = "float64", perturb: Exact | None = None
) -> np.ndarray:
    """The region's output, by a runner of its own."""
    return Runner().run(region, inputs, precision, perturb)
