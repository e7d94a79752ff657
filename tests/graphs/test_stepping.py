"""Single nodes, run by themselves."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

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
