"""The residual stream: `attn_residual`, `ffn_residual`."""

from __future__ import annotations

from collections.abc import Iterator

from .case import Array
from .evaluate import Run
from .fit import Fitted, Question, solve
from .norm import block_input, ffn_output
from .registry import convention, model
from .settings import Value

STAGES = ("attn_residual", "ffn_residual")


@model("attn_residual")
def attn_residual(run: Run, block: int | None) -> Array:
    """The block's input plus the attention's output: [T, C]."""
    return _sum(run, block, "attn", _attended(run, block))


@model("ffn_residual")
def ffn_residual(run: Run, block: int | None) -> Array:
    """The stream after attention, or the block's input and attention's output, plus the feed-forward network's output: [T, C]."""
    branch = run.tap("ffn_post_norm", block) if _is_normed_after(run) else ffn_output(run, block)
    return _sum(run, block, "ffn", branch)


def _attended(run: Run, block: int | None) -> Array:
    """What attention adds to the stream."""
    return run.tap("attn_post_norm" if _is_normed_after(run) else "o_proj", block)


def _is_normed_after(run: Run) -> bool:
    return run.config.norm_place != "before"


def _sum(run: Run, block: int | None, part: str, branch: Array) -> Array:
    branch = branch * run.number("residual.branch_scale")
    source = run.setting(f"residual.{part}")
    if source == "missing":
        return branch
    if source == "normed":
        stream = run.tap(f"{part}_norm", block)
    elif source == "block_input" or part == "attn":
        stream = block_input(run, block)
    else:
        stream = run.tap("attn_residual", block)  # of a parallel block too, where it is no tap
    return stream * run.number("residual.stream_scale") + branch


@convention("residual.attn", ("attn_residual",), "stream")
def attention_source(question: Question) -> Iterator[Value]:
    """What attention's output is added to: the stream; normed, what attn_norm put out; or nothing (missing)."""
    yield from ("missing", "normed")


@convention("residual.ffn", ("ffn_residual",), "stream")
def feed_forward_source(question: Question) -> Iterator[Value]:
    """What the feed-forward network's output is added to: the stream; normed, what ffn_norm put out; block_input, the
    stream before attention; or nothing (missing).
    """
    yield from ("missing", "normed", "block_input")


@convention("residual.branch_scale", STAGES, lambda config: float(config.residual_scale), rank=1)
def branch_scale(question: Question) -> Iterator[Value]:
    """What the branch is multiplied by before it is added; 0 where it is left out."""
    yield from (1.0, 0.0, 2.0)


@branch_scale.fitted
def solved_branch_scale(question: Question) -> Iterator[Fitted]:
    """Solved: the sum is linear in it."""
    yield from solve(question, "residual.branch_scale", [0.5])


@convention("residual.stream_scale", STAGES, 1.0, rank=1)
def stream_scale(question: Question) -> Iterator[Value]:
    """What the stream is multiplied by before the branch is added."""
    yield 2.0


@stream_scale.fitted
def solved_stream_scale(question: Question) -> Iterator[Fitted]:
    """Solved: the sum is linear in it."""
    yield from solve(question, "residual.stream_scale", [0.5])


@convention(
    "residual.parallel", ("ffn_norm", "ffn_gate", "ffn_up"), lambda config: "no" if config.parallel == "no" else "yes"
)
def parallel(question: Question) -> Iterator[Value]:
    """Whether the feed-forward network of a parallel block reads the block's input, or (no) the stream after attention."""
    yield "no"
