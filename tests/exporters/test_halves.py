"""Checkpoints in half precision: their weights stand in the file and in the graphs as they are, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from corpus.models import TOKENS, tiny_model, write_gguf
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from onnx_text import artifact_regions
from torch import nn

import opdiff
from opdiff.compare.diagnose import compare
from opdiff.exporters.bound import BoundCheckpoint
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import WEIGHT_FILE, export
from opdiff.exporters.variants.reference import reference
from opdiff.exporters.variants.registry import VariantRequest, parse_variant
from opdiff.graphs.artifact import Artifact, load_artifact
from opdiff.graphs.run import Precision, Runner, run_regions
from opdiff.graphs.weights import WeightFile

KINDS = ("F16", "BF16")
ELEM_TYPES = {"F16": onnx.TensorProto.FLOAT16, "BF16": onnx.TensorProto.BFLOAT16, "F32": onnx.TensorProto.FLOAT}


class Own(nn.Module):
    """A user's module, which asks for float32 and knows of nothing else; the head is tied."""

    def __init__(self, checkpoint: BoundCheckpoint) -> None:
        super().__init__()
        self.embedding = nn.Parameter(checkpoint["token_embd.weight"], requires_grad=False)
        self.q = nn.Parameter(checkpoint["blk.0.attn_q.weight"], requires_grad=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = opdiff.tap("embed", self.embedding[tokens], axes="token channel")
        x = opdiff.tap("blk.0.q_proj", x @ self.q.T, axes="token channel")
        return opdiff.tap("logits", x @ self.embedding.T, axes="token vocab")


def own(checkpoint: BoundCheckpoint) -> nn.Module:
    return Own(checkpoint)


def swapped(checkpoint: BoundCheckpoint) -> nn.Module:
    """The reference with block 0's attn_k in block 1 too."""
    module = reference(checkpoint)
    module.blocks[1].attn_k = module.blocks[0].attn_k
    return module


VARIANTS = [parse_variant(name) for name in ("dsl", "legacy", "reference")]
VARIANTS += [VariantRequest("own", own, {}), VariantRequest("swapped", swapped, {})]


@pytest.fixture(scope="module", params=KINDS)
def half(request, tmp_path_factory) -> Path:
    """model.gguf in half precision with its variants, and, in `single`, the same values in F32."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "single").mkdir()
    model = tiny_model("qwen3_square", n_blocks=2)
    made = write_gguf(model, folder / "model.gguf", request.param)
    export(open_checkpoint(str(made)), VARIANTS, folder, link=False, length=len(TOKENS))
    kind = GGMLQuantizationType[request.param]
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.copy_(torch.from_numpy(dequantize(quantize(parameter.numpy(), kind), kind)))
    single = open_checkpoint(str(write_gguf(model, folder / "single.gguf")))
    export(single, VARIANTS, folder / "single", length=len(TOKENS))
    return folder


def values(artifact: Artifact, precision: Precision = "float32") -> dict[str, np.ndarray]:
    return run_regions(artifact_regions(artifact), {"tokens": np.array(TOKENS)}, Runner(), precision)


def test_weights_stand_in_the_type_in_which_they_are_stored(half):
    checkpoint = open_checkpoint(str(half / "model.gguf"))
    for variant in VARIANTS:
        model = onnx.load(half / f"{variant.name}.onnx", load_external_data=False)
        stored = {i.name: i.data_type for i in model.graph.initializer if i.name in checkpoint}
        assert stored == {name: ELEM_TYPES[checkpoint.quantisation(name)] for name in stored}, variant.name
        assert "blk.0.attn_q.weight" in stored


def test_no_variant_holds_a_float32_copy(half):
    """Of the tensors that a model multiplies with, the head's is the largest: 2.5 GB in float32 for Qwen3-8B."""
    checkpoint = open_checkpoint(str(half / "model.gguf"))
    file = WeightFile(half / WEIGHT_FILE)
    for variant in VARIANTS:
        bound = BoundCheckpoint(checkpoint.config, file)
        held = variant.build(bound)
        copied = [name for name, t in held.named_parameters() if t.ndim == 2 and t.dtype == torch.float32]
        assert bool(copied) == (variant.name == "own"), (variant.name, copied)


def test_no_float32_copy_is_written(half):
    checkpoint = open_checkpoint(str(half / "model.gguf"))
    size = {"F32": 4, "F16": 2, "BF16": 2}
    stored = sum(int(np.prod(checkpoint.shape(n))) * size[checkpoint.quantisation(n)] for n in checkpoint.names)
    files = [file for file in half.iterdir() if file.suffix == ".safetensors"]
    assert [file.name for file in files] == [WEIGHT_FILE]
    assert sum(file.stat().st_size for file in files) < stored + 8192
    weights = WeightFile(files[0])
    for name in checkpoint.names:
        assert weights[name].tobytes() == checkpoint.stored(name).tobytes(), name


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("variant", [variant.name for variant in VARIANTS])
def test_values_are_those_of_the_same_numbers_in_float32(variant, precision, half):
    ours, theirs = (values(load_artifact(f / f"{variant}.onnx"), precision) for f in (half, half / "single"))
    assert ours.keys() == theirs.keys()
    near = 1e-4 if precision == "float32" else 1e-12
    for tap in ours:
        assert ours[tap].dtype == theirs[tap].dtype
        np.testing.assert_allclose(ours[tap], theirs[tap], rtol=near, atol=near, err_msg=tap)


def test_rows_are_looked_up_before_they_are_cast(half):
    for variant in VARIANTS:
        program = artifact_regions(load_artifact(half / f"{variant.name}.onnx"))["embed"].program
        assert program.operators[-1] == "Cast", variant.name
        assert "Cast" not in program.operators[:-1]


def test_onnxruntime_runs_the_graph_as_it_is(half):
    session = ort.InferenceSession(str(half / "reference.onnx"))
    found = session.run(["logits"], {"tokens": np.array(TOKENS)})[0]
    np.testing.assert_allclose(found, values(load_artifact(half / "reference.onnx"))["logits"], rtol=1e-3, atol=1e-3)


def causes(result) -> set[tuple[str | None, str | None]]:
    return {(cause.convention, cause.b_value) for cause in result.root_causes}


def test_faults_are_named_as_they_are_with_float32_weights(half):
    ours, theirs = (
        compare(f / "dsl.onnx", f / "legacy.onnx", TOKENS, f / "reference.onnx") for f in (half, half / "single")
    )
    assert causes(ours) == {("linear.layout", "transposed"), ("qk_norm.eps", "1e-06"), ("rope.pairing", "half_split")}
    assert ours.closed.complete
    assert [cause.text for cause in ours.root_causes] == [cause.text for cause in theirs.root_causes]
    assert [cause.source for cause in ours.root_causes] == [cause.source for cause in theirs.root_causes]
    assert [d.difference for d in ours.divergences] == [d.difference for d in theirs.divergences]


def test_wrong_tensor_is_named_and_the_product_is_the_node(half):
    result = compare(half / "reference.onnx", half / "swapped.onnx", TOKENS)
    assert causes(result) == {("linear.tensor", "attn_k <- blk.0.attn_k")}
    (divergence,) = result.divergences
    assert divergence.tap == "blk.1.k_proj"
    assert "blk.0.attn_k.weight" in divergence.difference
    assert "Cast" not in divergence.difference


def test_weights_in_half_precision_equal_float32_ones_of_the_same_numbers(half):
    """The same numbers, stored in two ways, are no difference."""
    result = compare(half / "reference.onnx", half / "single" / "reference.onnx", TOKENS)
    assert result.parity
    assert not result.divergences
