"""HF transformers' forward pass over a checkpoint, dequantised to float32, as a trace."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...graphs.errors import InputError
from ...graphs.inputs import fed
from ...graphs.positions import POSITIONS, positions_text
from ...graphs.provenance import versions
from ...graphs.schedule.placing import Own, by_position
from ...graphs.schedule.steps import WHOLE, Schedule, Step
from ...graphs.taps import Source, Tap
from ...graphs.trace import FIRST_POSITION, save_trace
from ..checkpoints import Checkpoint
from ..tapping import collected
from ..tokenizers.beside import tokenizer_facts
from ..variants.hf import TappedModel, tapped
from ..variants.hf_load import load

CACHES = DYNAMIC, STATIC = "dynamic", "static"


def write_trace(
    checkpoint: Checkpoint,
    tokens: Sequence[int],
    path: Path,
    schedule: Schedule = WHOLE,
    cache: str = DYNAMIC,
    first_position: int = 0,
) -> None:
    """Run HF's own model eagerly, every stage tapped, and write the trace to `path`, whole or not at all.

    Args:
        schedule: in which steps the model is fed.
        cache: transformers' `dynamic` or `static` cache, where that is not all at once.
        first_position: that of the first token.
    Raises:
        InputError: transformers is not installed, or has no such architecture; the file cannot be written; the steps do not
            add up to the tokens.
    """
    model = tapped(load(AsTorch(checkpoint)))
    if first_position and not model.takes_positions:
        raise InputError(
            f"{checkpoint.path}: {type(model.model).__name__} takes no position_ids, and runs from position 0 on; leave "
            "--position-offset out"
        )
    node = Source("", "", None, None)
    try:
        if schedule.is_whole:
            positions = torch.arange(first_position, first_position + len(tokens)) if first_position else None
            with torch.inference_mode(), collected() as taps:
                model(torch.tensor(tokens), positions=positions)
            pairs = [(Tap(tap.name, tap.axes, node), np.asarray(tap.value)) for tap in taps.values()]
        else:
            steps = schedule.steps(len(tokens))
            values = _in_steps(model, tokens, steps, cache, first_position)
            pairs = [(Tap(name, axes, node), value) for name, (axes, value) in by_position(values, steps).items()]
    except IndexError as e:  # of a table of positions
        asked = positions_text(first_position, len(tokens))
        raise InputError(f"{checkpoint.path}: HF cannot run it at {asked} ({e}); give another --position-offset") from e
    libraries = {name: version(name) for name in ("transformers", "torch")}
    facts = {
        "config": checkpoint.config.to_json(),
        "checkpoint": checkpoint.sha256,
        "versions": json.dumps({**versions(), **libraries}),
        "options": json.dumps({"attention": "eager", "n_threads": str(torch.get_num_threads())}),
        "schedule": schedule.text,
        FIRST_POSITION: str(first_position),
        **tokenizer_facts(checkpoint, path.parent),
    }
    save_trace(path, f"hf transformers {libraries['transformers']}", tokens, pairs, facts)


def _in_steps(
    model: TappedModel, tokens: Sequence[int], steps: Sequence[Step], cache: str, first_position: int
) -> list[dict[str, Own]]:
    """The value of each tap in each step, with its axes, in HF's own layout."""
    import transformers

    config: Any = model.model.config
    kept: Any
    if cache == STATIC:
        kept = transformers.StaticCache(config=config, max_cache_len=steps[-1].n_keys)
    else:
        kept = transformers.DynamicCache(config=config)
    kept = model.marking_cache(kept)
    values = []
    for step in steps:
        given = fed(tokens, step, first_position)
        ids, mask, positions = (torch.from_numpy(given[name]) for name in ("tokens", "attention_mask", POSITIONS))
        with torch.inference_mode(), collected() as taps:
            model(ids, mask, kept, positions)
        values.append(
            {tap.name: (tap.axes, np.array(tap.value)) for tap in taps.values()}
        )  # a static cache is written on
    return values


class AsTorch:
    """A checkpoint as the hf variant reads it; tensors are made when they are asked for, and F32 ones share the file."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.hf = checkpoint.hf
        self.config = checkpoint.config if self.hf is None else None
        self._checkpoint = checkpoint

    def __contains__(self, name: str) -> bool:
        return name in self._checkpoint

    def __getitem__(self, name: str) -> Tensor:
        with warnings.catch_warnings():  # the file is mapped read-only, and nothing writes to a weight
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(self._checkpoint.tensor(name))
