"""Rotating the pairs of a head, and what is rotated."""

from __future__ import annotations

import numpy as np

from .case import Array
from .evaluate import Run
from .heads import read_heads


def rope_input(run: Run, side: str, block: int | None) -> Array:
    """What is rotated: the normed heads, or those of the projection where the norm comes after; clipped where they are."""
    if run.config.qk_norm and run.setting("qk_norm.place") == "after_rope":
        return read_heads(run, f"{side}_proj", block)
    return clipped(run, run.tap(f"{side}_norm", block))


def v_read(run: Run, block: int | None) -> Array:
    """The heads of v as the cache, or attention, takes them: [T, KV, D]."""
    return clipped(run, read_heads(run, "v_proj", block))


def clipped(run: Run, x: Array) -> Array:
    """x with no value larger than the limit in size, where there is one."""
    most = None if run.config.clip_qkv is None else run.setting("attention.clip")
    return x if most is None else np.clip(x, -float(most), float(most))  # type: ignore[arg-type]


def attention_input(run: Run, side: str, block: int | None) -> Array:
    """What the scores are made of: the rotated heads, or the normed ones where the norm comes after."""
    after = run.config.qk_norm and run.setting("qk_norm.place") == "after_rope"
    return run.tap(f"{side}_norm" if after else f"{side}_rope", block)


def rotate(x: Array, angles: Array, pairing: str) -> Array:
    """x [..., R] by angles [..., R/2]: a pair (a, b) becomes (a cos - b sin, b cos + a sin)."""
    pairs, table = PAIRINGS[pairing]
    spread = np.concatenate([angles, angles], -1) if table == "half_split" else np.repeat(angles, 2, axis=-1)
    if pairs == "half_split":
        first, second = np.split(x, 2, axis=-1)
        turned = np.concatenate([-second, first], axis=-1)
    else:
        turned = np.stack([-x[..., 1::2], x[..., 0::2]], axis=-1).reshape(x.shape)
    return np.asarray(x * np.cos(spread) + turned * np.sin(spread))


# How pairs are formed, and how the angles are spread over the channels.
PAIRINGS = {
    "half_split": ("half_split", "half_split"),
    "interleaved": ("interleaved", "interleaved"),
    "half_split_with_interleaved_angles": ("half_split", "interleaved"),
    "interleaved_with_half_split_angles": ("interleaved", "half_split"),
}


def rotary_dim_of(run: Run) -> tuple[int, int]:
    """How many channels are rotated, and the dimension that their frequencies are spread over."""
    chosen = run.setting("rope.rotary_dim")
    if chosen == "head_dim":
        return run.config.head_dim, run.config.head_dim
    assert isinstance(chosen, tuple)
    width, denominator, *_ = (int(part) for part in chosen if isinstance(part, int))
    return width, denominator


def n_turning(run: Run) -> int | None:
    """How many pairs are turned, where it is not all of those that are rotated."""
    chosen = run.setting("rope.rotary_dim")
    return int(str(chosen[2])) if isinstance(chosen, tuple) and len(chosen) > 2 else None


def as_complex(x: Array, pairs: str) -> np.ndarray:
    """[T, heads, D] as [T, heads, D/2], each pair one complex number."""
    if pairs == "interleaved":
        return np.asarray(x[..., 0::2] + 1j * x[..., 1::2])
    first, second = np.split(x, 2, axis=-1)
    return np.asarray(first + 1j * second)
