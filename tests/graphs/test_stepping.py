"""Single nodes, run by themselves."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from opdiff.graphs.errors import InputError
from opdiff.graphs.run import Runner
from opdiff.graphs.stepping import FLOAT, Context, StepRunner, Typed, typed

LARGE = np.broadcast_to(np.arange(3, dtype=np.float32), (1 << 40, 3))  # no machine holds it in another type
LOOKUPS = {
    "Gather": ({}, np.array([2, 0])),
    "GatherND": ({}, np.array([[2], [0]])),
    "GatherND with its attribute at the default": ({"batch_dims": 0}, np.array([[2], [0]])),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_rows_of_a_table_are_read_as_it_is_stored(name):
    attributes, rows = LOOKUPS[name]
    node = onnx.helper.make_node(name.split()[0], ["table", "rows"], ["out"], **attributes)
    (made,) = StepRunner(Runner()).run(node, Context((("", 18),), ()), [Typed(LARGE, FLOAT), typed(rows)])
    np.testing.assert_array_equal(made.array, [[0, 1, 2], [0, 1, 2]])


X, WHOLE = np.random.default_rng(0).standard_normal((2, 1, 3, 4)), np.arange(24).reshape(2, 1, 3, 4)
HELD = {  # without a session: operator: attributes, inputs, opset
    "Add": ({}, [X, X[:, :, :1]], 18),
    "Sub": ({}, [X, np.array(0.1)], 18),
    "Mul": ({}, [X[0], X], 18),
    "Div by nothing": ({}, [X, np.array([0.0, 1, 2, 3])], 18),
    "Div of whole numbers": ({}, [-WHOLE, np.array(5)], 18),
    "Neg": ({}, [X], 18),
    "Sqrt of what has none": ({}, [X], 18),
    "Reshape": ({}, [X, np.array([0, -1])], 18),
    "Reshape of whole numbers": ({}, [WHOLE, np.array([4, 6])], 18),
    "Reshape of nothing": ({"allowzero": 1}, [X[:0], np.array([0, 7])], 18),
    "Transpose": ({}, [X], 18),
    "Transpose as told": ({"perm": [2, 0, 3, 1]}, [X], 18),
    "Squeeze": ({}, [X], 18),
    "Squeeze as told": ({}, [X, np.array([-3])], 18),
    "Squeeze of old": ({"axes": [1]}, [X], 11),
    "Unsqueeze": ({}, [X, np.array([-1, 0])], 18),
    "Unsqueeze of old": ({"axes": [0, 2]}, [X], 11),
    "Gather": ({"axis": -2}, [X, np.array([[2, -1], [0, 1]])], 18),
    "Gather of one": ({}, [np.array([5, 6, 7]), np.array(-1)], 18),
}


@pytest.mark.parametrize("name", HELD)
def test_a_step_without_a_session_gives_what_onnxruntime_gives(name):
    attributes, inputs, opset = HELD[name]
    node = onnx.helper.make_node(name.split()[0], [f"x{n}" for n in range(len(inputs))], ["out"], **attributes)
    infos = [
        onnx.helper.make_tensor_value_info(f"x{n}", onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for n, array in enumerate(inputs)
    ]
    graph = onnx.helper.make_graph([node], "one", infos, [onnx.ValueInfoProto(name="out")])
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", opset)])
    (wanted,) = ort.InferenceSession(model.SerializeToString()).run(None, {f"x{n}": a for n, a in enumerate(inputs)})
    (made,) = StepRunner(Runner()).run(node, Context((("", opset),), ()), [typed(array) for array in inputs])
    np.testing.assert_array_equal(made.array, wanted, strict=True)


@pytest.mark.parametrize(("operator", "argument"), [("Reshape", [5, 5]), ("Squeeze", [2]), ("Unsqueeze", [0, 0])])
def test_a_move_that_cannot_be_is_an_error_of_the_input(operator, argument):
    node = onnx.helper.make_node(operator, ["x", "how"], ["out"])
    with pytest.raises(InputError, match=operator):
        StepRunner(Runner()).run(node, Context((("", 18),), ()), [typed(X), typed(np.array(argument))])
