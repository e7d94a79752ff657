"""Graphs whose sizes nobody tells, and operators for which onnxruntime has no kernel in double precision."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from opdiff.compare.diagnose import compare
from opdiff.graphs.run import Runner

RANDOM = np.random.default_rng(3)


def saved(path, nodes, held, shape, opset=15):
    graph = onnx.helper.make_graph(
        nodes,
        "open",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def test_a_size_that_is_left_open_is_one_with_which_the_graph_runs(tmp_path):
    kernel = RANDOM.standard_normal((4, 1, 40)).astype(np.float32)
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    files = [saved(tmp_path / f"{n}.onnx", [node], {"w": kernel}, ["batch", 1, -1]) for n in "ab"]
    result = compare(*files, ())
    assert result.parity
    (note,) = (note for note in result.notes if note.startswith("A's inputs that were not given"))
    assert "x [1, 1, 48]" in note


@pytest.mark.parametrize("is_wrong", [False, True])
def test_a_recurrent_step_runs_in_double_precision(is_wrong, tmp_path):
    w, r = (RANDOM.standard_normal((1, 32, n)).astype(np.float32) / 4 for n in (6, 8))
    x = RANDOM.standard_normal((5, 1, 6)).astype(np.float32)
    lstm = onnx.helper.make_node("LSTM", ["x", "w", "r"], ["all", "h", "c"], hidden_size=8)
    step = onnx.helper.make_node("Tanh" if is_wrong else "Sigmoid", ["all"], ["y"])
    end = onnx.helper.make_node("Sigmoid", ["all"], ["y"])
    files = [
        saved(tmp_path / f"{n}.onnx", [lstm, last], {"w": w, "r": r}, [5, 1, 6]) for n, last in enumerate((end, step))
    ]
    result = compare(*files, inputs=({"x": x}, {"x": x}))
    assert result.parity is not is_wrong
    assert any("in onnxruntime to" in note and "e-0" in note for note in result.notes)


def test_the_largest_of_a_row_is_the_operators_own(tmp_path):
    x = RANDOM.standard_normal((1, 4, 9)).astype(np.float32)
    node = onnx.helper.make_node("GlobalMaxPool", ["x"], ["y"])
    files = [saved(tmp_path / f"{n}.onnx", [node], {}, [1, 4, 9]) for n in "ab"]
    assert compare(*files, inputs=({"x": x}, {"x": x})).parity


@pytest.mark.parametrize("opset", [9, 13, 15])
def test_a_norm_takes_the_statistics_that_it_holds(opset):
    """Beside a convolution, of which onnxruntime has none in double."""
    weight = RANDOM.standard_normal((4, 3, 1, 1))
    gain, bias, mean, variance = held = RANDOM.uniform(0.5, 2, (4, 4))
    names = ("gain", "bias", "mean", "variance")
    make, double = onnx.helper.make_node, onnx.TensorProto.DOUBLE
    graph = onnx.helper.make_graph(
        [make("Conv", ["x", "w"], ["c"]), make("BatchNormalization", ["c", *names], ["y"], momentum=0.7)],
        "norm",
        [onnx.helper.make_tensor_value_info("x", double, [1, 3, 5, 5])],
        [onnx.helper.make_tensor_value_info("y", double, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in zip(("w", *names), (weight, *held), strict=True)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    x = RANDOM.standard_normal((1, 3, 5, 5))
    (found,) = Runner().session(model).run(["y"], [x])
    made = np.einsum("oi,bihw->bhwo", weight[..., 0, 0], x)
    wanted = gain * (made - mean) / np.sqrt(variance + 1e-5) + bias
    np.testing.assert_allclose(found, np.moveaxis(wanted, -1, 1), rtol=1e-6)


def test_a_norm_that_is_folded_into_its_kernel_is_no_fault(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    norm = net[1]
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(1e-4, 2.0)
        norm.weight.normal_()
        scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).numpy()
        held = {f"{name}.{kind}": p.numpy() for name in ("0", "3") for kind, p in net[int(name)].named_parameters()}
        held |= {name: getattr(norm, name).numpy() for name in ("weight", "bias", "running_mean", "running_var")}
    make = onnx.helper.make_node
    rest = [make("Relu", ["n"], ["r"]), make("Conv", ["r", "3.weight", "3.bias"], ["y"])]
    nodes = [
        make("Conv", ["x", "0.weight"], ["c"]),
        make("BatchNormalization", ["c", "weight", "bias", "running_mean", "running_var"], ["n"], epsilon=norm.eps),
    ]
    folded = {
        "w": held["0.weight"] * scale[:, None, None, None],
        "b": held["bias"] - held["running_mean"] * scale,
        "3.weight": held["3.weight"],
        "3.bias": held["3.bias"],
    }
    x = RANDOM.standard_normal((1, 3, 16, 16)).astype(np.float32)
    files = (
        saved(tmp_path / "a.onnx", [*nodes, *rest], held, [1, 3, 16, 16]),
        saved(tmp_path / "b.onnx", [make("Conv", ["x", "w", "b"], ["n"]), *rest], folded, [1, 3, 16, 16]),
    )
    result = compare(*files, inputs=({"x": x}, {"x": x}))
    assert result.parity, [cause.text for cause in result.root_causes]
