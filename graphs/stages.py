"""The stage vocabulary: what a tensor is in a decoder, whatever the runtime."""

from __future__ import annotations

import re

BEFORE_BLOCKS = ("embed",)
IN_BLOCK = (
    "attn_norm",
    "q_proj",
    "k_proj",
    "v_proj",
    "q_norm",
    "k_norm",
    "q_rope",
    "k_rope",
    "attn_scores",
    "attn_probs",
    "attn_context",
    "o_proj",
    "attn_residual",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_act",
    "ffn_down",
    "ffn_residual",
)
AFTER_BLOCKS = ("final_norm", "logits")
LOGITS, SCORES = "logits", "attn_scores"
CACHES = {"k_cache": "k_rope", "v_cache": "v_proj"}  # what attention reads, of all steps, and what a step adds to it
STEP = "step"  # what a value of a graph without stages is called, with a number and an operator: `step.02.Mul`
STAGES = (*BEFORE_BLOCKS, *IN_BLOCK, *AFTER_BLOCKS)  # of a Llama, in one pass
# The stages that a Llama has not; with `STAGES` and `CACHES` the whole vocabulary.
BEFORE_SOME_BLOCKS = ("position_embed",)  # the embedding with that of the positions
EXPERTS = ("router_logits", "expert_choice", "router_weights", "expert_out", "shared_out")
IN_SOME_BLOCKS = ("attn_post_norm", *EXPERTS, "ffn_post_norm")
OF_SOME = (*BEFORE_SOME_BLOCKS, *IN_SOME_BLOCKS)

_COME_BEFORE = {
    SCORES: tuple(CACHES),
    "attn_residual": ("attn_post_norm",),
    "ffn_gate": EXPERTS,
    "ffn_residual": ("ffn_post_norm",),
}
_IN_ORDER = tuple(one for stage in IN_BLOCK for one in (*_COME_BEFORE.get(stage, ()), stage))
_OUTSIDE = (*BEFORE_BLOCKS, *BEFORE_SOME_BLOCKS, *IN_BLOCK, *AFTER_BLOCKS)
_BY_HEAD = ("q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "q_rope", "k_rope", "attn_context")
_SCORES = ("attn_scores", "attn_probs")
_LAST_AXIS = {"router_logits": "expert", "router_weights": "choice", "expert_choice": "choice"}

_TAP_NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w[\w.]*)")


def split_tap_name(name: str) -> tuple[int | None, str]:
    """`blk.3.q_rope` is (3, `q_rope`); `logits` is (None, `logits`). Any other text is a stage of its own."""
    match = _TAP_NAME.fullmatch(name)
    if match is None:
        return None, name
    block, stage = match.groups()
    return (None if block is None else int(block)), stage


def tap_name(stage: str, block: int | None) -> str:
    """The tap name of a stage, in a block or outside of one."""
    return stage if block is None else f"blk.{block}.{stage}"


def graph_order(name: str) -> tuple[int, int, str]:
    """A sort key that puts tap names in the order in which a decoder computes them.

    What stands on the way to a stage (`q_norm.02.Sqrt`) comes before it.
    """
    block, stage = split_tap_name(name)
    known, _, inner = stage.partition(".")
    among = _OUTSIDE if block is None else _IN_ORDER
    if inner and known in among:
        stage = known
    if block is None and known == STEP:
        return (0, 0, inner)
    if block is None:
        place = 2 * (len(_OUTSIDE) if stage not in _OUTSIDE else _OUTSIDE.index(stage))
        is_before = stage in (*BEFORE_BLOCKS, *BEFORE_SOME_BLOCKS)
        return (-1 if is_before else 1 << 30, place - bool(inner), inner or stage)
    return (block, 2 * _IN_ORDER.index(stage) - bool(inner) if stage in _IN_ORDER else -2, inner or stage)


def is_stage(name: str) -> bool:
    """Whether a tap name is one of the vocabulary, in a block where the stage belongs to one and outside where not."""
    block, stage = split_tap_name(name)
    return stage in (_OUTSIDE if block is None else _IN_ORDER) and (block is None) == (stage not in _IN_ORDER)


def default_axes(stage: str, n_dimensions: int) -> tuple[tuple[str, ...], ...]:
    """The axes that a value of a stage may have where nobody says: by its rank, the likelier first; none where it fits none.

    Heads may be split or not, and a batch may stand in front, whose dimension is then 1.
    """
    if stage in _SCORES:
        plain = ["head token key"]
    elif stage in CACHES:
        plain = ["slot head channel", "slot channel"]
    elif stage in _BY_HEAD:
        plain = ["token head channel", "token channel"]
    elif stage in _LAST_AXIS:
        plain = [f"token {_LAST_AXIS[stage]}"]
    else:
        plain = ["token vocab" if stage == "logits" else "token channel"]
    layouts = [tuple(words.split()) for words in (*plain, *(f"batch {words}" for words in plain))]
    return tuple(words for words in layouts if stage in (*STAGES, *CACHES, *OF_SOME) and len(words) == n_dimensions)
