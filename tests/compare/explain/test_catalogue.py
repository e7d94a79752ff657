"""Causes over the blocks: what explained one block is where the search in the next goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from opdiff.compare.conventions import Settings, evaluate
from opdiff.compare.conventions.explain import WHOLE
from opdiff.compare.explain.catalogue import Explainer
from opdiff.compare.judge.locate import Local
from opdiff.compare.sides.graph_side import GraphSide
from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.run import Runner

TOKENS = (1, 5, 3, 17)
PAIRING = Settings().with_value("rope.pairing", "interleaved")


@pytest.fixture
def side(qwen3: Path) -> GraphSide:
    artifact = load_artifact(qwen3 / "reference.onnx")
    return GraphSide(artifact, artifact.tap_names, TOKENS, Runner())


def fault(explainer: Explainer, tap: str, settings: Settings) -> Local:
    """A region that is computed with these settings, where the standard ones are right."""
    case = explainer.case(tap)
    right, wrong = evaluate(case, tap, Settings()), evaluate(case, tap, settings)
    return Local(tap, "semantic", "", error=1.0, threshold=1e-10, a64=right, b64=wrong)


def test_a_block_with_one_fault_more_than_the_one_before_is_explained_from_there(side):
    """Where pairs are too many to be tried, as in regions of a whole block of a large model."""
    few = replace(WHOLE, pairs=0, triples=0)
    both = PAIRING.with_value("rope.base", 5e5)
    alone, after = (Explainer(side, [side], TOKENS) for _ in range(2))
    assert not alone.explain(fault(alone, "blk.1.q_rope", both), few).candidates
    assert after.explain(fault(after, "blk.0.q_rope", PAIRING), few).candidates
    found = after.explain(fault(after, "blk.1.q_rope", both), few)
    assert found.residual < 1e-10
    names = {name: theirs for name, _, theirs in found.candidates[0]}
    assert names == {"rope.pairing": "interleaved", "rope.base": 5e5}
    assert {name: ours for name, ours, _ in found.candidates[0]}["rope.pairing"] == "half_split"


def test_products_of_the_catalogue_are_the_runners(side):
    explainer, counted = Explainer(side, [side], TOKENS), side._runner
    before = counted.n_weights_read
    case = explainer.case("blk.1.q_proj")
    evaluate(case, case.target, Settings())
    assert counted.n_weights_read == before + 1
