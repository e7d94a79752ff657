"""The baseline of `opdiff export`: one torch.onnx.export of the reference's whole module, and its save.

Arguments: the model, the folder; a variant and the file's name in that folder, where it is another than reference and plain.onnx.
"""

import sys
from pathlib import Path

import torch

from opdiff.exporters.bound import BoundCheckpoint
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import shared_weights
from opdiff.exporters.variants.registry import parse_variant

variant, name = sys.argv[3:5] if len(sys.argv) > 3 else ("reference", "plain.onnx")
weights = shared_weights(open_checkpoint(sys.argv[1]), Path(sys.argv[2]) / "weights.safetensors", False)
module = parse_variant(variant).build(BoundCheckpoint(open_checkpoint(sys.argv[1]).config, weights)).eval()
shapes = ({0: torch.export.Dim("token", min=1)},)
program = torch.onnx.export(module, (torch.arange(5),), dynamo=True, dynamic_shapes=shapes, input_names=["tokens"])
assert program is not None
program.save(Path(sys.argv[2]) / name, external_data=True)
