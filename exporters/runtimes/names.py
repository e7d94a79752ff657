"""llama.cpp's graph in opdiff's words: which node is which stage.

One table holds for the architectures llama, qwen2 and qwen3. Names repeat there (`Qcur-0` is a product, a sum with the
bias, and a rotation), and some nodes have no name but `node_32`, whose number changes between versions. So what reads a
weight is known by its op and that weight, and all else by its op and name. Of a product and the sum with its bias both
are the stage, and the later one counts.

Source: llama.cpp's src/models/llama.cpp, qwen2.cpp and qwen3.cpp; src/llama-graph.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...graphs.stages import IN_BLOCK, tap_name

_LINEAR = {
    "attn_q": "q_proj",
    "attn_k": "k_proj",
    "attn_v": "v_proj",
    "attn_output": "o_proj",
    "ffn_gate": "ffn_gate",
    "ffn_up": "ffn_up",
    "ffn_down": "ffn_down",
}
_GAINS = {"attn_norm": "attn_norm", "attn_q_norm": "q_norm", "attn_k_norm": "k_norm", "ffn_norm": "ffn_norm"}
_BY_WEIGHT = {
    ("GET_ROWS", "token_embd.weight"): "embed",
    ("MUL", "output_norm.weight"): "final_norm",
    ("MUL_MAT", "output.weight"): "logits",
    ("MUL_MAT", "token_embd.weight"): "logits",  # a tied head
    **{("MUL_MAT", f"{weight}.weight"): stage for weight, stage in _LINEAR.items()},
    **{("ADD", f"{weight}.bias"): stage for weight, stage in _LINEAR.items()},
    **{("MUL", f"{weight}.weight"): stage for weight, stage in _GAINS.items()},
}
_BY_NAME = {
    ("ROPE", "Qcur"): "q_rope",
    ("ROPE", "Kcur"): "k_rope",
    ("MUL_MAT", "kq"): "attn_scores",
    ("SOFT_MAX", "kq_soft_max"): "attn_probs",
    ("CONT", "kqv_out"): "attn_context",
    ("ADD", "ffn_inp"): "attn_residual",
    ("SWIGLU", "ffn_swiglu"): "ffn_act",
    ("ADD", "l_out"): "ffn_residual",
}
_AXES = {
    **dict.fromkeys(("q_norm", "k_norm", "q_rope", "k_rope"), "token head channel"),
    **dict.fromkeys(("attn_scores", "attn_probs"), "head token key"),
    "logits": "token vocab",
}


def tap_of(op: str, name: str, operands: Iterable[str]) -> str | None:
    """The tap that a node of llama.cpp's graph is; None: no stage. `attn_scores` is here still without scale and mask.

    Args:
        op: as `ggml_op_desc` has it: MUL_MAT, SWIGLU.
        name: the node's, `kq-3`.
        operands: the names of what it reads, weights among them.
    """
    for operand in operands:
        block, _, weight = (
            operand.removeprefix("blk.").partition(".") if operand.startswith("blk.") else ("", "", operand)
        )
        stage = _BY_WEIGHT.get((op, weight))
        if stage is not None:
            return _in(stage, block)
    stem, _, block = name.rpartition("-")
    stage = _BY_NAME.get((op, stem))
    return None if stage is None else _in(stage, block)


def axes_of(stage: str) -> tuple[str, ...]:
    """The axes in which llama.cpp has a stage, slowest first."""
    return tuple(_AXES.get(stage, "token channel").split())


def _in(stage: str, block: str) -> str | None:
    """The tap name, where the stage is in a block if and only if its vocabulary says so."""
    if (stage in IN_BLOCK) != block.isdecimal():
        return None
    return tap_name(stage, int(block) if block else None)
