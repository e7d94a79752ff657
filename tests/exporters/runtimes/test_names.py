"""llama.cpp's names in opdiff's words; what is no stage is none."""

from __future__ import annotations

import pytest

from opdiff.exporters.runtimes.names import axes_of, tap_of
from opdiff.graphs.stages import STAGES, default_axes


@pytest.mark.parametrize(
    ("op", "name", "operands", "tap"),
    [
        ("MUL_MAT", "Qcur-3", ("blk.3.attn_q.weight", "attn_norm-3"), "blk.3.q_proj"),
        ("ADD", "Qcur-3", ("Qcur-3", "blk.3.attn_q.bias"), "blk.3.q_proj"),
        ("ROPE", "Qcur-3", ("Qcur-3", "inp_pos"), "blk.3.q_rope"),
        ("RESHAPE", "Qcur-3", ("Qcur-3",), None),
        ("MUL_MAT", "node_32", ("blk.0.attn_output.weight", "kqv_out-0"), "blk.0.o_proj"),
        ("GET_ROWS", "node_73", ("node_72", "out_ids"), None),
        ("GET_ROWS", "embd", ("token_embd.weight", "inp_tokens"), "embed"),
        ("MUL_MAT", "result_output", ("token_embd.weight", "result_norm"), "logits"),
        ("RMS_NORM", "norm-0", ("embd",), None),
        ("MUL", "result_norm", ("norm", "output_norm.weight"), "final_norm"),
        ("ADD", "l_out-12", ("ffn_out-12", "ffn_inp-12"), "blk.12.ffn_residual"),
        ("ADD", "l_out", ("a", "b"), None),
        ("MUL_MAT", "x", ("blk.x.attn_q.weight",), None),
        ("MUL_MAT", "x", ("attn_q.weight",), None),
        ("MUL_MAT", "x", ("blk.0.output.weight",), None),
    ],
)
def test_a_node_is_known_by_its_op_and_its_weight_or_name(op, name, operands, tap):
    assert tap_of(op, name, operands) == tap


@pytest.mark.parametrize("stage", STAGES)
def test_llama_cpps_axes_are_among_the_usual_ones(stage):
    axes = axes_of(stage)
    assert axes in default_axes(stage, len(axes))
