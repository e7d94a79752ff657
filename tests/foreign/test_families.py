"""Families that opdiff has no rule for, exported two ways: aligned, nothing blamed, and two faults in each found, said and closed."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import made_once
from foreign.families import FAMILIES
from foreign.models import saved_by_onnxruntime

from opdiff.compare.align.anchors import end_of_channels, root
from opdiff.compare.align.foreign import ForeignPair, align_foreign
from opdiff.compare.diagnose import compare
from opdiff.compare.opening import open_either
from opdiff.graphs.run import Runner


@pytest.fixture(params=FAMILIES)
def case(request, tmp_path_factory, worker_id):
    """A family, and the folder of a.onnx, b.onnx and wrong.onnx, which is written as b is."""
    family = FAMILIES[request.param]

    def make(folder: Path) -> None:
        family.write(folder / "a.onnx", 0)
        family.write(folder / "b.onnx", 1)
        family.write(folder / "wrong.onnx", 1, [fault.patch for fault in family.faults])

    return family, made_once(tmp_path_factory, worker_id, f"family.{request.param.replace(' ', '_')}", make)


def weights_that_are_no_points(pair: ForeignPair) -> list[str]:
    """Of the products and kernels with a weight, those that do not end in a point; where a norm is folded, its end is theirs."""
    points = {root(pair.a, point.a)[0] for point in pair.aligned.points}
    steps = [one for one in pair.aligned.pairs if one.a.role in ("product", "kernel")]
    ends = {one.a.weight_name: end_of_channels(pair.a, one.a.y) if one.is_scaled else one.a.y for one in steps}
    missing = [name for name, end in ends.items() if root(pair.a, end)[0] not in points]
    return missing + [one.weight_name for side in pair.aligned.alone for one in side]


def test_a_family_is_aligned_and_nothing_is_blamed(case):
    family, folder = case
    a, b = folder / "a.onnx", folder / "b.onnx"
    pair = align_foreign(*(open_either(path, None, {}) for path in (a, b)), family.tokens, Runner())
    assert weights_that_are_no_points(pair) == []
    assert [pair.share(side) >= least for side, least in zip("ab", family.shared, strict=True)] == [True, True]
    for other in (b, saved_by_onnxruntime(b, "extended")):
        result = compare(a, other, family.tokens)
        assert result.parity, [cause.text for cause in result.root_causes]
        assert result.closed.complete
        assert {row.verdict for row in result.rows} <= {"same", "rounding"}


def test_two_faults_in_a_family_are_placed_said_and_closed(case):
    family, folder = case
    result = compare(folder / "a.onnx", folder / "wrong.onnx", family.tokens)
    assert len(result.root_causes) == 2, [cause.text for cause in result.root_causes]
    places = {one.tap: one for one in result.divergences}
    for fault in family.faults:
        cause = next((one for one in result.root_causes if fault.tap in one.taps), None)
        assert cause is not None, [cause.text for cause in result.root_causes]
        assert cause.kind in ("edit", "convention")
        assert fault.edit in "; ".join(cause.edit)
        nodes = places[fault.tap].a_node, places[fault.tap].b_node
        assert any(fault.module in (node.scope or "") for node in nodes if node is not None), nodes
    assert result.closed.complete
