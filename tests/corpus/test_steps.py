"""Schedules: no step blames anybody where a cache is right, and every mistake that only steps show is found where it is.

As in the diagnosis of whole prompts, each exported model holds a fault in its first, one in its middle and one in its last block.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import made_once
from filelock import FileLock
from foreign.models import without_taps

from corpus.faults import FAULTS
from corpus.models import TOKENS, tiny_model, write_gguf
from corpus.step_faults import STEP_FAULTS
from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result
from opdiff.exporters.bound import BoundCheckpoint
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import WEIGHT_FILE, canonical_names, export, shared_weights, write_graph
from opdiff.exporters.runtimes.command import run_trace
from opdiff.exporters.to_onnx import to_onnx
from opdiff.exporters.variants import hf
from opdiff.exporters.variants.registry import parse_variant
from opdiff.graphs.decoding import GraphDecoder
from opdiff.graphs.errors import InputError
from opdiff.graphs.run import Runner
from opdiff.graphs.schedule.steps import WHOLE, parse_schedule

RIGHT = ("whole", "each", "chunks:4", "3+1+1+5", "9+1", "1+9")
MIXED = ("batch:3", "pad-left:5", "pad-right:3", "pad-left:5,each", "batch:3,chunks:3", "pad-left:2,batch:2,each")


@dataclass(frozen=True)
class Group:
    """A fault in each block, the schedule that shows all of them, the position that shows one first, and a fault of whole
    prompts beside them: its name, and its block.
    """

    schedule: str
    faults: tuple[str, str, str]
    first: int
    also: tuple[str, int] | None = None

    @property
    def name(self) -> str:
        return "_".join(fault for fault in self.faults if fault)


GROUPS = (
    Group(
        "each",
        ("positions_one_behind_in_later_steps", "written_one_slot_early", "keys_rotated_again_when_read"),
        0,
        ("gelu for silu", 1),
    ),
    Group("each", ("ring_wraps_too_early", "position_wrong_in_the_middle_step", "keys_stored_unrotated"), 1),
    Group(
        "each", ("the_middle_step_is_not_stored", "heads_swapped_in_later_steps", "position_wrong_in_the_last_step"), 1
    ),
    Group(
        "each",
        ("keys_rotated_at_read_one_position_too_far", "a_window_of_4_in_steps", "an_unwritten_slot_is_attended_to"),
        0,
    ),
    Group(
        "chunks:4",
        ("positions_from_0_in_each_step", "mask_aligned_at_the_top_left", "keys_rotated_again_in_each_step"),
        0,
        ("ffn_norm with eps 1e-5", 2),
    ),
    Group(
        "chunks:3",
        ("all_tokens_of_a_step_at_one_position", "cache_in_float16", "ring_wraps_too_early_in_chunks"),
        0,
        ("ffn residual missing", 0),
    ),
    Group("chunks:4", ("cache_in_q8_0", "the_past_is_not_seen", "cache_in_bfloat16_values"), 0),
    Group(
        "3+1+1+1+4",
        ("written_one_slot_late", "the_new_key_is_not_seen", "positions_two_ahead_in_later_steps"),
        0,
        ("gate and up swapped", 0),
    ),
    Group("4+1+1+4", ("cache_in_bfloat16", "keys_alone_one_slot_early", "the_first_step_is_stored_in_float16"), 0),
    Group(
        "batch:2,4+3+3",
        ("written_to_the_first_slots", "rows_of_the_batch_mixed_up_in_later_steps", ""),
        0,
        ("relu for silu", 2),
    ),
    Group(
        "pad-left:3,chunks:5",
        (
            "padding_is_attended_to_in_later_steps",
            "positions_count_padding_in_later_steps",
            "padding_is_attended_to",
        ),
        0,
        ("ffn_norm clipped", 1),
    ),
    Group(
        "batch:3",
        ("rows_of_the_batch_mixed_up", "a_cache_of_a_fixed_size", "a_row_of_an_earlier_prompt_behind_ours"),
        0,
    ),
)


@pytest.fixture(scope="session")
def cached(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A random Qwen3: hf.onnx, hf.attention=sdpa.onnx, reference.onnx, dsl.onnx and legacy.onnx with a cache."""

    def make(folder: Path) -> None:
        checkpoint = open_checkpoint(str(write_gguf(tiny_model("qwen3"), folder / "model.gguf")))
        variants = ("hf", "hf:attention=sdpa", "reference", "dsl", "legacy:head_dim=metadata")
        export(checkpoint, [parse_variant(text) for text in variants], folder, cache=True)
        export(checkpoint, [parse_variant("reference")], folder / "plain")

    return made_once(tmp_path_factory, worker_id, "cached", make)


def faulty(folder: Path, group: Group) -> Path:
    """The graph with the faults of a group, with a cache."""
    path = folder / f"{group.name}.onnx"
    with FileLock(folder / f"{group.name}.lock"):
        if path.exists():
            return path
        model = tiny_model("qwen3")
        makers = {n: STEP_FAULTS[name].put_into(model, n) for n, name in enumerate(group.faults) if name}
        if group.also is not None:
            FAULTS[group.also[0]].apply(model, group.also[1])

        def cache(config: object) -> object:
            made = {n: make(config) for n, make in makers.items()}
            plain = next(iter(made.values()))
            for n, one in made.items():
                plain.layers[n] = one.layers[n]
            return plain

        checkpoint = open_checkpoint(str(folder / "model.gguf"))
        weights = shared_weights(checkpoint, folder / WEIGHT_FILE, with_q8_0=False)
        bound = BoundCheckpoint(checkpoint.config, weights)
        graph = to_onnx(hf.tapped(model, cache), canonical_names(bound), cache=True)
        return write_graph(graph, bound, weights, path, {"runtime": group.name})


def compared(a: Path, b: Path, schedule_a: str, schedule_b: str) -> Result:
    return compare(a, b, TOKENS, schedules=(parse_schedule(schedule_a), parse_schedule(schedule_b)))


@pytest.mark.parametrize("schedule", [*RIGHT, *MIXED])
@pytest.mark.parametrize("variant", ["hf", "hf.attention=sdpa", "reference", "legacy"])
def test_a_right_cache_is_not_blamed_on_any_schedule(cached, variant, schedule):
    if variant in ("reference", "legacy") and schedule in MIXED:
        pytest.skip("it takes one prompt, without padding")
    for other in {f"{variant}.onnx", "reference.onnx" if variant != "legacy" else "legacy.onnx"}:
        result = compared(cached / other, cached / f"{variant}.onnx", WHOLE.text, schedule)
        assert result.parity, [cause.text for cause in result.root_causes]


@pytest.mark.parametrize("schedules", [("each", "chunks:4"), ("9+1", "1+9"), ("chunks:2", "chunks:5")])
def test_two_schedules_are_held_against_each_other(cached, schedules):
    assert compared(cached / "hf.onnx", cached / "reference.onnx", *schedules).parity


@pytest.mark.parametrize("schedule", ["each", "chunks:3"])
def test_a_graph_without_a_cache_is_what_steps_are_held_against(cached, schedule):
    assert compared(cached / "plain" / "reference.onnx", cached / "reference.onnx", "whole", schedule).parity
    assert compared(cached / "reference.onnx", cached / "plain" / "reference.onnx", schedule, "whole").parity


def test_the_dsl_runtime_is_right_token_by_token_and_wrong_for_a_whole_prompt(cached):
    result = compared(cached / "dsl.onnx", cached / "dsl.onnx", "each", "whole")
    (cause,) = result.root_causes
    assert (cause.convention, cause.a_value, cause.b_value) == ("heads.split", "by_token", "untransposed")
    assert "head_view" in _around(cause.source)
    assert result.closed.complete


def _around(source: str | None) -> str:
    """The function of a line of the dsl variant, and what stands a few lines above."""
    assert source is not None
    file, _, line = source.rpartition(":")
    lines = Path(file).read_text().splitlines()
    return "\n".join(lines[int(line) - 6 : int(line)])


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_mistakes_that_only_steps_show_are_found(cached, group):
    path = faulty(cached, group)
    result = compared(cached / "hf.onnx", path, WHOLE.text, group.schedule)
    wanted = {
        name: {f"blk.{n}.{stage}" for stage in STEP_FAULTS[name].stages} for n, name in enumerate(group.faults) if name
    }
    if group.also is not None:
        wanted[group.also[0]] = FAULTS[group.also[0]].taps(group.also[1])
    assert {d.tap for d in result.divergences} == set().union(*wanted.values())
    for name, taps in wanted.items():
        causes = [cause for cause in result.root_causes if set(cause.taps) & taps]
        convention = (STEP_FAULTS.get(name) or FAULTS[name]).convention
        if convention is not None:
            assert convention in {cause.convention for cause in causes}, [cause.text for cause in causes]
        assert all(cause.kind in ("convention", "edit", "unexplained") for cause in causes)
    assert result.closed.all_found, result.closed.text
    assert result.first_step is not None
    assert result.first_step.position == group.first


def test_a_whole_prompt_hides_what_steps_show(cached):
    path = faulty(cached, GROUPS[1])
    shown = {d.tap for d in compared(cached / "hf.onnx", path, "whole", "whole").divergences}
    hidden = {d.tap for d in compared(cached / "hf.onnx", path, "whole", "each").divergences}
    assert "blk.1.q_rope" in hidden - shown


@pytest.mark.parametrize(
    ("schedule", "cache"),
    [("each", "dynamic"), ("chunks:4", "static"), ("pad-left:5,each", "static"), ("batch:3", "dynamic")],
)
def test_transformers_own_caches_are_what_the_graph_is(cached, tmp_path, schedule, cache):
    out = run_trace(
        str(cached / "model.gguf"), "hf", None, ",".join(map(str, TOKENS)), tmp_path / "t.safetensors", schedule, cache
    )
    for graph in (cached / "hf.onnx", cached / "reference.onnx", cached / "plain" / "reference.onnx"):
        result = compare(graph, out, None)
        assert result.parity, [cause.text for cause in result.root_causes]
        assert result.schedules[1] == schedule


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("reference.onnx", "plain/reference.onnx", "whole", "each"), "keeps no cache"),
        (("reference.onnx", "reference.onnx", "whole", "4+1"), "its steps are of 5 tokens, where 10 are given"),
        (("reference.onnx", "reference.onnx", "whole", "pad-left:2"), "takes no attention_mask"),
        (("reference.onnx", "reference.onnx", "batch:2", "whole"), "takes one prompt, no batch"),
    ],
)
def test_a_schedule_that_cannot_be_fed_is_refused(cached, options, text):
    a, b, *schedules = options
    with pytest.raises(InputError, match=text):
        compared(cached / a, cached / b, *schedules)


def test_decoding_through_a_cache_gives_what_each_prefix_gives(cached):
    whole, steps = (GraphDecoder("r", cached / "reference.onnx", Runner(), in_steps) for in_steps in (False, True))
    for n in (3, 4, 5, 9, 2):
        np.testing.assert_allclose(steps.logits(TOKENS[:n]), whole.logits(TOKENS[:n]), rtol=2e-5, atol=2e-5)


def test_a_module_that_keeps_no_cache_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\nfrom opdiff import tap\n\n\nclass Mine(torch.nn.Module):\n    def __init__(self, checkpoint):\n        super().__init__()\n"
        "        self.e = torch.nn.Parameter(checkpoint['token_embd.weight'], requires_grad=False)\n\n"
        "    def forward(self, tokens):\n        return tap('embed', self.e[tokens], axes='token channel')\n"
    )
    with pytest.raises(InputError, match=r"keeps no cache: call opdiff.past"):
        export(open_checkpoint("seed", tmp_path), [parse_variant(f"{path}:Mine")], tmp_path / "out", cache=True)


def test_steps_are_held_against_a_graph_without_taps_which_is_fed_whole(cached):
    bare = without_taps(cached / "plain" / "reference.onnx")
    for other in ("reference.onnx", "hf.onnx"):
        result = compared(bare, cached / other, "whole", "chunks:3")
        assert result.parity, [cause.text for cause in result.root_causes]
    with pytest.raises(InputError, match=r"keeps no cache \(no inputs as past_key_values"):
        compared(bare, cached / "reference.onnx", "each", "whole")


def test_nan_in_a_later_step_is_followed_to_its_node(cached, tmp_path):
    path = tmp_path / "overflow.py"
    path.write_text(
        "import torch\nfrom opdiff.exporters.variants.reference import Reference\n\n\nclass Mine(Reference):\n"
        "    def rotary_table(self, positions):\n        cos, sin = super().rotary_table(positions)\n"
        "        big = torch.where(positions > 6, 1e30, 1.0)[:, None, None]\n        return cos * big * big, sin\n\n\n"
        "def mine(checkpoint):\n    return Mine(checkpoint, 'as_stored')\n"
    )
    (graph,) = export(
        open_checkpoint(str(cached / "model.gguf")), [parse_variant(f"{path}:mine")], tmp_path / "out", cache=True
    )
    result = compared(cached / "reference.onnx", graph, "whole", "chunks:4")
    assert not result.parity
    (found,) = result.nonfinite
    assert found.tap == "blk.0.q_rope"
    assert dict(found.position)["token"] == 7
