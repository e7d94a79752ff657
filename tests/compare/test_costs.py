"""What a comparison spends, counted: sessions, products with weights, bytes put aside. No clock is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from opdiff.compare.judge.locate import locate
from opdiff.compare.mend.runs import Change, run_changed
from opdiff.compare.sides.graph_side import GraphSide
from opdiff.graphs.artifact import Artifact, Maps, load_artifact
from opdiff.graphs.run import Runner
from opdiff.graphs.scratch import Scratch
from opdiff.graphs.stages import LOGITS

N_BLOCKS = 4
N_PRODUCTS = 7 * N_BLOCKS + 1
TOKENS = (1, 5, 3)


@pytest.fixture
def pair(qwen3: Path) -> list[Artifact]:
    maps: Maps = {}
    return [load_artifact(qwen3 / f"{name}.onnx", maps) for name in ("reference", "hf")]


def sides(pair: list[Artifact], runner: Runner) -> list[GraphSide]:
    common = [tap for tap in pair[0].tap_names if tap in pair[1].tap_names]
    return [GraphSide(artifact, common, TOKENS, runner) for artifact in pair]


def test_a_program_has_one_session_in_however_many_blocks(pair):
    runner = Runner()
    (side,) = sides(pair, runner)[:1]
    before = runner.n_sessions
    programs = {region.program.signature for region in side.regions.values()}
    assert before <= 2 * len(programs)  # the other side's are there too
    assert len(programs) < len(side.regions) / 3
    run_changed(side, [], [LOGITS], "float32")
    assert runner.n_sessions == before


def test_weights_are_views_of_one_map_that_both_graphs_share(pair):
    ours, theirs = (artifact.weights for artifact in pair)
    assert len(ours) > N_PRODUCTS
    for name in set(ours) & set(theirs):
        assert ours[name].array.ctypes.data == theirs[name].array.ctypes.data
        assert not ours[name].array.flags.owndata


def test_products_of_the_same_numbers_with_the_same_weight_are_not_taken(pair):
    runner = Runner()
    a, b = sides(pair, runner)
    found = locate(a, b)
    assert {local.verdict for local in found.values()} <= {"same", "rounding"}
    products = [local for local in found.values() if local.reason == "the same numbers times the same weight"]
    identical = [local for local in found.values() if local.reason == "the same nodes on the same weights"]
    assert len(products) + sum(local.tap.split(".")[-1] in STAGES for local in identical) == N_PRODUCTS
    assert runner.n_weights_read == 0


STAGES = ("q_proj", "k_proj", "v_proj", "o_proj", "ffn_gate", "ffn_up", "ffn_down", "logits")


def test_a_run_in_double_precision_reads_each_weight_once(pair):
    runner = Runner()
    (side, _) = sides(pair, runner)
    run_changed(side, [], [LOGITS], "float64")
    assert runner.n_weights_read == N_PRODUCTS


def test_runs_with_changes_read_each_weight_once_for_all_of_them(pair):
    runner = Runner()
    a, b = sides(pair, runner)
    changes = [Change({f"blk.{n}.q_norm": a}) for n in range(N_BLOCKS)]
    found = run_changed(b, [Change(dict.fromkeys(b.regions, a)), *changes], [LOGITS], "float64", by_difference=True)
    assert runner.n_weights_read == N_PRODUCTS
    for run in found:
        assert isinstance(run, dict)
        np.testing.assert_allclose(run[LOGITS], found[0][LOGITS], rtol=1e-12)


def test_only_what_depends_on_a_mended_region_is_run_again(pair):
    runner = Runner()
    a, b = sides(pair, runner)
    last = f"blk.{N_BLOCKS - 1}.ffn_gate"
    before = runner.n_runs
    run_changed(b, [Change({last: a})], [LOGITS], "float32", b.values)
    assert runner.n_runs - before == len(b.downstream(last)) == 6


def test_large_values_stand_in_a_file_and_small_ones_where_they_were():
    scratch = Scratch(in_memory=0)
    small, large = np.ones(100), np.arange(1 << 18, dtype=np.float32).reshape(512, 512)
    assert scratch.keep(small) is small
    kept = [scratch.keep(large), scratch.keep(large.T)]
    np.testing.assert_array_equal(kept[0], large)
    np.testing.assert_array_equal(kept[1], large.T)
    assert not np.shares_memory(*kept)
    assert scratch.n_bytes == 2 * large.nbytes
    assert not kept[0].flags.owndata
    assert not kept[0].flags.writeable


def test_the_first_values_stay_in_memory_and_each_file_holds_what_fits():
    arrays = [np.full((1 << 20,), n, np.float32) for n in range(5)]
    scratch = Scratch(in_memory=2 * arrays[0].nbytes)
    kept = [scratch.keep(array) for array in arrays]
    assert [one is other for one, other in zip(kept, arrays, strict=True)] == [True, True, False, False, False]
    for one, other in zip(kept, arrays, strict=True):
        np.testing.assert_array_equal(one, other)
    huge = np.arange(1 << 27, dtype=np.float32)  # more than one file's size
    np.testing.assert_array_equal(scratch.keep(huge)[::1000], huge[::1000])
    np.testing.assert_array_equal(scratch.keep(arrays[3]), arrays[3])
