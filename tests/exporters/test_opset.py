"""Operators of later opsets that a module calls by their names: the graph gets the opset that they need."""

from __future__ import annotations

import numpy as np
import pytest
from own_files import expected, exported, logits, written

from opdiff.exporters.to_onnx import OPSET

TOKENS = [1, 5, 3, 7]
BODIES = {
    "rms norm": ("return torch.nn.functional.rms_norm(x, (32,), self.wpe[0, :32], 1e-5)", OPSET, "Mul"),
    "rotary embedding": (
        """angles = torch.arange(x.shape[0]).float()[:, None] * torch.linspace(1, 0.1, 4)[None]
heads, at = x.view(1, x.shape[0], 4, 8).transpose(1, 2), torch.arange(x.shape[0])[None]
turned = torch.onnx.ops.rotary_embedding(heads, angles.cos(), angles.sin(), at)
return turned.transpose(1, 2).reshape(-1, 32)""",
        23,
        "RotaryEmbedding",
    ),
    "attention": (
        """heads = x.view(1, x.shape[0], 4, 8).transpose(1, 2)
y = torch.onnx.ops.attention(heads, heads, heads, is_causal=True)[0]
return y.transpose(1, 2).reshape(-1, 32)""",
        23,
        "Attention",
    ),
    "attention of torch's own": (
        """heads = x.view(1, x.shape[0], 4, 8).transpose(1, 2)
y = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
return y.transpose(1, 2).reshape(-1, 32)""",
        OPSET,
        "Softmax",
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_module_gets_the_opset_that_it_needs_and_no_later_one(name, tmp_path):
    body, opset, operator = BODIES[name]
    path = written(tmp_path, body)
    artifact = exported(path)
    assert {entry.domain: entry.version for entry in artifact.model.opset_import}[""] == opset
    assert operator in {node.op_type for node in artifact.model.graph.node}
    np.testing.assert_allclose(logits(artifact, TOKENS), expected(path, TOKENS), rtol=1e-3, atol=1e-3)


def test_operator_by_its_name_and_version_is_that_operator(tmp_path):
    body = """gain = torch.ones(32)
return torch.onnx.ops.symbolic("RMSNormalization", (x, gain), {"epsilon": 1e-5}, dtype=x.dtype, shape=x.shape, version=23)"""
    artifact = exported(written(tmp_path, body))
    found = logits(artifact, TOKENS)
    x = artifact.weights["token_embd.weight"].array[TOKENS]
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, y @ artifact.weights["output.weight"].array.T, rtol=1e-3, atol=1e-3)
