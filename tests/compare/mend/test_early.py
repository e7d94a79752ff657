"""Of a long input, effects are measured at the first positions: the same as there alone, and further where faults show late."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from corpus.exported import export_patched, export_right
from corpus.faults import FAULTS
from corpus.models import TOKENS

from opdiff.compare.align.by_name import align
from opdiff.compare.diagnose import compare
from opdiff.compare.judge.locate import Local
from opdiff.compare.judge.places import FEW
from opdiff.compare.mend.early import early_effects
from opdiff.compare.opening import sides_of
from opdiff.compare.sides.graph_side import GraphSide
from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.run import Runner

LONG = tuple(int(token) for token in np.random.default_rng(0).integers(0, 96, 40))


def test_effects_are_those_of_the_first_positions_and_that_is_said(qwen3: Path):
    pair = qwen3 / "reference.onnx", qwen3 / "dsl.onnx"
    n = FEW + 1  # the first position does not show the rotation
    whole, short = compare(*pair, LONG), compare(*pair, LONG[:n])
    assert whole.root_causes
    assert [cause.taps for cause in whole.root_causes] == [cause.taps for cause in short.root_causes]
    for ours, theirs in zip(whole.root_causes, short.root_causes, strict=True):
        assert ours.effect is not None
        assert theirs.effect is not None
        assert len(ours.effect.alone) == n
        np.testing.assert_allclose(ours.effect.max_change, theirs.effect.max_change, rtol=1e-6)
    assert whole.closed.complete
    assert len(whole.positions) == len(LONG)
    assert any(f"was measured at the first {n}" in note for note in whole.notes)
    assert not any("was measured at the first" in note for note in short.notes)


def sides(pair: list[Path], tokens: tuple[int, ...]) -> list[GraphSide]:
    artifacts = [load_artifact(path) for path in pair]
    return sides_of(artifacts, align(*artifacts), tokens, Runner())


def local(first: int) -> Local:
    """A fault of q_proj that shows from a position on."""
    right = np.ones((len(LONG), 64))
    wrong = right.copy()
    wrong[first:] += 1
    return Local("blk.0.q_proj", "semantic", "", threshold=1e-6, a64=right, b64=wrong)


def n_positions(pair: list[GraphSide], fault: Local, n_tokens: int) -> int:
    """At how many positions effects are measured."""
    return len(early_effects(*pair, n_tokens, [fault], []).a_logits)


def test_a_fault_that_shows_late_is_measured_where_it_shows(qwen3: Path):
    pair = sides([qwen3 / "reference.onnx", qwen3 / "hf.onnx"], LONG)
    words = pair[0].taps["blk.0.q_proj"].axes
    assert words[0] == "token"
    for first, n in ((0, 16), (20, 36), (30, 40)):
        fault = local(first)
        if len(words) == 3:
            fault = Local(fault.tap, "semantic", "", threshold=1e-6, a64=fault.a64[..., None], b64=fault.b64[..., None])
        assert n_positions(pair, fault, len(LONG)) == n


def test_a_graph_of_a_fixed_length_is_measured_at_all_of_it(tmp_path_factory, monkeypatch):
    right = export_right("qwen3", tmp_path_factory.getbasetemp().parent / "corpus" / "qwen3")
    wrong = export_patched("qwen3", [(FAULTS["rope pairs neighbours"], 1)], [], right.parent, "paired")
    monkeypatch.setattr("opdiff.compare.mend.early.FEW", 4)
    same = sides([right, right], TOKENS)
    value = same[0].values["blk.1.q_proj"]
    shown = Local("blk.1.q_proj", "semantic", "", threshold=1e-6, a64=value, b64=value + 1)
    assert n_positions(same, shown, len(TOKENS)) == 4
    assert n_positions(sides([right, wrong], TOKENS), shown, len(TOKENS)) == len(TOKENS)


@pytest.mark.parametrize("n_tokens", [1, 3, FEW])
def test_a_short_input_is_measured_at_all_of_it(qwen3: Path, n_tokens: int):
    pair = sides([qwen3 / "reference.onnx", qwen3 / "hf.onnx"], LONG[:n_tokens])
    assert n_positions(pair, local(0), n_tokens) == n_tokens
