"""What onnx-diagnostic's sbs reads: a variant as torch.export makes it, and its input, each as torch saves it.

Arguments: the model, the variant, the tokens, the folder to write to.
"""

import sys
from pathlib import Path

import torch

from opdiff.exporters.bound import BoundCheckpoint
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import shared_weights
from opdiff.exporters.variants.registry import parse_variant

model, variant, tokens, folder = open_checkpoint(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])
weights = shared_weights(model, folder / "weights.safetensors", False)
module = parse_variant(variant).build(BoundCheckpoint(model.config, weights)).eval()
shapes = ({0: torch.export.Dim("token", min=1)},)
torch.export.save(torch.export.export(module, (torch.arange(5),), dynamic_shapes=shapes), folder / f"{variant}.pt2")
torch.save((torch.tensor([int(token) for token in tokens.split(",")]),), folder / "input.pt")
