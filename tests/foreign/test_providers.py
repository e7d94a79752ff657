"""A side that an execution provider runs whole: its kernels' rounding is no fault, and what it computes otherwise is one.

onnxruntime's package for the CPU has two providers: the CPU's, and Azure's, which leaves every node to the CPU's.
"""

from __future__ import annotations

import pytest
from corpus.models import TOKENS
from foreign import models

from opdiff.compare.diagnose import compare

CPU, AZURE = "CPUExecutionProvider", "AzureExecutionProvider"


@pytest.mark.parametrize("name", ["eager", "fused", "eager.half"])
def test_its_rounding_is_no_fault(exports, name):
    path = models.in_half(exports / "eager.onnx") if name == "eager.half" else exports / f"{name}.onnx"
    result = compare(path, path, TOKENS, providers=(None, CPU))
    assert (result.parity, result.root_causes) == (True, ())
    assert result.b.name == f"{name}[CPU]"
    assert result.provenance["provider"] == f"B on {CPU}; {CPU}"
    assert len(result.rows) > 40


def test_a_fault_is_named_from_what_the_provider_gave(exports):
    result = compare(exports / "eager.onnx", exports / "faulty.onnx", TOKENS, providers=(None, CPU))
    assert [(cause.convention, cause.taps) for cause in result.root_causes] == [
        ("attn_norm.eps", ("blk.1.attn_norm",)),
        ("ffn.activation", ("blk.2.ffn_act",)),
    ]
    assert result.closed.complete


def test_steps_of_a_fused_operator_are_in_no_file_and_said_to_be_on_one_side_only(exports):
    result = compare(exports / "eager.onnx", exports / "fused.onnx", TOKENS, providers=(None, CPU))
    assert result.parity
    assert "blk.0.attn_scores" in result.only_a


def test_either_side_may_be_it_and_is_whoever_reads_the_trace(exports):
    result = compare(exports / "eager.onnx", exports / "faulty.onnx", TOKENS, providers=(CPU, None))
    assert [cause.convention for cause in result.root_causes] == ["attn_norm.eps", "ffn.activation"]
    assert result.a.name == "eager[CPU]"


def test_nodes_that_it_leaves_to_the_cpu_are_told(exports):
    result = compare(exports / "eager.onnx", exports / "eager.onnx", TOKENS, providers=(None, AZURE))
    note = next(one for one in result.notes if AZURE in one)
    assert ", 0 of its " in note
    assert "MatMul" in note
    assert note.endswith(f"ran on {CPU}")
