"""The constants inside a program: what an exporter wrote into the graph, beside the weights that it reads."""

from __future__ import annotations

import hashlib

import ml_dtypes
import numpy as np
import onnx

from .regions import Program, Region

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
LARGEST = 1 << 20  # elements; whatever is larger is a weight, not a constant
Exact = frozenset[bytes]  # the fingerprints of constants that are what they should be


def fingerprint(values: np.ndarray) -> bytes:
    """The same for two arrays that hold the same float32 numbers, in whatever order: a weight and its transpose."""
    return hashlib.sha256(np.sort(np.asarray(values, np.float32), axis=None).tobytes()).digest()


def constant_arrays(program: Program) -> dict[str, np.ndarray]:
    """The program's inline constants, by name in the program."""
    found = {i.name: onnx.numpy_helper.to_array(i) for i in program.model.graph.initializer}
    for node in program.model.graph.node:
        if node.op_type == "Constant" and node.attribute:
            value = onnx.helper.get_attribute_value(node.attribute[0])
            if isinstance(value, onnx.TensorProto):
                found[node.output[0]] = onnx.numpy_helper.to_array(value)
            elif node.attribute[0].name in ("value_float", "value_floats"):
                found[node.output[0]] = np.array(value, np.float32)
    return found


def is_constant(array: np.ndarray) -> bool:
    """Whether an array may be a computed constant: floats, and not too many."""
    return (array.dtype.kind == "f" or array.dtype == BFLOAT16) and array.size <= LARGEST


def constant_fingerprints(region: Region) -> frozenset[bytes]:
    """The fingerprints of the region's constants."""
    return frozenset(fingerprint(array) for array in constant_arrays(region.program).values() if is_constant(array))
