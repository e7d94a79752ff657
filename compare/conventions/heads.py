"""How the projections' channels become heads, and heads become channels again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .case import Array
from .evaluate import Run
from .fit import Question
from .registry import convention
from .settings import Value


@convention(
    "heads.split",
    ("q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "q_rope", "k_rope", "v_cache", "attn_context"),
    "by_token",
)
def split(question: Question) -> Iterator[Value]:
    """How [T, H*D] becomes heads: by token; or untransposed: reshaped at once to [H, T, D], right for one token only.

    It shows at the projection's own tap where that lies behind the reshape, otherwise at the stage that reads it.
    """
    yield "untransposed"


@convention("heads.merge", ("attn_context", "o_proj"), "by_token")
def merge(question: Question) -> Iterator[Value]:
    """How the heads [H, T, D] become [T, H*D]: by token; or untransposed: reshaped at once, right for one token only.

    It shows at attn_context where that tap lies behind the reshape, otherwise at o_proj.
    """
    yield "untransposed"


def as_tapped(run: Run, stage: str, block: int | None, flat: Array) -> Array:
    """A projection [T, H*D] as heads [T, H, D]: mixed up only where the region ends here, else by who reads it."""
    value = run.case.canonical(stage, flat)
    return _untransposed(run, value) if run.is_target(stage, block) and _is_split_wrongly(run) else value


def read_heads(run: Run, stage: str, block: int | None) -> Array:
    """A projection's heads as the stage behind it reads them: [T, H, D]."""
    value = run.tap(stage, block)
    return _untransposed(run, value) if _is_split_wrongly(run) else value


def _untransposed(run: Run, value: Array) -> Array:
    """Each step's rows so."""
    return np.concatenate([untransposed(value[start:end]) for start, end in run.case.steps])


def untransposed(value: Array) -> Array:
    """[T, H, D] laid out by token, its memory read as [H, T, D], and that as [T, H, D] again."""
    length, heads, dim = value.shape
    return value.reshape(heads, length, dim).transpose(1, 0, 2)


def merged(run: Run, context: Array) -> Array:
    """The heads [T, H, D] as channels [T, H*D]."""
    length = len(run.case.tokens)
    if run.setting("heads.merge") != "untransposed":
        return context.reshape(length, -1)
    steps = (context[start:end] for start, end in run.case.steps)
    return np.concatenate([step.transpose(1, 0, 2).reshape(len(step), -1) for step in steps])


def _is_split_wrongly(run: Run) -> bool:
    return run.setting("heads.split") == "untransposed"
