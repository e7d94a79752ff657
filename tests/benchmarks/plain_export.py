"""The baseline of `opdiff export`: one torch.onnx.export of the reference's whole module, and its save."""

import sys
from pathlib import Path

import torch

from opdiff.exporters.bound import BoundCheckpoint
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import shared_weights
from opdiff.exporters.variants.reference import reference

weights = shared_weights(open_checkpoint(sys.argv[1]), Path(sys.argv[2]) / "weights.safetensors", False)
module = reference(BoundCheckpoint(open_checkpoint(sys.argv[1]).config, weights)).eval()
shapes = ({0: torch.export.Dim("token", min=1)},)
program = torch.onnx.export(module, (torch.arange(5),), dynamo=True, dynamic_shapes=shapes, input_names=["tokens"])
assert program is not None
program.save(Path(sys.argv[2]) / "plain.onnx", external_data=True)
