"""The linear layers: `q_proj`, `k_proj`, `v_proj`, `o_proj`, `ffn_gate`, `ffn_up`, `ffn_down`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...graphs.errors import OpdiffError
from .activations import BLOCKS, left_over, mins_of, rounded_activations
from .case import Array
from .distance import distance
from .evaluate import Run, evaluate
from .fit import Question
from .heads import as_tapped, merged
from .norm import attention_part_input, ffn_input
from .registry import convention, model
from .rope import rotate_v_at_projection
from .rounding import helps_in_the_first_rows, rounded_rows
from .settings import Value

TENSORS = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "ffn_gate": "ffn_gate",
    "ffn_up": "ffn_up",
    "ffn_down": "ffn_down",
    "router_logits": "ffn_gate_inp",
}
STAGES = tuple(TENSORS)
FUSED = ("attn_q", "attn_k", "attn_v")
# The linear layers that a region may hold, by the stage at which it ends.
READ_ABOVE = {
    **{stage: (part,) for stage, part in TENSORS.items()},
    **{stage: ("attn_q",) for stage in ("q_norm", "q_rope")},
    **{stage: ("attn_k",) for stage in ("k_norm", "k_rope")},
    "attn_scores": ("attn_q", "attn_k"),
    "attn_context": ("attn_v",),
    "attn_residual": ("attn_output",),
    "attn_post_norm": ("attn_output",),
    "ffn_post_norm": ("ffn_down",),
    "ffn_act": ("ffn_gate", "ffn_up"),
    "ffn_residual": ("ffn_down",),
}
ROWS_AT_ONCE = 8192
SIEVED_COLUMNS = 8
NEAR = 0.25  # rounded weights and activations move an output by at most a few hundredths of it


@model("q_proj")
def q_proj(run: Run, block: int | None) -> Array:
    """[T, H, D], as the projection gives it."""
    return as_tapped(run, "q_proj", block, linear(run, block, "attn_q"))


@model("k_proj")
def k_proj(run: Run, block: int | None) -> Array:
    """[T, KV, D]."""
    return as_tapped(run, "k_proj", block, linear(run, block, "attn_k"))


@model("v_proj")
def v_proj(run: Run, block: int | None) -> Array:
    """[T, KV, D]."""
    v = as_tapped(run, "v_proj", block, linear(run, block, "attn_v"))
    return rotate_v_at_projection(run, block, v)


@model("o_proj")
def o_proj(run: Run, block: int | None) -> Array:
    """[T, C], from the merged heads."""
    return linear(run, block, "attn_output")


@model("router_logits")
def router_logits(run: Run, block: int | None) -> Array:
    """[T, E]."""
    return linear(run, block, "ffn_gate_inp")


@model("ffn_down")
def ffn_down(run: Run, block: int | None) -> Array:
    """[T, C]."""
    return linear(run, block, "ffn_down")


def linear(run: Run, block: int | None, part: str) -> Array:
    """A linear layer's input [T, in] times the weight that the settings say, with its bias: [T, out]."""
    if part in FUSED and run.setting("linear.fused") != "own":
        return _read_otherwise(run, block, part)
    bias = run.setting("linear.bias") if f"blk.{block}.{part}.bias" in run.case.weights else "missing"
    tensor = _tensor_read(run, block, part)
    y = run.step(
        f"{part} of {block} @ {tensor}",
        lambda: product(run, layer_input(run, block, part), tensor, part, _layout(run)),
    )
    if bias != "missing":
        stored = run.tensor(f"blk.{block}.{part}.bias")
        y = y + _BIAS_TIMES[str(bias)] * np.asarray(in_row_order(run, part, stored), np.float64)
    return y


def _read_otherwise(run: Run, block: int | None, part: str) -> Array:
    """q, k or v where their fused matrix is cut in another way than it was put together: [T, out]."""
    config, x = run.config, layer_input(run, block, part)
    parts = [run.tensor(f"blk.{block}.{one}.weight") for one in FUSED]
    biases = [f"blk.{block}.{one}.bias" for one in FUSED]
    group = (config.n_heads // config.n_kv_heads, 1, 1)  # heads of q, k and v that go together
    rows = np.concatenate([np.arange(one.shape[0]) + n for n, one in zip(_starts(parts), parts, strict=True)])
    by_group = np.concatenate(
        [
            one.reshape(config.n_kv_heads, n, config.head_dim)
            for one, n in zip(np.split(rows, _starts(parts)[1:]), group, strict=True)
        ],
        axis=1,
    ).reshape(-1)
    # position -> row of [q | k | v], as it is put together; and what is read as q, k or v
    is_by_head = run.setting("linear.fused") == "by_head_as_parts"
    put, cut = (by_group, rows) if is_by_head else (rows, by_group)
    own = _starts(parts)[FUSED.index(part)] + np.arange(parts[FUSED.index(part)].shape[0])
    wanted = put[np.argsort(cut)][own]
    y = run.case.multiply(x, np.concatenate(parts)[wanted])
    run.memo.n_multiplied += len(wanted) * x.shape[-1]
    if biases[0] in run.case.weights:
        y = y + np.concatenate([np.asarray(run.tensor(one), np.float64) for one in biases])[wanted]
    return y


def _starts(parts: Sequence[NDArray[Any]]) -> NDArray[np.intp]:
    return np.cumsum([0, *(len(one) for one in parts[:-1])])


@convention("linear.fused", ("q_proj", "k_proj", "v_proj"), "own", rank=2)
def fused(question: Question) -> Iterator[Value]:
    """How q, k and v are cut out of one fused matrix: as it was put together; head by head, each with its q, k and v, read as
    one part after the other (by_head_as_parts); or the reverse (parts_as_by_head).
    """
    case = question.case
    if all(f"blk.{case.block}.{one}.weight" in case.weights for one in FUSED):
        yield from ("by_head_as_parts", "parts_as_by_head")


_BIAS_TIMES = {"added": 1.0, "twice": 2.0}


def product(run: Run, x: Array, tensor: str, part: str = "", layout: str = "out_in") -> Array:
    """x, rounded as the settings say, times the tensor W, its rows in the order of `part`: [T, out].

    x @ W.T in float64, W rounded a part at a time, and to that what W's minima bring in Q8_1; or as the layout says.
    """
    weight, rounded = in_row_order(run, part, run.tensor(tensor)), rounded_activations(run, x)
    n_out, n_in = weight.shape
    run.memo.n_multiplied += weight.size
    if layout == ("transposed" if n_out == n_in else "reinterpreted"):
        return rounded @ rounded_rows(run, weight).reshape(n_in, n_out)
    if run.setting("linear.weight") == "as_stored":
        y = run.case.multiply(rounded, weight)
    else:
        parts = (weight[start : start + ROWS_AT_ONCE] for start in range(0, n_out, ROWS_AT_ONCE))
        y = np.concatenate([rounded @ rounded_rows(run, rows).T for rows in parts], axis=1)
    if run.setting("linear.activations") == "q8_1":
        mins = in_row_order(run, part, mins_of(run, tensor))
        y = y + run.case.multiply(left_over(x), mins)
    return y


def _layout(run: Run) -> str:
    return str(run.setting("linear.layout"))


@convention("linear.layout", STAGES, "out_in")
def layout(question: Question) -> Iterator[Value]:
    """How a weight [out, in] is multiplied: x @ W.T; transposed: a square W as x @ W, the others rightly;
    reinterpreted: the buffer of a W that is not square read as [in, out].
    """
    yield from ("transposed", "reinterpreted")


@convention("linear.bias", STAGES, "added")
def bias(question: Question) -> Iterator[Value]:
    """What becomes of the checkpoint's bias: added, missing, or added twice."""
    yield from ("missing", "twice")


@convention("linear.rows", ("q_proj", "k_proj"), "as_stored")
def order(question: Question) -> Iterator[Value]:
    """The order of each head's rows in attn_q and attn_k: as stored; interleaved: row i and row i + D/2 brought side by
    side, as the conversion of Llama to GGUF does; split: the reverse.
    """
    yield from ("interleaved", "split")


def in_row_order(run: Run, part: str, stored: NDArray[Any]) -> NDArray[Any]:
    """A weight [out, in] or a bias [out] of attn_q or attn_k, its rows in the order that the settings say."""
    if part not in ("attn_q", "attn_k") or run.setting("linear.rows") == "as_stored":
        return stored
    return stored[row_order(run, part, stored.shape[0])]


def row_order(run: Run, part: str, n_out: int) -> NDArray[np.intp]:
    """Which output each output is taken from, int [out]. Source: LlamaModel.permute in convert_hf_to_gguf.py."""
    rows, chosen = np.arange(n_out), run.setting("linear.rows")
    if chosen == "as_stored" or n_out % run.config.head_dim:
        return rows
    half = run.config.head_dim // 2
    inner = (2, half) if chosen == "interleaved" else (half, 2)
    return rows.reshape(-1, *inner).swapaxes(1, 2).reshape(-1)


@convention("linear.tensor", STAGES, "own", rank=1)
def weight(question: Question) -> Iterator[Value]:
    """Which tensor is multiplied: its own, or another of the same shape: `attn_k <- attn_v` within the block; or that of
    another block.
    """
    for part in READ_ABOVE.get(question.case.stage, ()):
        yield from (f"{part} <- {other}" for other in _siblings(question, part))
    yield from _other_blocks(question)


def _siblings(question: Question, part: str) -> Iterator[str]:
    """The block's other linear tensors of the same shape."""
    weights, block = question.case.weights, question.case.block
    own = f"blk.{block}.{part}.weight"
    if own not in weights:
        return
    for other in TENSORS.values():
        name = f"blk.{block}.{other}.weight"
        if other != part and name in weights and weights[name].shape == weights[own].shape:
            yield other


def _other_blocks(question: Question) -> Iterator[str]:
    """The same projection of the other blocks, as far as a few columns of the output agree."""
    case, part = question.case, TENSORS.get(question.case.stage)
    for name in case.others(f"{part}.weight") if part else ():
        if _agrees_in_a_few_columns(question, part or "", name):
            yield f"{part} <- {name.removesuffix('.weight')}"


def _agrees_in_a_few_columns(question: Question, part: str, name: str) -> bool:
    case, run = question.case, question.run()
    stored = case.weights[name]
    if stored.shape != case.weights[f"blk.{case.block}.{part}.weight"].shape:
        return False
    square = _layout(run) == "transposed" and stored.shape[0] == stored.shape[1]
    columns = row_order(run, part, stored.shape[0])[:SIEVED_COLUMNS]
    few = stored[:, columns].T if square else stored[columns]
    predicted = rounded_activations(run, layer_input(run, case.block, part)) @ np.asarray(few, np.float64).T
    if f"blk.{case.block}.{part}.bias" in case.weights and run.setting("linear.bias") != "missing":
        times = _BIAS_TIMES[str(run.setting("linear.bias"))]
        predicted = predicted + times * np.asarray(case.weights[f"blk.{case.block}.{part}.bias"], np.float64)[columns]
    measured = question.output.reshape(len(case.tokens), -1)[:, :SIEVED_COLUMNS]
    return distance(predicted, measured) < NEAR


@convention("linear.activations", (*STAGES, "logits"), "exact", rank=1)
def activations(question: Question) -> Iterator[Value]:
    """What the rows that a linear layer or the head multiplies are rounded to first, as ggml does on x86: exact, not at
    all; q8_0; q8_1, for weights with block minima; q8_k; float16; bfloat16.

    Not tried far from the output, so it comes after the conventions beside which it may stand.
    """
    case, length = question.case, _row_length(question)
    if case.stage != "logits" and not _is_near(question):
        return
    for kind, block in BLOCKS.items():
        if length % block == 0 and _is_worth_a_try(question, kind):
            yield kind


def _is_near(question: Question) -> bool:
    case = question.case
    return distance(evaluate(case, case.target, question.settings, question.memo), question.output) < NEAR


def _is_worth_a_try(question: Question, kind: str) -> bool:
    """Whether it helps at a few logits; elsewhere, whether the weights have the minima that Q8_1 wants."""
    if question.case.stage == "logits":
        return helps_in_the_first_rows(question, "linear.activations", kind)
    if kind == "q8_1":
        try:
            question.predict("linear.activations", kind)
        except OpdiffError:
            return False
    return True


def _row_length(question: Question) -> int:
    """How many numbers the rows have that the region's linear layer multiplies."""
    config = question.case.config
    lengths = {"o_proj": config.n_heads * config.head_dim, "ffn_down": config.ffn_width}
    lengths |= {"attn_residual": lengths["o_proj"], "ffn_residual": lengths["ffn_down"]}
    return lengths.get(question.case.stage, config.width)


def layer_input(run: Run, block: int | None, part: str) -> Array:
    """What a linear layer reads, [T, in]."""
    if part == "attn_output":
        return merged(run, run.tap("attn_context", block))
    if part == "ffn_down":
        return run.tap("ffn_act", block)
    return ffn_input(run, block) if part.startswith("ffn_") else attention_part_input(run, block)


def _tensor_read(run: Run, block: int | None, part: str) -> str:
    """The name of the tensor that a linear layer multiplies by."""
    chosen = str(run.setting("linear.tensor"))
    own, _, other = chosen.partition(" <- ")
    if chosen == "own" or own != part:
        return f"blk.{block}.{part}.weight"
    return f"{other}.weight" if other.startswith("blk.") else f"blk.{block}.{other}.weight"
