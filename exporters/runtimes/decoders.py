"""Real runtimes as decoders: a model loaded once, and its logits for whatever tokens are asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version

import numpy as np
import torch

from ...graphs.decoding import Decoder
from ...graphs.errors import InputError
from ..checkpoints import Checkpoint
from ..variants.hf import load
from .hf import AsTorch
from .llama_cpp_decoder import llama_cpp_decoder


class HfDecoder:
    """HF transformers' own model, eager, on weights dequantised to float32, without a KV cache.

    Raises:
        InputError: transformers is not installed, or has no such architecture.
    """

    name = "hf"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._model = load(AsTorch(checkpoint))
        self.runtime = f"hf transformers {version('transformers')}"

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """The logits that follow the tokens, float32 [vocabulary]."""
        with torch.inference_mode():
            out = self._model(input_ids=torch.tensor([list(tokens)]), use_cache=False, logits_to_keep=1)
        return np.asarray(out.logits[0, -1].numpy())


@contextmanager
def open_decoder(runtime: str, checkpoint: Checkpoint, n_tokens: int) -> Iterator[Decoder]:
    """A real runtime with the checkpoint loaded, until the block ends.

    Args:
        runtime: `hf` or `llama.cpp`.
        n_tokens: the most in one question; less than the model's context.
    Raises:
        InputError: an unknown runtime, one that is not installed, or one that cannot load the checkpoint.
    """
    if runtime == "hf":
        yield HfDecoder(checkpoint)
    elif runtime == "llama.cpp":
        with llama_cpp_decoder(checkpoint, n_tokens) as decoder:
            yield decoder
    else:
        raise InputError(f"runtime {runtime}: unknown; there are hf and llama.cpp")
