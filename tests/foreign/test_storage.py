"""Weights in fewer bits: whose they are, whether several stand in one, and where they are other weights after all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from opdiff.compare.diagnose import compare

RANDOM = np.random.default_rng(11)
WIDTH, WIDTHS = 16, (12, 8, 8)
WEIGHTS = [RANDOM.standard_normal((WIDTH, n)).astype(np.float32) for n in WIDTHS]
LAST = RANDOM.standard_normal((12, 10)).astype(np.float32)
X = RANDOM.standard_normal((1, 6, WIDTH)).astype(np.float32)


def saved(path: Path, nodes: list, held: dict[str, np.ndarray]) -> Path:
    """A graph of x [1, 6, 16] that ends in y."""
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["q", "last"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in {**held, "last": LAST}.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def rest() -> list:
    """q [1, 6, 12] of three projections."""
    return [
        helper.make_node("Mul", ["k", "v"], ["kv"]),
        helper.make_node("Concat", ["kv", "zeros"], ["wide"], axis=-1),
        helper.make_node("Add", ["a", "wide"], ["q"]),
    ]


ZEROS = {"zeros": np.zeros((1, 6, 4), np.float32)}


def apart(path: Path) -> Path:
    nodes = [helper.make_node("MatMul", ["x", f"w{n}"], [name]) for n, name in enumerate("akv")]
    return saved(path, [*nodes, *rest()], {**ZEROS, **{f"w{n}": weight for n, weight in enumerate(WEIGHTS)}})


def merged(path: Path, wrong: float = 0.0) -> Path:
    """The three projections as one product in eight bits, its parts cut from it."""
    weight = np.concatenate(WEIGHTS, 1)
    scale = (np.abs(weight).max(0) / 127).astype(np.float32)
    stored = np.round(weight / scale).astype(np.int8)
    stored[3, 5] += np.int8(wrong)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["wide_w"], axis=1),
        helper.make_node("MatMul", ["x", "wide_w"], ["all"]),
        helper.make_node("Split", ["all", "sizes"], ["a", "k", "v"], axis=-1),
    ]
    return saved(path, [*nodes, *rest()], {**ZEROS, "w": stored, "scale": scale, "sizes": np.array(WIDTHS, np.int64)})


def test_several_weights_in_one_and_in_fewer_bits_are_those(tmp_path):
    given = ({"x": X}, {"x": X})
    result = compare(apart(tmp_path / "a.onnx"), merged(tmp_path / "b.onnx"), inputs=given)
    assert result.parity, [cause.text for cause in result.root_causes]
    (note,) = (note for note in result.notes if note.startswith("storage: "))
    assert "1 of B's constants are A's in fewer bits (wide_w)" in note


def test_one_weight_is_several_of_fewer_bits(tmp_path):
    given = ({"x": X}, {"x": X})
    whole = {**ZEROS, "w": np.concatenate(WEIGHTS, 1), "sizes": np.array(WIDTHS, np.int64)}
    split = helper.make_node("Split", ["all", "sizes"], ["a", "k", "v"], axis=-1)
    one = saved(tmp_path / "a.onnx", [helper.make_node("MatMul", ["x", "w"], ["all"]), split, *rest()], whole)
    nodes, held = [], dict(ZEROS)
    for n, (name, weight) in enumerate(zip("akv", WEIGHTS, strict=True)):
        scale = (np.abs(weight).max(0) / 127).astype(np.float32)
        held |= {f"w{n}": np.round(weight / scale).astype(np.int8), f"scale{n}": scale}
        nodes.append(helper.make_node("DequantizeLinear", [f"w{n}", f"scale{n}"], [f"wide{n}"], axis=1))
        nodes.append(helper.make_node("MatMul", ["x", f"wide{n}"], [name]))
    result = compare(one, saved(tmp_path / "b.onnx", [*nodes, *rest()], held), inputs=given)
    assert result.parity, [cause.text for cause in result.root_causes]
    assert any("3 of B's constants are A's in fewer bits" in note for note in result.notes)


@pytest.mark.parametrize("levels", [20, -20])
def test_what_is_farther_off_than_its_storage_is_another_weight(levels, tmp_path):
    given = ({"x": X}, {"x": X})
    result = compare(apart(tmp_path / "a.onnx"), merged(tmp_path / "b.onnx", levels), inputs=given)
    assert not result.parity
    assert not any(note.startswith("storage: ") for note in result.notes)


def with_tables(path: Path, tables: list[np.ndarray]) -> Path:
    """Two tables [1, 6, 12] that are added to a product, one after the other."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "table0"], ["b"]),
        helper.make_node("Tanh", ["b"], ["c"]),
        helper.make_node("Add", ["c", "table1"], ["q"]),
    ]
    return saved(path, nodes, {"w": WEIGHTS[0], **{f"table{n}": table for n, table in enumerate(tables)}})


@pytest.mark.parametrize(("off", "at", "is_one"), [(2.0**-23, ..., True), (1e-3, (0, 5, 11), False)])
def test_a_table_by_another_hand_is_one_in_all_but_its_last_digits(off, at, is_one, tmp_path):
    tables = [RANDOM.standard_normal((1, 6, 12)).astype(np.float32) for _ in range(2)]
    other = tables[1].copy()
    other[at] *= np.float32(1 + off)
    a, b = with_tables(tmp_path / "a.onnx", tables), with_tables(tmp_path / "b.onnx", [tables[0], other])
    result = compare(a, b, inputs=({"x": X}, {"x": X}))
    assert result.parity is is_one
    told = "1 of B's constants are A's in all but float32's last digits (table1), and were compared as the same"
    assert (told in result.notes) is is_one
