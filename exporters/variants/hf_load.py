"""HF's own model of a checkpoint: from an HF folder as transformers reads it, else built from tensors under GGUF's names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from ...graphs.errors import InputError
from ..checkpoints.other_folder import read_config
from .hf_named import load_named

Attention = Literal["eager", "sdpa"]
BY_INDEX = "batched_mm"  # the experts of a token picked by index: what torch can export


def load(checkpoint: Any, attention: Attention = "eager", experts: str = "eager") -> Any:
    """HF's causal LM of `checkpoint`, in float32, without taps.

    Its parameters are the checkpoint's tensors themselves where transformers holds them bit for bit.

    Args:
        checkpoint: `.hf` is the HF folder or None; `checkpoint[name]` a float32 tensor; `.config` where `.hf` is None a
            DecoderConfig.
        attention, experts: which of transformers' implementations runs.
    Raises:
        InputError: transformers is not installed, does not know the family, or cannot read the folder.
    """
    if checkpoint.hf is None:
        return load_named(checkpoint, attention)
    model = _from_folder(checkpoint.hf.folder, attention, experts)
    _share(model, checkpoint)
    return model.eval().requires_grad_(False)


def _from_folder(folder: Path, attention: str, experts: str) -> Any:
    """transformers' model of a folder: never with code of the folder's own, never from pickles."""
    read_config(folder)
    import transformers

    family: Any = transformers.AutoModelForCausalLM
    try:
        with quiet():
            model, info = family.from_pretrained(
                folder,
                dtype=torch.float32,
                attn_implementation=attention,
                experts_implementation=experts,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as e:  # whatever a family's own code raises
        text = " ".join(str(e).split())
        raise InputError(f"variant hf: {folder}: transformers cannot load it ({text:.240})") from e
    if info["missing_keys"]:
        named = ", ".join(sorted(info["missing_keys"])[:3])
        raise InputError(
            f"variant hf: {folder}: holds no tensor for {named}, which transformers would make up at random; "
            "give a whole checkpoint"
        )
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' remarks and bars."""
    from transformers.utils import logging

    level, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()


def _share(model: Any, checkpoint: Any) -> None:
    """Put the checkpoint's own tensors in the place of parameters that are equal to them."""
    for key, parameter in model.named_parameters():
        name = checkpoint.hf.names.get(key)
        if name is not None:
            tensor = checkpoint[name]
            if tensor.shape == parameter.shape and torch.equal(tensor, parameter):
                parameter.data = tensor
