"""onnxruntime's own operators as steps: each expansion against onnxruntime's kernel, and what none models stays one node."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from opdiff.graphs.adopt.flat import Flat, flatten
from opdiff.graphs.adopt.opened import open_foreign
from opdiff.graphs.run import Runner

RANDOM = np.random.default_rng(3)
TOKENS, WIDTH, HEADS, GROUPS = 5, 64, 4, 2


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def whole(*numbers: int, dtype: type = np.int32) -> np.ndarray:
    return np.array(numbers, dtype)


def packed(n_out: int, width: int, block: int) -> list[np.ndarray]:
    """A weight in 4 bits, its scales and zero points."""
    n_blocks = width // block
    weight = RANDOM.integers(0, 256, (n_out, n_blocks, block // 2), dtype=np.uint8)
    zeros = RANDOM.integers(0, 256, n_out * ((n_blocks + 1) // 2), dtype=np.uint8)
    return [weight, np.abs(normal(n_out, n_blocks)) / 8, zeros]


X = normal(1, TOKENS, WIDTH)
HALF = WIDTH // HEADS // 2
ANGLES = np.arange(16)[:, None] * 0.3 ** np.arange(HALF)
TABLES = [np.cos(ANGLES).astype(np.float32), np.sin(ANGLES).astype(np.float32)]
KV = normal(1, TOKENS, GROUPS * WIDTH // HEADS)
PAST = [normal(1, GROUPS, 3, WIDTH // HEADS) for _ in range(2)]
LENGTHS = [whole(TOKENS - 1), np.array(TOKENS, np.int32)]
LATER = [whole(TOKENS + 2), np.array(TOKENS + 3, np.int32)]
EMPTY = [np.zeros((1, GROUPS, 0, WIDTH // HEADS), np.float32)] * 2
GROUPED = dict(num_heads=HEADS, kv_num_heads=GROUPS)
QKV = normal(1, TOKENS, WIDTH + 2 * GROUPS * WIDTH // HEADS)

# operator: inputs (None is left out), attributes; all inputs but the first are constants.
CASES = {
    "SkipSimplifiedLayerNormalization": ([X, normal(1, TOKENS, WIDTH), normal(WIDTH)], dict(epsilon=1e-3)),
    "SkipSimplifiedLayerNormalization with a bias": (
        [X, normal(1, TOKENS, WIDTH), normal(WIDTH), normal(WIDTH)],
        dict(epsilon=1e-3),
    ),
    "SkipLayerNormalization": ([X, normal(1, TOKENS, WIDTH), normal(WIDTH), normal(WIDTH)], dict(epsilon=1e-3)),
    "QuickGelu": ([X], dict(alpha=1.702)),
    "Gelu": ([X], {}),
    "BiasGelu": ([X, normal(WIDTH)], {}),
    "FastGelu": ([X, normal(WIDTH)], {}),
    "FusedMatMul": ([normal(4, 6), normal(5, 6)], dict(alpha=0.5, transB=1)),
    "FusedMatMul of no other batch": ([normal(4, 6), normal(6, 5)], dict(transBatchA=0, transBatchB=0)),
    "FusedGemm": ([normal(4, 6), normal(6, 5), normal(5)], dict(activation="Relu")),
    "FusedConv": ([normal(1, 3, 8, 8), normal(4, 3, 3, 3), normal(4)], dict(activation="Relu", pads=[1, 1, 1, 1])),
    "RotaryEmbedding": ([X, whole(2, dtype=np.int64), *TABLES], dict(num_heads=HEADS)),
    "RotaryEmbedding of neighbours": (
        [X, np.arange(TOKENS, dtype=np.int64)[None], *TABLES],
        dict(num_heads=HEADS, interleaved=1),
    ),
    "RotaryEmbedding of some channels": (
        [X, np.arange(TOKENS, dtype=np.int64)[None], *(t[:, : HALF // 2] for t in TABLES)],
        dict(num_heads=HEADS, rotary_embedding_dim=HALF),
    ),
    "GroupQueryAttention": ([X, KV, KV[:, ::-1].copy(), *EMPTY, *LENGTHS, *TABLES], {**GROUPED, "do_rotary": 1}),
    "GroupQueryAttention with a past": (
        [X, KV, KV, *PAST, *LATER, *TABLES],
        {**GROUPED, "do_rotary": 1, "softcap": 3.0},
    ),
    "GroupQueryAttention in a window": (
        [X, KV, KV, *EMPTY, *LENGTHS],
        {**GROUPED, "local_window_size": 2, "scale": 0.1},
    ),
    "GroupQueryAttention of one product": ([QKV, None, None, *EMPTY, *LENGTHS, *TABLES], {**GROUPED, "do_rotary": 1}),
    "MultiHeadAttention": ([X, normal(1, 7, WIDTH), normal(1, 7, WIDTH)], dict(num_heads=HEADS)),
    "MultiHeadAttention of later tokens": ([X, X, normal(1, TOKENS, WIDTH)], dict(num_heads=HEADS, unidirectional=1)),
    "MatMulNBits": ([X, *packed(24, WIDTH, 32)[:2]], dict(K=WIDTH, N=24, bits=4, block_size=32)),
    "MatMulNBits with zero points": ([X, *packed(24, WIDTH, 16)], dict(K=WIDTH, N=24, bits=4, block_size=16)),
}


def written(
    operator: str, inputs: list, attributes: dict, path, domain: str = "com.microsoft", opset: int = 20
) -> np.ndarray:
    """A graph of this one node, in a file, and its first input."""
    names = ["" if value is None else f"x{n}" for n, value in enumerate(inputs)]
    outputs = ["y", "keys", "values"] if operator == "GroupQueryAttention" else ["y"]
    node = helper.make_node(operator, names, outputs, name="one", domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x0", onnx.TensorProto.FLOAT, inputs[0].shape)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(v, f"x{n}") for n, v in enumerate(inputs) if n and v is not None],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return inputs[0]


def run_flat(path, x: np.ndarray) -> Flat:
    return flatten(open_foreign(path), {"x0": x}, {}, Runner())


@pytest.mark.parametrize("name", CASES)
def test_steps_give_what_the_kernel_gives(name, tmp_path):
    x = written(name.split()[0], *CASES[name], tmp_path / "one.onnx")
    flat = run_flat(tmp_path / "one.onnx", x)
    (wanted,) = ort.InferenceSession(str(tmp_path / "one.onnx")).run(["y"], {"x0": x})
    np.testing.assert_allclose(flat.array(flat.outputs["y"]), wanted, rtol=2e-4, atol=2e-5)
    assert all(not node.domain for node in flat.nodes)
    assert all(node.name.startswith("one") for node in flat.nodes)


@pytest.mark.parametrize("opset", [11, 20])
@pytest.mark.parametrize("shape", [(1, 3, 8, 6), (2, 3, 9)])
def test_instance_norm_of_onnx_itself(shape, opset, tmp_path):
    inputs = [normal(*shape), normal(3), normal(3)]
    x = written("InstanceNormalization", inputs, dict(epsilon=1e-3), tmp_path / "one.onnx", "", opset)
    flat = run_flat(tmp_path / "one.onnx", x)
    (wanted,) = ort.InferenceSession(str(tmp_path / "one.onnx")).run(["y"], {"x0": x})
    np.testing.assert_allclose(flat.array(flat.outputs["y"]), wanted, rtol=1e-5, atol=1e-5)
    assert "ReduceMean" in [node.operator for node in flat.nodes]


def test_simplified_norm_of_no_domain(tmp_path):
    x = written("SimplifiedLayerNormalization", [X, normal(WIDTH)], dict(epsilon=1e-3), tmp_path / "one.onnx", "")
    flat = run_flat(tmp_path / "one.onnx", x)
    (wanted,) = ort.InferenceSession(str(tmp_path / "one.onnx")).run(["y"], {"x0": x})
    np.testing.assert_allclose(flat.array(flat.outputs["y"]), wanted, rtol=1e-5, atol=1e-5)
    assert "ReduceMean" in [node.operator for node in flat.nodes]


@pytest.mark.parametrize("opset", [11, 14, 17])
@pytest.mark.parametrize(
    ("operator", "domain", "inputs"),
    [
        ("LayerNormalization", "", [X, normal(WIDTH), normal(WIDTH)]),
        ("SimplifiedLayerNormalization", "", [X, normal(WIDTH)]),
        ("SkipLayerNormalization", "com.microsoft", [X, normal(1, TOKENS, WIDTH), normal(WIDTH), normal(WIDTH)]),
    ],
)
def test_norms_that_onnxruntime_writes_into_graphs_of_old_opsets(operator, domain, inputs, opset, tmp_path):
    x = written(operator, inputs, dict(epsilon=1e-3), tmp_path / "one.onnx", domain, opset)
    flat = run_flat(tmp_path / "one.onnx", x)
    (wanted,) = ort.InferenceSession(str(tmp_path / "one.onnx")).run(["y"], {"x0": x})
    np.testing.assert_allclose(flat.array(flat.outputs["y"]), wanted, rtol=1e-4, atol=1e-5)
    assert "ReduceMean" in [node.operator for node in flat.nodes]


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"),
    [
        ("GroupQueryAttention", [X, KV, KV, *EMPTY, *LENGTHS], {**GROUPED, "smooth_softmax": 1}),
        ("FusedGemm", [normal(4, 6), normal(6, 5), normal(5)], dict(activation="LeakyRelu", activation_alpha=0.1)),
    ],
)
def test_what_is_not_modelled_stays_one_node_that_onnxruntime_runs(operator, inputs, attributes, tmp_path):
    x = written(operator, inputs, attributes, tmp_path / "one.onnx")
    flat = run_flat(tmp_path / "one.onnx", x)
    assert [node.operator for node in flat.nodes] == [operator]
    (wanted,) = ort.InferenceSession(str(tmp_path / "one.onnx")).run(["y"], {"x0": x})
    np.testing.assert_allclose(flat.array(flat.outputs["y"]), wanted, rtol=1e-5, atol=1e-5)
