"""The baseline of `opdiff compare`: two graphs loaded and run once in onnxruntime, default options, only the logits."""

import sys

import numpy as np
import onnxruntime as ort

for path in sys.argv[2:]:
    session = ort.InferenceSession(path)
    session.run(["logits"], {"tokens": np.array([int(token) for token in sys.argv[1].split(",")])})
