"""Every fault of steps alone, in the first, the middle and the last block: found there and nowhere else, by its name.

Each is recorded as HF's own run in steps, and held against the reference's graph, which is fed whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import made_once

from corpus.models import N_BLOCKS, TOKENS, tiny_model, write_gguf
from corpus.step_faults import STEP_FAULTS, StepFault
from opdiff.compare.diagnose import compare
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import export
from opdiff.exporters.tapping import collected
from opdiff.exporters.variants import hf
from opdiff.exporters.variants.registry import parse_variant
from opdiff.graphs.inputs import fed
from opdiff.graphs.schedule.placing import by_position
from opdiff.graphs.schedule.steps import parse_schedule
from opdiff.graphs.taps import Source, Tap
from opdiff.graphs.trace import save_trace

ATTENDED_BESIDE = {  # columns that are no position: a trace leaves them out, and its probabilities do not sum to 1 then
    "an_unwritten_slot_is_attended_to",
    "padding_is_attended_to",
    "padding_is_attended_to_in_later_steps",
    "a_row_of_an_earlier_prompt_before_ours",
    "a_row_of_an_earlier_prompt_behind_ours",
}
# The position at which each one parts first, and the step of B, from 1: where its law, on its schedule, first has a say.
FIRST = {
    **dict.fromkeys(("position_wrong_in_the_first_step", "positions_count_padding", "padding_is_attended_to"), (0, 1)),
    **dict.fromkeys(("the_first_step_is_not_stored", "the_first_step_is_stored_in_float16"), (0, 1)),
    **dict.fromkeys((f"cache_in_{kind}" for kind in ("float16", "bfloat16", "q8_0", "bfloat16_values")), (0, 1)),
    **dict.fromkeys((f"a_row_of_an_earlier_prompt_{place}_ours" for place in ("before", "behind")), (0, 1)),
    **dict.fromkeys(("an_unwritten_slot_is_attended_to", "rows_of_the_batch_mixed_up"), (0, 1)),
    **dict.fromkeys(("keys_rotated_at_read_one_position_too_far", "the_first_step_does_not_see_the_first_key"), (0, 1)),
    "all_tokens_of_a_step_at_one_position": (1, 1),
    **dict.fromkeys(("positions_one_behind_in_later_steps", "written_one_slot_early"), (1, 2)),
    **dict.fromkeys(("heads_swapped_in_later_steps", "keys_rotated_again_when_read", "keys_stored_unrotated"), (1, 2)),
    "written_to_the_first_slots": (2, 2),
    "written_one_slot_late": (3, 2),
    **dict.fromkeys(("positions_from_0_in_each_step", "positions_two_ahead_in_later_steps"), (4, 2)),
    **dict.fromkeys(
        ("keys_rotated_again_in_each_step", "mask_aligned_at_the_top_left", "the_past_is_not_seen"), (4, 2)
    ),
    "rows_of_the_batch_mixed_up_in_later_steps": (4, 2),
    "a_window_of_4_in_steps": (4, 5),
    **dict.fromkeys(("positions_count_padding_in_later_steps", "padding_is_attended_to_in_later_steps"), (5, 2)),
    **dict.fromkeys(("keys_alone_one_slot_early", "the_new_key_is_not_seen"), (5, 2)),
    **dict.fromkeys(("ring_wraps_too_early_in_chunks", "the_middle_step_does_not_see_the_first_key"), (6, 3)),
    **dict.fromkeys(("position_wrong_in_the_middle_step", "the_middle_step_is_not_stored"), (6, 7)),
    "ring_wraps_too_early": (7, 8),
    "the_last_step_does_not_see_the_first_key": (9, 4),
    **dict.fromkeys(("position_wrong_in_the_last_step", "the_last_step_is_not_stored"), (9, 10)),
}
OF_THE_FAULT = "_store"  # taps by which a fault keeps its own state


@pytest.fixture(scope="session")
def right(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The reference's graph of a random Qwen3."""

    def make(folder: Path) -> None:
        checkpoint = open_checkpoint(str(write_gguf(tiny_model("qwen3"), folder / "model.gguf")))
        export(checkpoint, [parse_variant("reference")], folder)

    return made_once(tmp_path_factory, worker_id, "single", make) / "reference.onnx"


def recorded(fault: StepFault, block: int, path: Path) -> Path:
    """HF's run on the fault's schedule, with the fault in one block; what a step leaves is the past of the next."""
    model = tiny_model("qwen3")
    module = hf.tapped(model, fault.put_into(model, block))
    steps = parse_schedule(fault.schedule).steps(len(TOKENS))
    values: list[dict[str, Any]] = []
    left: dict[str, torch.Tensor] = {}
    for step in steps:
        given = fed(TOKENS, step)
        with torch.inference_mode(), collected(given=left) as taps:
            module(torch.from_numpy(given["tokens"]), torch.from_numpy(given["attention_mask"]))
        left = {name: one.value for name, one in taps.items()}
        values.append(
            {name: (t.axes, np.array(t.value)) for name, t in taps.items() if not name.endswith(OF_THE_FAULT)}
        )
    node = Source("", "", None, None)
    pairs = [(Tap(name, axes, node), value) for name, (axes, value) in by_position(values, steps).items()]
    save_trace(path, "hf", TOKENS, pairs, {"schedule": fault.schedule})
    return path


@pytest.mark.parametrize("block", range(N_BLOCKS))
@pytest.mark.parametrize("name", STEP_FAULTS)
def test_a_fault_alone_is_found_in_its_block(right, tmp_path, name, block):
    fault = STEP_FAULTS[name]
    result = compare(right, recorded(fault, block, tmp_path / "t.safetensors"), None)
    found = {d.tap for d in result.divergences}
    least = most = {f"blk.{block}.{stage}" for stage in fault.stages}
    if name in ATTENDED_BESIDE:
        scores, probs, context = (f"blk.{block}.attn_{stage}" for stage in ("scores", "probs", "context"))
        least, most = least - {scores} | {probs}, most | {probs, context}
    assert least <= found <= most
    named = {cause.convention for cause in result.root_causes}
    named |= {fit.split("=")[0] for cause in result.root_causes for fit in cause.also_fits}
    assert fault.convention is None or fault.convention in named, [cause.text for cause in result.root_causes]
    first = result.first_step
    assert (None if first is None else (first.position, first.b_step)) == FIRST.get(name)


def test_rows_of_an_earlier_prompt_are_told_as_a_cache_that_is_moved(right, tmp_path):
    fault = STEP_FAULTS["a_row_of_an_earlier_prompt_before_ours"]
    result = compare(right, recorded(fault, 1, tmp_path / "t.safetensors"), None)
    told = {tap for cause in result.root_causes if "moved on by 1 slot" in cause.text for tap in cause.taps}
    assert told == {"blk.1.k_cache", "blk.1.v_cache"}
