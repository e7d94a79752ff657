"""llama.cpp's graph in opdiff's words: which node is which stage.

One table holds for all architectures. Names repeat there (`Qcur-0` is a product, a sum with the bias, and a rotation), and
some nodes have no name but `node_32`, whose number changes between versions. So what reads a weight is known by its op and that
weight, and all else by its op and name. Of a product and the sum with its bias, of the scores and the capped scores, both are the
stage, and the later one counts.

Source: llama.cpp's src/models/*.cpp and src/llama-graph.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ...graphs.stages import IN_BLOCK, IN_SOME_BLOCKS, tap_name

_LINEAR = {
    "attn_q": "q_proj",
    "attn_k": "k_proj",
    "attn_v": "v_proj",
    "attn_output": "o_proj",
    "ffn_gate": "ffn_gate",
    "ffn_up": "ffn_up",
    "ffn_down": "ffn_down",
}
_NORMS = {
    "attn_norm": "attn_norm",
    "attn_q_norm": "q_norm",
    "attn_k_norm": "k_norm",
    "ffn_norm": "ffn_norm",
    "post_attention_norm": "attn_post_norm",
    "post_ffw_norm": "ffn_post_norm",
    "output_norm": "final_norm",
}
_PRODUCTS = {**_LINEAR, "ffn_gate_inp": "router_logits", "ffn_down_shexp": "shared_out"}
_BY_WEIGHT = {
    ("GET_ROWS", "token_embd.weight"): "embed",
    ("MUL_MAT", "output.weight"): "logits",
    ("MUL_MAT", "token_embd.weight"): "logits",  # a tied head
    **{("MUL_MAT", f"{weight}.weight"): stage for weight, stage in _PRODUCTS.items()},
    **{("ADD", f"{weight}.bias"): stage for weight, stage in _PRODUCTS.items()},
    **{("MUL", f"{weight}.weight"): stage for weight, stage in _NORMS.items()},
    **{("ADD", f"{weight}.bias"): stage for weight, stage in _NORMS.items()},
}
_BY_NAME = {
    ("SCALE", "inp_scaled"): "embed",
    ("SCALE", "embd"): "embed",
    ("ADD", "inpL"): "position_embed",
    ("ROPE", "Qcur"): "q_rope",
    ("ROPE", "Kcur"): "k_rope",
    ("ROPE", "Qcur_pos"): "q_rope",
    ("ROPE", "Kcur_pos"): "k_rope",
    ("MUL_MAT", "kq"): "attn_scores",
    ("SCALE", "kq_scaled_2"): "attn_scores",  # capped
    ("SOFT_MAX", "kq_soft_max"): "attn_probs",
    ("CONT", "kqv_out"): "attn_context",
    ("ADD", "ffn_inp"): "attn_residual",
    ("ADD", "sa_out"): "attn_residual",
    ("SWIGLU", "ffn_swiglu"): "ffn_act",
    ("GEGLU", "ffn_geglu"): "ffn_act",
    ("GELU", "ffn_gelu"): "ffn_act",
    ("SQR", "ffn_sqr(relu)"): "ffn_act",
    ("XIELU", "ffn_xielu"): "ffn_act",
    ("VIEW", "ffn_moe_topk"): "expert_choice",
    ("GET_ROWS", "ffn_moe_weights"): "router_weights",
    ("RESHAPE", "ffn_moe_weights_softmax"): "router_weights",
    ("DIV", "ffn_moe_weights_norm"): "router_weights",
    ("SCALE", "ffn_moe_weights_scaled"): "router_weights",
    ("ADD", "ffn_moe_out"): "expert_out",
    ("CONT", "ffn_moe_out"): "expert_out",  # of one expert
    ("MUL", "ffn_shexp_out"): "shared_out",  # behind its gate
    ("ADD", "l_out"): "ffn_residual",
    ("SCALE", "result_output"): "logits",
}
_OF_QKV = {"Qcur": "q_proj", "Kcur": "k_proj", "Vcur": "v_proj"}  # views of the fused projection
_AXES = {
    **dict.fromkeys(("q_norm", "k_norm", "q_rope", "k_rope"), "token head channel"),
    **dict.fromkeys(("attn_scores", "attn_probs"), "head token key"),
    "router_logits": "token expert",
    **dict.fromkeys(("expert_choice", "router_weights"), "token choice"),
    "logits": "token vocab",
}


def tap_of(
    op: str, name: str, operands: Sequence[str], renamed: Mapping[str, str] = MappingProxyType({})
) -> str | None:
    """The tap that a node of llama.cpp's graph is; None: no stage. `attn_scores` is here still without scale and mask.

    Args:
        op: as `ggml_op_desc` has it: MUL_MAT, SWIGLU.
        name: the node's, `kq-3`.
        operands: the names of what it reads, weights among them.
        renamed: the weights that the architecture calls otherwise, `post_attention_norm`, and their usual names.
    """
    for operand in operands:
        block, _, weight = (
            operand.removeprefix("blk.").partition(".") if operand.startswith("blk.") else ("", "", operand)
        )
        part, _, kind = weight.partition(".")
        stage = _BY_WEIGHT.get((op, f"{renamed.get(part, part)}.{kind}"))
        if stage is not None:
            return _in(stage, block)
    stem, dash, block = name.rpartition("-")
    stem, block = (stem, block) if dash else (name, "")
    if op == "VIEW" and operands and operands[0].startswith("wqkv"):
        return _in(_OF_QKV.get(stem), block)
    return _in(_BY_NAME.get((op, stem)), block)


def axes_of(stage: str) -> tuple[str, ...]:
    """The axes in which llama.cpp has a stage, slowest first; the heads of what comes of a fused projection are split too."""
    return tuple(_AXES.get(stage, "token channel").split())


def _in(stage: str | None, block: str) -> str | None:
    """The tap name, where the stage is in a block if and only if its vocabulary says so."""
    if stage is None or (stage in (*IN_BLOCK, *IN_SOME_BLOCKS)) != block.isdecimal():
        return None
    return tap_name(stage, int(block) if block else None)
