"""The KV cache: `k_cache` and `v_cache`, what attention reads of all steps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .case import Array, Case
from .evaluate import Run
from .fit import Fitted, Question
from .registry import convention, model
from .rope import rotated
from .rotation import attention_input, v_read
from .rounding import ROUNDINGS
from .settings import Value

STAGES = ("k_cache", "v_cache")
KEYS = ("k_cache",)
TOO_FAR = "too_far_by_"
PRODUCTS = "_products"


@model("k_cache")
def k_cache(run: Run, block: int | None) -> Array:
    """The keys at the end of each step that is looked at: 0 to the first end, 0 to the second, ...: [sum of ends, KV, D]."""
    chosen = run.setting("cache.rotation")
    if chosen == "missing":
        return _at_ends(run, run.tap("k_norm", block), "once", block)
    return _at_ends(run, attention_input(run, "k", block), chosen, block)


@model("v_cache")
def v_cache(run: Run, block: int | None) -> Array:
    """The values likewise."""
    return _at_ends(run, v_read(run, block), "once", block)


def keys_read(run: Run, block: int | None) -> list[Array]:
    """The keys [K, KV, D] that each step reads."""
    return _read(run, "k_cache", block) if run.case.has_cache else _rows(run, attention_input(run, "k", block))


def values_read(run: Run, block: int | None) -> list[Array]:
    """The values [K, KV, D] that each step reads."""
    return _read(run, "v_cache", block) if run.case.has_cache else _rows(run, v_read(run, block))


def _rows(run: Run, rows: Array) -> list[Array]:
    """What each step reads where the cache is no stage: the rows, as a cache holds them."""
    stored = _stored(run, rows)
    return [stored[:end] for _, end in run.case.steps]


def _read(run: Run, stage: str, block: int | None) -> list[Array]:
    """What each step reads of the cache."""
    cache, ends = run.tap(stage, block), run.case.looked_at
    starts = {end: sum(ends[:n]) for n, end in enumerate(ends)}
    return [cache[starts[end] : starts[end] + end] for _, end in run.case.steps]


def _at_ends(run: Run, rows: Array, rotation: Value, block: int | None) -> Array:
    """Rows [T, KV, D], written step by step; what the cache is at each end, with zeros for what is not written."""
    stored, ends = _stored(run, rows), run.case.looked_at
    slots, ring = run.setting("cache.slot"), run.setting("cache.ring")
    cache = np.zeros((0, *rows.shape[1:]))
    looks = []
    for n, (start, end) in enumerate(run.case.steps):
        if rotation == "again_in_each_step":
            cache = rotated(run, block, cache)
        cache = _written(cache, stored[start:end], start, str(slots) if n else "in_order", ring)
        read = _turned(run, block, cache, rotation)
        looks += [_first(read, look) for look in ends if start < look <= end]
    return np.concatenate(looks)


def _written(cache: Array, new: Array, start: int, slots: str, ring: Value) -> Array:
    """The cache with the rows of one step."""
    end = start + len(new)
    if slots == "not_stored":
        return cache
    if slots == "last_dropped":
        return np.concatenate([cache[:-1], new])
    if slots == "stored_twice":
        return np.concatenate([cache, new, new])
    places = np.arange(start, end) + {"one_early": -1, "one_late": 1, "first_slots": -start}.get(slots, 0)
    places = places if ring is None else places % int(ring)  # type: ignore[arg-type]
    made = np.zeros((max(len(cache), int(places.max()) + 1), *new.shape[1:]))
    made[: len(cache)] = cache
    made[places] = new
    return made


def _turned(run: Run, block: int | None, cache: Array, rotation: Value) -> Array:
    if rotation == "again_when_read":
        return rotated(run, block, cache)
    if str(rotation).startswith(TOO_FAR):
        return rotated(run, block, cache, positions=np.full(len(cache), float(str(rotation).removeprefix(TOO_FAR))))
    return cache


def _first(cache: Array, n: int) -> Array:
    rows = cache[:n]
    return rows if len(rows) == n else np.concatenate([rows, np.zeros((n - len(rows), *rows.shape[1:]))])


def _stored(run: Run, rows: Array) -> Array:
    """Rows in the type in which the cache holds them; Q8_0 in blocks of 32 along a token's heads."""
    kind = str(run.setting("cache.precision"))
    if kind == "as_computed":
        return rows
    rounded = ROUNDINGS[kind.removesuffix(PRODUCTS)](rows.reshape(len(rows), -1))
    return np.asarray(rounded, np.float64).reshape(rows.shape)


def as_multiplied(run: Run, x: Array) -> Array:
    """What is multiplied with a cache, [..., channel]: in the cache's own type, where the product is taken in that."""
    kind = str(run.setting("cache.precision"))
    return np.asarray(ROUNDINGS[kind.removesuffix(PRODUCTS)](x), np.float64) if kind.endswith(PRODUCTS) else x


def in_steps(case: Case) -> bool:
    """Whether there is more than one step, so that anything can be different in a later one."""
    return len(case.steps) > 1


@convention("cache.precision", (*STAGES, "attn_scores", "attn_context"), "as_computed", rank=1)
def precision(question: Question) -> Iterator[Value]:
    """The type in which the cache holds keys and values: as they are computed, float16, bfloat16, or Q8_0; float16_products
    and so on, where what is multiplied with them is in that type too, as ggml does it.

    It shows at the cache, or where that is no stage, at what reads it.
    """
    yield from ROUNDINGS
    if question.case.stage not in STAGES:
        yield from (f"{kind}{PRODUCTS}" for kind in ROUNDINGS)


@convention("cache.slot", STAGES, "in_order")
def slot(question: Question) -> Iterator[Value]:
    """Where a later step writes its rows: in order; one slot early, over the last one; one late, leaving a gap; in the
    first slots, as if nothing were there; behind all but the last, which is dropped; twice; or not at all.
    """
    if in_steps(question.case):
        yield from ("one_early", "one_late", "first_slots", "last_dropped", "stored_twice", "not_stored")


@convention("cache.ring", STAGES, None, rank=1)
def ring(question: Question) -> Iterator[Value]:
    """After how many slots the cache is written from its beginning again; None where it is long enough."""
    return iter(())


@ring.fitted
def counted_ring(question: Question) -> Iterator[Fitted]:
    """Every length that is too short."""
    yield from (Fitted((width,)) for width in range(len(question.case.tokens) - 1, 0, -1))


@convention("cache.rotation", KEYS, "once")
def rotation(question: Question) -> Iterator[Value]:
    """How often keys are rotated: once, before they are stored; again in each later step; again whenever they are read;
    never; or so many positions too far.
    """
    yield from ("again_when_read", "missing")
    if in_steps(question.case):
        yield "again_in_each_step"
    yield from (f"{TOO_FAR}{n}" for n in (1, -1))
