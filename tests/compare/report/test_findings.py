"""What a result says of each node of a side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from opdiff.compare.report.findings import findings, over_floor, row_of_each_node, side_of
from opdiff.compare.result import Result
from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.errors import InputError


def with_row(result: Result, tap: str, **changes: object) -> Result:
    return replace(result, rows=tuple(replace(row, **changes) if row.tap == tap else row for row in result.rows))


@pytest.mark.parametrize(("side", "file"), [("a", "dsl.onnx"), ("b", "legacy.onnx")])
def test_every_node_of_a_side_is_told_of_and_only_nodes_of_its_file(seed, diagnosis, side, file):
    assert set(findings(diagnosis, side)) == {node.name for node in load_artifact(seed / file).model.graph.node}


def test_each_culprit_names_its_cause_its_partner_and_both_lines(diagnosis):
    assert len(diagnosis.divergences) == 7
    for side, other in (("a", "b"), ("b", "a")):
        found = findings(diagnosis, side)
        for divergence in diagnosis.divergences:
            own, partner = getattr(divergence, f"{side}_node"), getattr(divergence, f"{other}_node")
            facts = found[own.name].facts
            assert facts["cause"] == f"{divergence.cause} of 3, at this node"
            assert diagnosis.root_causes[divergence.cause - 1].convention in facts["convention"]
            assert (facts["partner"], facts["partner_line"]) == (partner.name, partner.source)
            assert facts["source_line"] == own.source
            assert facts["tap"] == divergence.tap
            assert found[own.name].text.startswith("At fault")


def test_other_nodes_of_a_region_at_fault_do_not_claim_the_fault(diagnosis):
    found = findings(diagnosis, "b")["blk.0.q_norm/Sqrt"]
    assert found.facts["verdict"] == "semantic"
    assert found.facts["cause"] == "2 of 3"
    assert found.text.startswith("In the region of blk.0.q_norm, which is at fault")


def test_a_region_that_agrees_is_said_to_and_its_taps_node_has_its_partner(diagnosis):
    found = findings(diagnosis, "b")["logits/MatMul"]
    assert found.text == "In the region of logits: both sides compute the same"
    assert (found.facts["verdict"], found.facts["partner"]) == ("same", "logits/MatMul")
    assert "cause" not in found.facts


def test_a_node_that_regions_share_is_the_worst_ones_unless_it_is_the_culprit_of_another(diagnosis):
    shared = "blk.0.q_rope/Shape"
    worse = with_row(diagnosis, "blk.0.k_rope", error=1e9)
    assert row_of_each_node(diagnosis, "a")[shared].tap == "blk.0.q_rope"
    assert row_of_each_node(worse, "a")[shared].tap == "blk.0.k_rope"
    node = next(node for row in worse.rows for node in row.a_nodes if node.name == shared)
    blamed = replace(worse, divergences=tuple(replace(d, a_node=node) for d in worse.divergences if "q_rope" in d.tap))
    assert row_of_each_node(blamed, "a")[shared].tap == "blk.0.q_rope"


@pytest.mark.parametrize(
    ("error", "floor", "ratio"),
    [(0.0, 0.0, 0.0), (2.0, 0.5, 4.0), (1e-9, 0.0, float("inf")), (float("nan"), 1.0, float("inf"))],
)
def test_an_error_over_no_floor_or_that_is_nan_is_beyond_any_number(diagnosis, error, floor, ratio):
    assert over_floor(replace(diagnosis.rows[0], error=error, floor=floor)) == ratio


def test_a_files_side_is_told_by_its_content_and_not_by_its_name(seed, diagnosis, tmp_path):
    moved = tmp_path / "dsl.onnx"
    moved.write_bytes((seed / "legacy.onnx").read_bytes())
    assert side_of(moved, diagnosis) == "b"
    assert side_of(seed / "dsl.onnx", diagnosis) == "a"
    with pytest.raises(InputError, match=r"neither A .*dsl.* nor B .*legacy"):
        side_of(seed / "reference.onnx", diagnosis)
