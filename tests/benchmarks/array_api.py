"""What onnx-array-api says of two graphs, for `make bench-peers`: its own alignment of their values by edit distance.

Its command makes random inputs, which are no tokens; so it is called. Arguments: A, B, the tokens.
"""

import sys

import numpy
import onnx
from onnx_array_api.reference import compare_onnx_execution

feeds = [numpy.array([int(token) for token in sys.argv[3].split(",")])]
first, second, pairs, distance = compare_onnx_execution(onnx.load(sys.argv[1]), onnx.load(sys.argv[2]), feeds)
print(distance.to_str(first, second, pairs))
