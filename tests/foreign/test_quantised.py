"""Graphs that onnxruntime quantises dynamically: one weight in whole numbers is one weight, and what is rounded while running
is told as that.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from corpus.models import N_BLOCKS, TOKENS
from foreign import models
from foreign.conftest import faulty
from foreign.test_fused import MODELS
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer

from opdiff.compare.diagnose import compare

ROUNDED = "rounded_to_8_bits(x) is extra, x = attn_norm"
PRODUCTS = ("q_proj", "k_proj", "v_proj", "o_proj", "ffn_gate", "ffn_up", "ffn_down")


def quantised(path: Path, folder: Path, **how: object) -> Path:
    """The graph with products of whole numbers, its activations rounded while running."""
    logging.getLogger("root").setLevel(logging.ERROR)
    made = folder / "quantised.onnx"
    quantize_dynamic(str(path), str(made), extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT}, **how)
    assert "MatMulInteger" in [node.op_type for node in onnx.load(made).graph.node]
    return made


@pytest.mark.parametrize(
    ("how", "level"),
    [({}, ""), ({"per_channel": True, "weight_type": QuantType.QUInt8}, ""), ({}, "all")],
    ids=["one scale", "by channel", "onnxruntime all"],
)
def test_activations_that_are_rounded_while_running_are_told_as_one_cause(how, level, exports, tmp_path):
    b = quantised(exports / "eager.onnx", tmp_path, **how)
    if level:
        b = models.saved_by_onnxruntime(b, level)
    result = compare(exports / "eager.onnx", b, TOKENS)
    (cause,) = result.root_causes
    assert ROUNDED in cause.text
    assert {f"blk.{n}.{stage}" for n in range(N_BLOCKS) for stage in PRODUCTS} <= set(cause.taps)
    assert result.closed.complete
    assert any("in fewer bits (" in note for note in result.notes)


def test_a_fault_beside_what_is_rounded_is_found(exports, tmp_path):
    b = quantised(models.qwen3(tmp_path / "faulty.onnx", faulty), tmp_path)
    result = compare(exports / "eager.onnx", b, TOKENS)
    told = ["; ".join((cause.text, *cause.edit)) for cause in result.root_causes]
    assert any("0.0001 where" in text and "1e-06" in text for text in told)
    assert any("erf(" in text for text in told)
    assert any("rounded_to_8_bits(" in text for text in told)
    assert result.closed.complete


def test_a_weight_beyond_its_storage_is_a_fault(exports, tmp_path):
    b = quantised(exports / "eager.onnx", tmp_path)
    model = onnx.load(b)
    weight = next(
        tensor for tensor in model.graph.initializer if tensor.name.endswith("_quantized") and tensor.dims[0] == 80
    )
    array = onnx.numpy_helper.to_array(weight).copy()
    array[3, 5] = 127 if array[3, 5] < 64 else 0
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, b)
    result = compare(exports / "eager.onnx", b, TOKENS)
    assert any("storage: 22 of B's constants" in note for note in result.notes)
    assert any(len(cause.taps) == 1 and cause.taps[0].endswith("ffn_down") for cause in result.root_causes)
    assert np.isfinite(result.closed.residual or 0)


def test_a_bias_in_one_step_with_its_product_is_the_one_of_its_own_step(tmp_path):
    """torch writes a layer as Gemm, with its bias; the quantiser adds it after the product of whole numbers."""
    generator = torch.Generator().manual_seed(0)
    layers = models.filled(torch.nn.Sequential(torch.nn.Linear(24, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10)))
    a = models.written(layers, torch.randn(3, 24, generator=generator), tmp_path / "a.onnx", 18, "x")
    assert "Gemm" in [node.op_type for node in onnx.load(a).graph.node]
    result = compare(a, quantised(a, tmp_path))
    assert [cause.text for cause in result.root_causes if "bias" in cause.text or "left out" in cause.text] == []
    assert any("rounded_to_8_bits(" in cause.text for cause in result.root_causes)
    assert result.closed.complete


def test_convolutions_of_whole_numbers_are_those_of_the_dequantised_weights(tmp_path):
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.Tanh(),
        torch.nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2),
        torch.nn.Tanh(),
        torch.nn.Flatten(),
        torch.nn.Linear(200, 10),
    )
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, 10, 10, generator=generator)
    a = models.written(models.filled(layers), image, tmp_path / "a.onnx", 18, "x")
    b = quantised(a, tmp_path, reduce_range=True)  # to 7 bits: of 8, a processor without VNNI cuts what 16 cannot hold
    assert [node.op_type for node in onnx.load(b).graph.node].count("ConvInteger") == 2
    result = compare(a, b)
    assert result.root_causes
    assert all("rounded_to_8_bits(" in cause.text for cause in result.root_causes), result.root_causes
    assert result.closed.complete
    note = next(note for note in result.notes if "B's outputs, as they are compared" in note)
    assert float(note.rsplit(" to ", 1)[1]) < 1e-5


def test_what_is_fused_before_it_is_quantised_is_rounded_by_one_cause(tmp_path):
    """Its norms' gains and biases are in whole numbers too."""
    model = models.filled(MODELS["bert"]())
    a = models.by_torchscript(model, tmp_path / "a.onnx")
    heads, width = model.config.num_attention_heads, model.config.hidden_size
    fused = optimizer.optimize_model(str(a), model_type="bert", num_heads=heads, hidden_size=width)
    fused.save_model_to_file(str(tmp_path / "fused.onnx"))
    b = tmp_path / "b.onnx"
    quantize_dynamic(str(tmp_path / "fused.onnx"), str(b), extra_options={"DefaultTensorType": 1})
    operators = {node.op_type for node in onnx.load(b).graph.node}
    assert {"QAttention", "QEmbedLayerNormalization"} <= operators
    result = compare(a, b, TOKENS)
    (cause,) = result.root_causes
    assert ROUNDED in cause.text
    assert result.closed.complete
