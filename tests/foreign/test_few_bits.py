"""Operators on numbers of a few bits as steps on floats, each against onnxruntime's kernel, and graphs in which they stand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from corpus.models import TOKENS
from foreign import models
from foreign.conftest import faulty
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization import matmul_nbits_quantizer as n_bits
from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

from opdiff.compare.diagnose import compare
from opdiff.graphs.adopt.flat import flatten
from opdiff.graphs.adopt.opened import open_foreign
from opdiff.graphs.run import Runner

RANDOM = np.random.default_rng(5)
WIDTH, N_OUT = 64, 24
ROWS = np.array([[3, 0, 7]])


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def whole(*shape: int, kind: type = np.uint8) -> np.ndarray:
    """Whole numbers; those of int8 in 7 bits, for a processor without VNNI adds two products in 16 bits, and cuts what is more."""
    least, most = (-64, 63) if kind is np.int8 else (np.iinfo(kind).min, np.iinfo(kind).max)
    return RANDOM.integers(least, most, shape, kind, endpoint=True)


def scaled(*shape: int, kind: type = np.uint8, scale: float = 0.02) -> list[np.ndarray]:
    """Whole numbers, their scale, and what stands for 0."""
    zero = 3 if np.iinfo(kind).min else 120
    return [whole(*shape, kind=kind), np.array(scale, np.float32), np.array(zero, kind)]


def by_channel(*shape: int, axis: int = 1) -> list[np.ndarray]:
    n = shape[axis]
    return [whole(*shape, kind=np.int8), np.abs(normal(n)) / 50 + 1e-3, np.zeros(n, np.int8)]


X, A, B, TO = normal(1, 5, WIDTH), scaled(2, 5, 16), scaled(2, 5, 16, scale=0.031), scaled(scale=0.0213)[1:]
STEPS = np.abs(normal(N_OUT, 4)) / 8
IMAGE, KERNEL = scaled(1, 3, 8, 8), scaled(4, 3, 3, 3, kind=np.int8)
BIAS = whole(4, kind=np.int16).astype(np.int32)

# operator: inputs (None is left out), attributes, domain; all inputs but the first are constants.
MICROSOFT, ONNX = "com.microsoft", ""
CASES = {
    "MatMulNBits of 2": ([X, whole(N_OUT, 4, 4), STEPS], dict(K=WIDTH, N=N_OUT, bits=2, block_size=16), MICROSOFT),
    "MatMulNBits of 2 with zero points": (
        [X, whole(N_OUT, 4, 4), STEPS, whole(N_OUT, 1)],
        dict(K=WIDTH, N=N_OUT, bits=2, block_size=16),
        MICROSOFT,
    ),
    "MatMulNBits of 8": ([X, whole(N_OUT, 4, 16), STEPS], dict(K=WIDTH, N=N_OUT, bits=8, block_size=16), MICROSOFT),
    "MatMulBnb4 of FP4": (
        [X, whole(N_OUT * WIDTH // 2), np.abs(normal(N_OUT))],
        dict(K=WIDTH, N=N_OUT, block_size=64, quant_type=0),
        MICROSOFT,
    ),
    "MatMulBnb4 of NF4": (
        [X, whole(N_OUT * WIDTH // 2), np.abs(normal(N_OUT))],
        dict(K=WIDTH, N=N_OUT, block_size=64, quant_type=1),
        MICROSOFT,
    ),
    "GatherBlockQuantized": (
        [ROWS, whole(8, 32), np.abs(normal(8, 4))],
        dict(block_size=16, quantize_axis=1, gather_axis=0, bits=4),
        MICROSOFT,
    ),
    "GatherBlockQuantized with zero points": (
        [ROWS, whole(8, 24), np.abs(normal(8, 3)), whole(8, 2)],
        dict(block_size=16, quantize_axis=1, gather_axis=0, bits=4),
        MICROSOFT,
    ),
    "GatherBlockQuantized of 8": (
        [ROWS, whole(8, 64), np.abs(normal(8, 4)), whole(8, 4)],
        dict(block_size=16, quantize_axis=1, gather_axis=0, bits=8),
        MICROSOFT,
    ),
    "QuantizeLinear": ([X, *TO], {}, MICROSOFT),
    "QuantizeLinear by channel": ([X, *by_channel(1, WIDTH)[1:]], dict(axis=2), MICROSOFT),
    "QuantizeLinear to 16": ([X, *scaled(kind=np.int16, scale=3e-4)[1:]], {}, MICROSOFT),
    "DequantizeLinear": (A, {}, MICROSOFT),
    "DequantizeLinear of 16": (scaled(2, 5, 16, kind=np.uint16), {}, MICROSOFT),
    "QLinearAdd": ([*A, *B, *TO], {}, MICROSOFT),
    "QLinearAdd of a bias": ([*A, *scaled(16), *TO], {}, MICROSOFT),
    "QLinearMul": ([*A, *B, *TO], {}, MICROSOFT),
    "QLinearSigmoid": ([*A, *TO], {}, MICROSOFT),
    "QLinearLeakyRelu": ([*A, *TO], dict(alpha=0.3), MICROSOFT),
    "QLinearSoftmax": ([*A, np.array(1 / 256, np.float32), np.array(0, np.uint8)], dict(axis=-1, opset=17), MICROSOFT),
    "QLinearConcat": ([*TO, *A, *B], dict(axis=1), MICROSOFT),
    "QLinearGlobalAveragePool": ([*IMAGE, *TO], dict(channels_last=0), MICROSOFT),
    "QLinearAveragePool": ([*IMAGE, *TO], dict(kernel_shape=[2, 2], strides=[2, 2]), MICROSOFT),
    "QLinearMatMul": ([*A, *scaled(16, 6, kind=np.int8), *scaled(scale=0.5)[1:]], {}, ONNX),
    "QLinearMatMul by channel": ([*A, *by_channel(16, 6), *scaled(scale=0.5)[1:]], {}, ONNX),
    "QGemm": (
        [*scaled(5, 16), *scaled(4, 16, kind=np.int8), BIAS, *scaled(scale=0.5)[1:]],
        dict(transB=1),
        MICROSOFT,
    ),
    "QLinearConv": ([*IMAGE, *KERNEL, *scaled(scale=0.3)[1:], BIAS], dict(pads=[1, 1, 1, 1]), ONNX),
    "QLinearConv by channel": (
        [*IMAGE, *by_channel(4, 3, 3, 3, axis=0), *scaled(scale=0.3)[1:], BIAS],
        dict(strides=[2, 2]),
        ONNX,
    ),
}


def written(operator: str, inputs: list, attributes: dict, domain: str, path: Path) -> str:
    """A graph of this one node, in a file; which of its inputs is no constant."""
    names = ["" if value is None else f"x{n}" for n, value in enumerate(inputs)]
    if operator == "GatherBlockQuantized":
        names[:2] = names[1::-1]
    fed = "x2" if operator == "QLinearConcat" else "x0"
    node = helper.make_node(operator, names, ["y"], name="one", domain=domain, **attributes)
    arrays = dict(zip((f"x{n}" for n in range(len(inputs))), inputs, strict=True))
    kind = helper.np_dtype_to_tensor_dtype(arrays[fed].dtype)
    result = TensorProto.FLOAT
    if operator == "QuantizeLinear" or operator.startswith("Q"):
        result = helper.np_dtype_to_tensor_dtype(inputs[1 if operator == "QLinearConcat" else zero_of(operator)].dtype)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(fed, kind, arrays[fed].shape)],
        [helper.make_tensor_value_info("y", result, None)],
        [onnx.numpy_helper.from_array(v, name) for name, v in arrays.items() if name != fed],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return fed


def zero_of(operator: str) -> int:
    """Which input stands for 0 in what an operator gives."""
    return {"QGemm": 8, "QuantizeLinear": 2, "QLinearSigmoid": 4, "QLinearLeakyRelu": 4, "QLinearSoftmax": 4}.get(
        operator, 4 if "Pool" in operator else 7
    )


@pytest.mark.parametrize("name", CASES)
def test_steps_give_what_the_kernel_gives(name, tmp_path):
    inputs, attributes, domain = CASES[name]
    fed = written(name.split()[0], inputs, attributes, domain, tmp_path / "one.onnx")
    x = inputs[int(fed[1:])]
    flat = flatten(open_foreign(tmp_path / "one.onnx"), {fed: x}, {}, Runner())
    (wanted,) = ort.InferenceSession(str(tmp_path / "one.onnx")).run(None, {fed: x})
    found = flat.array(flat.outputs["y"])
    assert all(not node.domain and not node.operator.startswith("QLinear") for node in flat.nodes)
    if wanted.dtype.kind == "f":
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4)
    else:  # the kernel multiplies in float32, and may round to the next number
        assert found.dtype == wanted.dtype
        apart = np.abs(found.astype(int) - wanted.astype(int))
        assert apart.max() <= 1
        assert (apart > 0).mean() < 0.02


def with_rows_in_blocks(path: Path, made: Path) -> None:
    axes = (("MatMul", 0), ("Gather", 1))
    quantizer = n_bits.MatMulNBitsQuantizer(
        onnx.load(path), block_size=16, is_symmetric=True, op_types_to_quantize=("MatMul", "Gather"), quant_axes=axes
    )
    quantizer.process()
    onnx.save(quantizer.model.model, made)


def in_normal_floats(path: Path, made: Path) -> None:
    quantizer = MatMulBnb4Quantizer(onnx.load(path), MatMulBnb4Quantizer.NF4, 64)
    quantizer.process()
    onnx.save(quantizer.model.model, made)


def in_bits(bits: int, is_symmetric: bool) -> Callable[[Path, Path], None]:
    def make(path: Path, made: Path) -> None:
        config = n_bits.DefaultWeightOnlyQuantConfig(block_size=16, is_symmetric=is_symmetric, bits=bits)
        quantizer = n_bits.MatMulNBitsQuantizer(onnx.load(path), algo_config=config)
        quantizer.process()
        onnx.save(quantizer.model.model, made)

    return make


@pytest.mark.parametrize(
    ("make", "operator", "n_stored"),
    [
        (with_rows_in_blocks, "GatherBlockQuantized", 23),
        (in_normal_floats, "MatMulBnb4", 22),
        (in_bits(2, False), "MatMulNBits", 22),
        (in_bits(8, True), "MatMulNBits", 22),
    ],
    ids=["rows in blocks", "normal floats", "two bits", "eight bits"],
)
def test_weights_of_a_few_bits_are_the_weights(make, operator, n_stored, exports, tmp_path):
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.ERROR)
    made = tmp_path / "made.onnx"
    make(exports / "eager.onnx", made)
    assert operator in {node.op_type for node in onnx.load(made).graph.node}
    result = compare(exports / "eager.onnx", made, TOKENS)
    assert result.parity, [cause.text for cause in result.root_causes]
    assert any(f"storage: {n_stored} of B's constants" in note for note in result.notes)


class Given(CalibrationDataReader):
    """One input, once."""

    def __init__(self, x: np.ndarray, name: str = "x") -> None:
        self._left = [{name: x}]

    def get_next(self) -> dict | None:
        return self._left.pop() if self._left else None


STATIC = {
    "beside operators": dict(quant_format=QuantFormat.QDQ),
    "in operators": dict(quant_format=QuantFormat.QOperator),
    "to 16 bits": dict(quant_format=QuantFormat.QDQ, activation_type=QuantType.QInt16, per_channel=True),
}


@pytest.mark.parametrize("how", STATIC)
def test_activations_that_are_rounded_with_fixed_scales_are_one_cause(how, tmp_path):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(24, 80), torch.nn.Sigmoid(), torch.nn.Linear(80, 64)]
    x = torch.randn(3, 24)
    a = models.written(models.filled(torch.nn.Sequential(*layers)), x, tmp_path / "a.onnx", 18, "x")
    b = tmp_path / "b.onnx"
    more = {"UseQDQContribOps": True} if how == "to 16 bits" else {}
    quantize_static(str(a), str(b), Given(x.numpy()), extra_options={"DefaultTensorType": 1, **more}, **STATIC[how])
    given = {"x": x.numpy()}
    result = compare(a, b, inputs=(given, given))
    (cause,) = result.root_causes
    assert f"rounded to {16 if '16' in how else 8} bits in fixed steps of " in cause.text
    assert any("in fewer bits (" in note for note in result.notes)
    assert result.closed.complete


def in_fixed_steps(path: Path, made: Path, **how: object) -> Path:
    """A decoder whose every operator is quantised, with scales for these tokens."""
    given = Given(np.array([TOKENS], np.int64), "input_ids")
    quantize_static(str(path), str(made), given, extra_options={"DefaultTensorType": 1}, **how)
    return made


def test_a_decoder_rounded_everywhere_differs_by_one_cause_and_its_faults_beside_it(exports, tmp_path):
    b = in_fixed_steps(exports / "eager.onnx", tmp_path / "b.onnx", quant_format=QuantFormat.QDQ)
    (cause,) = compare(exports / "eager.onnx", b, TOKENS).root_causes
    assert "rounded to 8 bits in fixed steps of " in cause.text
    assert len(cause.taps) > 36
    models.qwen3(tmp_path / "faulty.onnx", faulty)
    wrong = in_fixed_steps(tmp_path / "faulty.onnx", tmp_path / "wrong.onnx", quant_format=QuantFormat.QDQ)
    result = compare(exports / "eager.onnx", wrong, TOKENS)
    rounded, eps, act = result.root_causes
    assert "rounded to 8 bits in fixed steps of " in rounded.text
    assert (eps.taps, act.taps) == (("blk.1.attn_norm",), ("blk.2.ffn_act",))
    assert eps.edit[0].startswith("0.0001 where A has 1e-06")
    assert "erf(ffn_gate" in act.edit[0]
    assert result.closed.complete


def test_a_scale_that_cuts_values_off_is_a_cause_of_its_own(tmp_path):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(24, 80), torch.nn.Sigmoid(), torch.nn.Linear(80, 64)]
    x = torch.randn(3, 24)
    a = models.written(models.filled(torch.nn.Sequential(*layers)), x, tmp_path / "a.onnx", 18, "x")
    b = tmp_path / "b.onnx"
    calibrated = Given(0.2 * x.numpy())
    quantize_static(str(a), str(b), calibrated, quant_format=QuantFormat.QDQ, extra_options={"DefaultTensorType": 1})
    given = {"x": x.numpy()}
    result = compare(a, b, inputs=(given, given))
    assert any("which cuts some of their values off" in cause.text for cause in result.root_causes)
    assert result.closed.complete
