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
from ...graphs.schedule.placing import Own, by_position, missing_of
from ...graphs.schedule.steps import WHOLE, Schedule, Step
from ...graphs.stages import CACHES as CACHE_STAGES
from ...graphs.stages import split_tap_name
from ...graphs.taps import Source, Tap
from ...graphs.trace import FIRST_POSITION, save_trace
from ..checkpoints import Checkpoint
from ..tapping import Tapped, collected
from ..tokenizers.beside import tokenizer_facts
from ..variants.hf import TappedModel, cache_of_all, tapped
from ..variants.hf_load import load

CACHES = DYNAMIC, STATIC, SLIDING = "dynamic", "static", "sliding"


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
        cache: of a run in steps: `dynamic`, which keeps the keys and values of all tokens; or, as transformers' own generation
            has them, `static`, of a fixed size, and `sliding`, which grows. These two forget in layers that have a window.
        first_position: that of the first token.
    Raises:
        InputError: transformers is not installed, or has no such architecture; the file cannot be written; the steps do not
            add up to the tokens; a sliding cache is asked for, and no layer has a window.
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
    kept = "none" if schedule.is_whole else cache
    options = {"attention": "eager", "kv_cache": kept, "n_threads": str(torch.get_num_threads())}
    facts = {
        "config": checkpoint.config.to_json(),
        "checkpoint": checkpoint.sha256,
        "versions": json.dumps({**versions(), **libraries}),
        "options": json.dumps(options),
        "schedule": schedule.text,
        FIRST_POSITION: str(first_position),
        **tokenizer_facts(checkpoint, path.parent),
    }
    save_trace(path, f"hf transformers {libraries['transformers']}", tokens, pairs, facts)


def _in_steps(
    model: TappedModel, tokens: Sequence[int], steps: Sequence[Step], cache: str, first_position: int
) -> list[dict[str, Own]]:
    """The value of each tap in each step, with its axes, in HF's own layout.

    A cache that forgot keys is no stage, for its rows are not those of all positions.
    """
    kept = model.marking_cache(_cache(model.model.config, cache, steps[-1].n_keys))
    values = []
    for step in steps:
        given = fed(tokens, step, first_position)
        ids, mask, positions = (torch.from_numpy(given[name]) for name in ("tokens", "attention_mask", POSITIONS))
        n_forgotten = [layer.get_mask_sizes(step.n_columns)[1] for layer in kept.layers]
        with torch.inference_mode(), collected() as taps:
            model(ids, mask, kept, positions)
        values.append({tap.name: (tap.axes, _of_all_keys(tap, n_forgotten)) for tap in taps.values()})
    forgetting = {block for block, n in enumerate(n_forgotten) if n}
    caches = {f"blk.{block}.{stage}" for block in forgetting for stage in CACHE_STAGES}
    return [{name: own for name, own in of_step.items() if name not in caches} for of_step in values]


def _cache(config: Any, kind: str, n_keys: int) -> Any:
    """An empty cache.

    Raises:
        InputError: a sliding one, where no layer has a window.
    """
    import transformers

    if kind == DYNAMIC:
        return cache_of_all(config)
    if kind == STATIC:
        return transformers.StaticCache(config=config, max_cache_len=n_keys)
    made = transformers.DynamicCache(config=config)
    if not any(made.is_sliding):
        raise InputError(f"--cache {SLIDING}: no layer of this {config.model_type} has a window; use --cache {DYNAMIC}")
    return made


def _of_all_keys(tap: Tapped, n_forgotten: Sequence[int]) -> np.ndarray:
    """A copy of a tap's value (a static cache is written on), whose keys begin with those that its layer has forgotten, masked."""
    value, block = np.array(tap.value), split_tap_name(tap.name)[0]
    if "key" not in tap.axes or block is None or not n_forgotten[block]:
        return value
    place = tap.axes.index("key")
    masked = [(n_forgotten[block] if n == place else 0, 0) for n in range(value.ndim)]
    return np.pad(value, masked, constant_values=missing_of(tap.name))


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
