"""Node data for Model Explorer; `tests/model_explorer_screenshot.py` opens it in the real one."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from opdiff.compare.report.model_explorer import node_data
from opdiff.graphs.artifact import load_artifact


def test_every_node_has_the_decades_of_its_region_above_rounding(seed, diagnosis):
    values = {name: one["value"] for name, one in node_data(diagnosis, "b")["results"].items()}
    assert set(values) == {node.name for node in load_artifact(seed / "legacy.onnx").model.graph.node}
    row = next(row for row in diagnosis.rows if row.tap == "blk.0.q_proj")
    assert values["blk.0.q_proj/MatMul"] == pytest.approx(math.log10(row.error / row.floor), abs=1e-3)
    assert values["blk.0.q_proj/MatMul"] > 6
    assert values["blk.0.v_proj/MatMul"] == values["final_norm/Mul"] == 0


def test_thresholds_rise_and_reach_whatever_a_result_can_hold(diagnosis):
    rows = tuple(replace(row, error=math.nan if row.tap == "logits" else row.error) for row in diagnosis.rows)
    data = node_data(replace(diagnosis, rows=rows), "b")
    assert json.dumps(data, allow_nan=False)
    bounds = [one["value"] for one in data["thresholds"]]
    assert bounds == sorted(set(bounds))
    assert max(one["value"] for one in data["results"].values()) == bounds[-1]


def test_a_difference_of_meaning_below_rounding_has_not_the_colour_of_what_agrees(diagnosis):
    rows = tuple(replace(row, error=row.floor / 100) if row.tap == "blk.0.o_proj" else row for row in diagnosis.rows)
    data = node_data(replace(diagnosis, rows=rows), "b")
    agrees = data["thresholds"][0]
    shown = data["results"]["blk.0.o_proj/MatMul"]
    assert shown["value"] <= agrees["value"]
    assert shown["bgColor"] != agrees["bgColor"]
    assert "bgColor" not in data["results"]["blk.0.v_proj/MatMul"]
