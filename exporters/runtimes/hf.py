"""HF transformers' forward pass over a checkpoint, dequantised to float32, as a trace."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...graphs.provenance import versions
from ...graphs.taps import Source, Tap
from ...graphs.trace import save_trace
from ..checkpoints import Checkpoint, DecoderConfig
from ..tapping import collected
from ..variants.hf import load, tapped


def write_trace(checkpoint: Checkpoint, tokens: Sequence[int], path: Path) -> None:
    """Run HF's own model eagerly, every stage tapped, and write the trace to `path`, whole or not at all.

    Raises:
        InputError: transformers is not installed, or has no such architecture; the file cannot be written.
    """
    model = tapped(load(AsTorch(checkpoint)))
    with torch.inference_mode(), collected() as taps:
        model(torch.tensor(tokens))
    node = Source("", "", None, None)
    pairs = [(Tap(tap.name, tap.axes, node), np.asarray(tap.value)) for tap in taps.values()]
    libraries = {name: version(name) for name in ("transformers", "torch")}
    facts = {
        "config": checkpoint.config.to_json(),
        "checkpoint": checkpoint.sha256,
        "versions": json.dumps({**versions(), **libraries}),
        "options": json.dumps({"attention": "eager", "n_threads": str(torch.get_num_threads())}),
    }
    save_trace(path, f"hf transformers {libraries['transformers']}", tokens, pairs, facts)


class AsTorch:
    """A checkpoint as the hf variant reads it; tensors are made when they are asked for, and F32 ones share the file."""

    config: DecoderConfig

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.config = checkpoint.config
        self._checkpoint = checkpoint

    def __contains__(self, name: str) -> bool:
        return name in self._checkpoint

    def __getitem__(self, name: str) -> Tensor:
        with warnings.catch_warnings():  # the file is mapped read-only, and nothing writes to a weight
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(self._checkpoint.tensor(name))
