"""Runs with changes, side by side: the same as one by one, and differences far below float32 are exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from opdiff.compare.align.by_name import align
from opdiff.compare.mend.effect import Effects
from opdiff.compare.mend.runs import Change, run_changed
from opdiff.compare.opening import sides_of
from opdiff.compare.sides.graph_side import GraphSide
from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.run import Runner
from opdiff.graphs.stages import LOGITS

TOKENS = (1, 5, 3, 17)
N_BLOCKS = 4
EPS = frozenset(f"blk.{n}.{stage}" for n in range(N_BLOCKS) for stage in ("q_norm", "k_norm"))
ROPE = frozenset(f"blk.{n}.{stage}" for n in range(N_BLOCKS) for stage in ("q_rope", "k_rope"))


@pytest.fixture(scope="module")
def pair(qwen3: Path) -> list[GraphSide]:
    """Two faults in each block: an eps, of hardly any effect, and the pairing of RoPE, of a large one."""
    artifacts = [load_artifact(qwen3 / name) for name in ("dsl.onnx", "reference.onnx")]
    return sides_of(artifacts, align(*artifacts), TOKENS, Runner())


def logits(b: GraphSide, changes: list[Change], by_difference: bool) -> list[np.ndarray]:
    found = run_changed(b, changes, [LOGITS], "float64", by_difference=by_difference)
    assert all(isinstance(one, dict) for one in found), found
    return [one[LOGITS] for one in found if isinstance(one, dict)]


def test_differences_of_runs_are_those_of_double_precision(pair):
    a, b = pair
    changes = [Change(dict.fromkeys(taps, a)) for taps in (b.regions, EPS, ROPE, EPS | ROPE)]
    exact = [logits(b, [change], False)[1] for change in changes]
    b_exact = logits(b, [], False)[0]
    b_ours, a_ours, eps, rope, both = logits(b, changes, by_difference=True)
    small = np.abs(exact[1] - b_exact).max()
    assert small < 1e-5 * np.abs(b_exact).max()
    np.testing.assert_allclose(eps - b_ours, exact[1] - b_exact, rtol=0, atol=1e-4 * small)
    np.testing.assert_allclose(rope - a_ours, exact[2] - exact[0], rtol=0, atol=1e-4 * small)
    assert np.linalg.norm(both - a_ours) <= 1e-12 * np.linalg.norm(a_ours)
    assert np.linalg.norm(a_ours - exact[0]) <= 1e-4 * np.linalg.norm(exact[0])


def test_what_a_change_leaves_as_it_is_is_not_run(pair):
    a, b = pair
    last = f"blk.{N_BLOCKS - 1}.q_rope"
    runner = b._runner
    before = runner.n_runs
    run_changed(b, [Change({last: a})], [LOGITS], "float64")
    assert runner.n_runs - before == len(b.regions) + len(b.downstream(last))


def test_effects_that_do_not_fit_into_memory_at_once_are_the_same(pair, monkeypatch):
    a, b = pair
    sets = [EPS, ROPE, EPS | ROPE, frozenset({"blk.0.q_rope"}), frozenset({"blk.1.q_norm"})]
    together = Effects(a, b, sets)
    monkeypatch.setattr("opdiff.compare.mend.effect._BYTES_AT_ONCE", 0)
    apart = Effects(a, b, sets)
    for group in sets:
        one, other = (effects.after(sorted(group), frozenset()) for effects in (together, apart))
        assert one is not None
        assert other is not None
        assert one.max_change == pytest.approx(other.max_change, rel=1e-4)
        shares = [
            pair for pair in zip(one.alone, other.alone, strict=True) if None not in pair
        ]  # None: no difference there
        assert len(shares) > 1
        assert [left for left, _ in shares] == pytest.approx([right for _, right in shares], rel=1e-4, abs=1e-9)
    for effects in (together, apart):
        assert effects.left(effects.logits(EPS | ROPE)) <= 1e-12
