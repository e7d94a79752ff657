"""llama.cpp's names in opdiff's words; what is no stage is none."""

from __future__ import annotations

import pytest

from opdiff.exporters.runtimes.names import axes_of, tap_of
from opdiff.graphs.stages import OF_SOME, STAGES, default_axes


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
        ("SCALE", "inp_scaled", ("embd",), "embed"),
        ("ADD", "attn_norm-2", ("norm_w-2", "blk.2.attn_norm.bias"), "blk.2.attn_norm"),
        ("MUL", "ffn_post_norm", ("norm", "blk.1.post_ffw_norm.weight"), "blk.1.ffn_post_norm"),
        ("VIEW", "Kcur-1", ("wqkv_b-1",), "blk.1.k_proj"),
        ("VIEW", "Kcur-1 (view)", ("Kcur-1",), None),
        ("VIEW", "ffn_moe_topk-0", ("ffn_moe_argsort-0",), "blk.0.expert_choice"),
        ("SCALE", "result_output", ("node_9",), "logits"),
        ("MUL_MAT", "x", ("blk.x.attn_q.weight",), None),
        ("MUL_MAT", "x", ("attn_q.weight",), None),
        ("MUL_MAT", "x", ("blk.0.output.weight",), None),
    ],
)
def test_a_node_is_known_by_its_op_and_its_weight_or_name(op, name, operands, tap):
    assert tap_of(op, name, operands) == tap


def test_an_architecture_may_call_a_weight_otherwise():
    node = ("MUL", "attn_post_norm-0", ("norm-0", "blk.0.post_attention_norm.weight"))
    assert tap_of(*node) == "blk.0.attn_post_norm"
    assert tap_of(*node, {"post_attention_norm": "ffn_norm"}) == "blk.0.ffn_norm"


@pytest.mark.parametrize("stage", [*STAGES, *OF_SOME])
def test_llama_cpps_axes_are_among_the_usual_ones(stage):
    axes = axes_of(stage)
    assert axes in default_axes(stage, len(axes))
