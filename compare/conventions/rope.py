"""The rotary position embedding: `q_rope`, `k_rope`, and v where a runtime rotates that too."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...graphs.decoder_config import DecoderConfig
from .case import Array
from .evaluate import Run
from .fit import Fitted, Question
from .registry import convention, model
from .rope_frequencies import amplitude, frequencies, offset_at
from .rotation import PAIRINGS, rope_input, rotary_dim_of, rotate
from .settings import AS_CONFIGURED, Value

STAGES = ("q_rope", "k_rope")
ON_V_STAGES = ("v_proj", "attn_context")
ROTATING_STAGES = (*STAGES, *ON_V_STAGES)
OFF_BY = "off_by_"


@model("q_rope")
def q_rope(run: Run, block: int | None) -> Array:
    """[T, H, D]."""
    return _rope(run, "q", block)


@model("k_rope")
def k_rope(run: Run, block: int | None) -> Array:
    """[T, KV, D]."""
    return _rope(run, "k", block)


def _rope(run: Run, side: str, block: int | None) -> Array:
    return rotated(run, block, rope_input(run, side, block))


def rotate_v_at_projection(run: Run, block: int | None, v: Array) -> Array:
    """v [T, KV, D], rotated where a runtime does that and its tap lies behind it."""
    return rotated(run, block, v) if run.is_target("v_proj", block) and run.setting("rope.on_v") == "yes" else v


def rotate_v_in_attention(run: Run, block: int | None, v: Array) -> Array:
    """v [T, KV, D] as the context is made of it."""
    return rotated(run, block, v) if run.setting("rope.on_v") == "yes" else v


def rotated(run: Run, block: int | None, x: Array, positions: Array | None = None) -> Array:
    """Rotate the pairs of each head of x [T, heads, D] by position times frequency.

    positions: [T]; None: what the settings say.
    """
    if not _is_applied(run, block):
        return x
    width, denominator = rotary_dim_of(run)
    speeds = frequencies(run, block, width, denominator)  # [R/2]
    by_head = positions is None and run.setting("rope.position_axis") == "head"
    if positions is None:
        positions = np.arange(x.shape[1], dtype=np.float64) if by_head else _positions(run, len(x))
    sign = -1.0 if run.setting("rope.direction") == "inverse" else 1.0
    angles = sign * (positions[:, None] + run.number("rope.offset")) * speeds  # [T, R/2]
    angles = angles[None] if by_head else angles[:, None]
    turned, factor = rotate(x[..., :width], angles, str(run.setting("rope.pairing"))), amplitude(run, block)
    turned = turned if factor == 1 else turned * factor
    return np.concatenate([turned, x[..., width:]], axis=-1)


def _is_applied(run: Run, block: int | None) -> bool:
    chosen = run.setting("rope.applied")
    return run.config.is_rotated(block or 0) if chosen == AS_CONFIGURED else chosen == "yes"


def _positions(run: Run, length: int) -> Array:
    """The position of each row, as each step counts it."""
    first = run.case.first_position
    positions = np.arange(first, first + length, dtype=np.float64)
    chosen = run.setting("rope.positions") if len(run.case.steps) > 1 else "absolute"
    for start, end in run.case.steps:
        if chosen == "from_each_step":
            positions[start:end] -= start
        elif chosen == "that_of_the_step":
            positions[start:end] = first + start
        elif str(chosen).startswith(OFF_BY) and start:
            positions[start:end] += int(str(chosen).removeprefix(OFF_BY))
    return positions


@convention("rope.positions", ROTATING_STAGES, "absolute")
def positions(question: Question) -> Iterator[Value]:
    """From where a later step counts its positions: from the prompt's beginning; from_each_step, from 0 again;
    that_of_the_step, all tokens at its first one's; or so many off behind the first step.
    """
    if len(question.case.steps) > 1:
        yield from ("from_each_step", "that_of_the_step")
        yield from (f"{OFF_BY}{n}" for n in (-1, 1, -2, 2))


@positions.fitted
def counted_positions(question: Question) -> Iterator[Fitted]:
    """So many off behind the first step, as where padding is counted: by the angles of the second step's first position."""
    n = offset_at(question, question.case.steps[1][0]) if len(question.case.steps) > 1 else None
    if n:
        yield Fitted((f"{OFF_BY}{n}",))


@convention("rope.pairing", ROTATING_STAGES, lambda config: config.pairing)
def pairing(question: Question) -> Iterator[Value]:
    """Which channels are rotated together: (i, i + D/2) half-split, or (2i, 2i + 1) interleaved; or one of these with
    the table of angles laid out for the other.
    """
    yield from PAIRINGS


def _standard_rotation(config: DecoderConfig) -> Value:
    return "no" if config.positions != "rotary" else AS_CONFIGURED if config.rotates else "yes"


def _rotating(config: DecoderConfig) -> str:
    return f"yes in {sum(config.rotates[: config.n_blocks])} of {config.n_blocks} blocks"


@convention("rope.applied", ROTATING_STAGES, _standard_rotation, configured=_rotating)
def applied(question: Question) -> Iterator[Value]:
    """Whether q and k are rotated: in all blocks, in none, or in those in which the configuration says so."""
    yield from ("no", "yes")


@convention("rope.direction", ROTATING_STAGES, "forward")
def direction(question: Question) -> Iterator[Value]:
    """The sense of the rotation: (a cos - b sin, b cos + a sin), or the inverse, as with the sine's sign wrong."""
    yield "inverse"


def _standard_width(config: DecoderConfig) -> Value:
    return "head_dim" if config.rotary_dim is None else (config.rotary_dim, config.rotary_dim)


@convention("rope.rotary_dim", ROTATING_STAGES, _standard_width, rank=1)
def rotary_dim(question: Question) -> Iterator[Value]:
    """How many of a head's channels are rotated, and the dimension in the exponent of their frequencies: (R, R) or
    (R, D); (D, d) rotates all of them with the exponents of another head dim d; (D, d, n) only the first n pairs of the
    whole head, a pair being (i, i + D/2) or (2i, 2i + 1) of it.
    """
    dim, config = question.case.config.head_dim, question.case.config
    narrow = config.width // config.n_heads
    yield "head_dim"
    for width in dict.fromkeys([dim // 2, dim // 4, 3 * dim // 4, narrow]):
        if 0 < width < dim and width % 2 == 0:
            yield from ((width, width), (width, dim), (dim, dim, width // 2), (dim, width, width // 2))
    yield from ((dim, other) for other in dict.fromkeys([narrow, 2 * dim, dim // 2]) if other not in (0, dim))


@convention("rope.position_axis", ROTATING_STAGES, "token", rank=2)
def position_axis(question: Question) -> Iterator[Value]:
    """Which axis of [T, heads, D] counts the positions: the tokens, or by mistake the heads."""
    yield "head"


@convention("rope.on_v", ON_V_STAGES, "no", rank=1)
def on_v(question: Question) -> Iterator[Value]:
    """Whether v is rotated as q and k are; seen at v_proj or, where that tap lies before it, at attn_context."""
    yield "yes"
