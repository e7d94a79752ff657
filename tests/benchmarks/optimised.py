"""A graph as onnxruntime's optimiser saves it, with its own fused operators. Arguments: the graph, the file to write."""

import sys
from pathlib import Path

import onnxruntime as ort

options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
options.optimized_model_filepath = sys.argv[2]
data = f"{Path(sys.argv[2]).name}.data"
options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data)
ort.InferenceSession(sys.argv[1], options)
