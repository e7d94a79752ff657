"""What needs torch or a foreign runtime: checkpoints, variants, and their way to ONNX."""
