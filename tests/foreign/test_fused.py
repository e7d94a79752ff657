"""What onnxruntime's optimizer for transformers fuses, as steps: against its kernels, and against the export as it was."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import transformers
from click.testing import CliRunner
from corpus.models import TOKENS
from foreign import models
from onnx import helper
from onnxruntime.transformers import optimizer

from opdiff.__main__ import main
from opdiff.compare.diagnose import compare
from opdiff.graphs.adopt.flat import flatten
from opdiff.graphs.adopt.opened import open_foreign
from opdiff.graphs.run import Runner

RANDOM = np.random.default_rng(4)
BATCH, N_TOKENS, WIDTH, HEADS = 2, 5, 24, 4


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def ones_but(*places: tuple[int, ...], shape: tuple[int, ...] = (BATCH, N_TOKENS)) -> np.ndarray:
    """A mask that hides some places."""
    mask = np.ones(shape, np.int32)
    for place in places:
        mask[place] = 0
    return mask


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


X, WEIGHT, BIAS = normal(BATCH, N_TOKENS, WIDTH), normal(WIDTH, 3 * WIDTH), normal(3 * WIDTH)
PACKED = [X, WEIGHT, BIAS]
PAST = normal(2, BATCH, HEADS, 3, WIDTH // HEADS)
HEADED = dict(num_heads=HEADS)
SOME = ones_but((0, 4), (1, 1), (1, 2))
LEFT = ones_but((0, 0), (0, 1))
BY_TOKEN = np.tril(np.ones((BATCH, N_TOKENS, N_TOKENS), np.int32))
Y = normal(BATCH, 7, WIDTH)
TABLES = [normal(30, WIDTH), normal(9, WIDTH), normal(2, WIDTH)]
IDS, SEGMENTS = RANDOM.integers(0, 30, (BATCH, N_TOKENS), np.int32), RANDOM.integers(0, 2, (BATCH, N_TOKENS), np.int32)
AT = RANDOM.integers(0, 9, (BATCH, N_TOKENS), np.int32)
NORM = [normal(WIDTH), normal(WIDTH)]


def in_bytes(array: np.ndarray, dtype: type = np.uint8) -> list[np.ndarray]:
    """Whole numbers, their scale and what stands for 0; those of int8 in 7 bits, for a processor without VNNI adds two products
    in 16 bits, and cuts what is more.
    """
    least, n_levels = (-64, 127) if dtype is np.int8 else (0, 255)
    scale = np.float32(np.ptp(array) / n_levels)
    zero = np.round(least - array.min() / scale)
    return [np.clip(np.round(array / scale + zero), least, least + n_levels).astype(dtype), scale, zero.astype(dtype)]


def by_place(*values: list[np.ndarray]) -> list[np.ndarray]:
    """What several have in whole numbers, then their scales, then what stands for 0 in each."""
    return [part for parts in zip(*values, strict=True) for part in parts]


SMALL, ROWS = in_bytes(WEIGHT, np.int8), in_bytes(X)
BY_CHANNEL = [normal(3 * WIDTH) ** 2 / 99 + np.float32(0.01), np.zeros(3 * WIDTH, np.int8)]
COARSE = by_place(*(in_bytes(table) for table in (*TABLES, *NORM)))

# operator: inputs (None is left out), attributes, how many outputs it has.
CASES = {
    "Attention": (PACKED, HEADED, 1),
    "Attention without a bias": ([X, WEIGHT], HEADED, 1),
    "Attention of tokens before": (PACKED, {**HEADED, "unidirectional": 1}, 1),
    "Attention of another scale": (PACKED, {**HEADED, "scale": 0.3}, 1),
    "Attention of other sizes": (
        [X, normal(WIDTH, 3 * WIDTH - 8), normal(3 * WIDTH - 8)],
        {**HEADED, "qkv_hidden_sizes": [WIDTH, WIDTH, WIDTH - 8]},
        1,
    ),
    "Attention with a mask": ([*PACKED, SOME], HEADED, 1),
    "Attention with a mask that hides less": ([*PACKED, SOME], {**HEADED, "mask_filter_value": -1.5}, 1),
    "Attention with a mask by token": ([*PACKED, BY_TOKEN], HEADED, 1),
    "Attention of some lengths": ([*PACKED, whole(5, 3)], HEADED, 1),
    "Attention from starts to ends": ([*PACKED, whole(5, 3, 2, 0)], HEADED, 1),
    "Attention of tokens before, padded on the left": ([*PACKED, LEFT], {**HEADED, "unidirectional": 1}, 1),
    "Attention with a past": ([*PACKED, None, PAST], {**HEADED, "unidirectional": 1}, 2),
    "Attention with a past and a mask": ([*PACKED, ones_but((1, 1), shape=(BATCH, 8)), PAST], HEADED, 2),
    "Attention with a bias of scores": ([*PACKED, SOME, None, normal(BATCH, HEADS, N_TOKENS, N_TOKENS)], HEADED, 1),
    "MultiHeadAttention with a mask": (
        [X, Y, Y[::-1].copy(), None, ones_but((0, 6), (1, 2), shape=(BATCH, 7))],
        HEADED,
        1,
    ),
    "MultiHeadAttention of some lengths, with a bias": ([X, X, X[::-1].copy(), BIAS, whole(4, 2)], HEADED, 1),
    "MultiHeadAttention with a mask by token": ([X, X, X[::-1].copy(), None, BY_TOKEN], HEADED, 1),
    "EmbedLayerNormalization": ([IDS, SEGMENTS, *TABLES, *NORM, SOME], dict(epsilon=1e-3, mask_index_type=1), 2),
    "DynamicQuantizeMatMul": ([X, *SMALL, BIAS], {}, 1),
    "DynamicQuantizeMatMul by channel": ([X, SMALL[0], *BY_CHANNEL], {}, 1),
    "MatMulIntegerToFloat": ([ROWS[0], SMALL[0], ROWS[1], SMALL[1], ROWS[2], SMALL[2], BIAS], {}, 1),
    "QAttention": ([ROWS[0], SMALL[0], BIAS, ROWS[1], SMALL[1], SOME, ROWS[2], SMALL[2]], HEADED, 1),
    "QAttention of tokens before": (
        [ROWS[0], SMALL[0], BIAS, ROWS[1], BY_CHANNEL[0], None, ROWS[2], BY_CHANNEL[1]],
        {**HEADED, "unidirectional": 1},
        1,
    ),
    "QEmbedLayerNormalization": ([IDS, SEGMENTS, *COARSE[:5], SOME, *COARSE[5:]], dict(epsilon=1e-3), 2),
    "EmbedLayerNormalization without segments": (
        [IDS, None, *TABLES[:2], None, *NORM, None, AT],
        dict(epsilon=1e-3),
        3,
    ),
}


def written(operator: str, inputs: list, attributes: dict, n_outputs: int, path) -> list[str]:
    """A graph of this one node, in a file, all inputs but the first constants; the names of its outputs."""
    names = ["" if value is None else f"x{n}" for n, value in enumerate(inputs)]
    outputs = [f"y{n}" for n in range(n_outputs)]
    node = helper.make_node(operator, names, outputs, name="one", domain="com.microsoft", **attributes)
    kinds = [onnx.helper.np_dtype_to_tensor_dtype(inputs[0].dtype), onnx.TensorProto.FLOAT, onnx.TensorProto.INT32]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x0", kinds[0], inputs[0].shape)],
        [
            helper.make_tensor_value_info(name, kinds[1 + ("EmbedLayer" in operator and name == "y1")], None)
            for name in outputs
        ],
        [onnx.numpy_helper.from_array(v, f"x{n}") for n, v in enumerate(inputs) if n and v is not None],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return outputs


@pytest.mark.parametrize("name", CASES)
def test_steps_give_what_the_kernel_gives(name, tmp_path):
    inputs = CASES[name][0]
    outputs = written(name.split()[0], *CASES[name], tmp_path / "one.onnx")
    flat = flatten(open_foreign(tmp_path / "one.onnx"), {"x0": inputs[0]}, {}, Runner())
    wanted = ort.InferenceSession(str(tmp_path / "one.onnx")).run(outputs, {"x0": inputs[0]})
    for output, array in zip(outputs, wanted, strict=True):
        np.testing.assert_allclose(flat.array(flat.outputs[output]), array, rtol=2e-4, atol=2e-4)
    assert all(not node.domain for node in flat.nodes)
    assert all(node.name.startswith("one") for node in flat.nodes)


@pytest.mark.parametrize("is_all", [True, False])
def test_operands_side_by_side_are_those_apart(is_all, tmp_path):
    """onnxruntime's CPU has no kernel for them, so they are held against the same numbers in three inputs."""
    q, k, v = normal(3, BATCH, N_TOKENS, WIDTH)
    parts = [x.reshape(BATCH, N_TOKENS, HEADS, -1) for x in (q, k, v)]
    packed = [np.stack(parts, 3)] if is_all else [q, np.stack(parts[1:], 3)]
    made = []
    for name, inputs in (("packed", packed), ("apart", [q, k, v])):
        inputs = [*inputs, *[None] * (3 - len(inputs)), BIAS, SOME]
        written("MultiHeadAttention", inputs, HEADED, 1, tmp_path / f"{name}.onnx")
        flat = flatten(open_foreign(tmp_path / f"{name}.onnx"), {"x0": inputs[0]}, {}, Runner())
        made.append(flat.array(flat.outputs["y0"]))
        assert all(not node.domain for node in flat.nodes)
    np.testing.assert_allclose(*made, rtol=1e-12, atol=1e-12)


def test_what_neither_models_is_refused_in_one_line(tmp_path):
    written("Attention", PACKED, {**HEADED, "do_rotary": 1}, 1, tmp_path / "one.onnx")
    refused = CliRunner().invoke(main, ["compare", *[str(tmp_path / "one.onnx")] * 2])
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
    assert "node one (Attention) cannot run on this input" in refused.stderr


SIZES = dict(vocab_size=96, attn_implementation="eager")
MODELS = {
    "bert": lambda: transformers.BertForMaskedLM(
        transformers.BertConfig(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            intermediate_size=80,
            max_position_embeddings=64,
            **SIZES,
        )
    ),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=64, n_layer=2, n_head=HEADS, n_positions=64, use_cache=False, **SIZES)
    ),
}
FUSED = {
    "bert": {"Attention", "EmbedLayerNormalization", "SkipLayerNormalization", "BiasGelu"},
    "gpt2": {"SkipLayerNormalization", "FastGelu"},
}


def optimised(path: Path, kind: str) -> Path:
    """The graph as onnxruntime's optimizer for transformers leaves it."""
    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    model = optimizer.optimize_model(str(path), model_type=kind, num_heads=HEADS, hidden_size=64, opt_level=0)
    made = path.with_suffix(".optimised.onnx")
    model.save_model_to_file(str(made))
    assert FUSED[kind] <= {node.op_type for node in onnx.load(made).graph.node if node.domain}
    return made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MODELS)
def test_a_model_optimised_as_its_kind_is_the_export_as_it_was(kind, tmp_path):
    model = models.filled(MODELS[kind]())
    a = models.by_torchscript(model, tmp_path / "a.onnx")
    b = optimised(a, kind)
    result = compare(a, b, TOKENS)
    assert result.parity, [cause.text for cause in result.root_causes]
    assert len(result.rows) > 25
    assert result.closed.complete
    padded = {"input_ids": np.array([TOKENS]), "attention_mask": np.array([[1] * 7 + [0] * 3])}
    assert compare(a, b, TOKENS, inputs=(padded, padded)).parity
    block = model.bert.encoder.layer[1].output if kind == "bert" else model.transformer.h[1]
    norm = block.LayerNorm if kind == "bert" else block.ln_2
    norm.eps = 0.05
    result = compare(a, optimised(models.by_torchscript(model, tmp_path / "wrong.onnx"), kind), TOKENS)
    assert [cause.text.split(": ")[1].split(" where")[0] for cause in result.root_causes] == ["0.05"]
    assert result.closed.complete


def test_stages_are_told_around_a_product_that_onnxruntime_fused(exports, tmp_path):
    """It scales and transposes in one node what the scores are made of."""
    path, options = tmp_path / "fused.onnx", ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "fused.data")
    ort.InferenceSession(str(exports / "eager.onnx"), options)
    fused = onnx.load(path, load_external_data=False)
    assert "FusedMatMul" in {node.op_type for node in fused.graph.node}
    result = compare(path, path, TOKENS)
    assert result.parity
    assert {"blk.0.q_rope", "blk.0.attn_scores", "blk.2.ffn_act"} <= {row.tap for row in result.rows}
