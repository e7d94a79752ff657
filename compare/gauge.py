"""Channels in another order: B may keep the channels of its heads permuted, from one projection to where they are summed over.

Llama's GGUF files do so with q and k: rows and gains are permuted, and the pairing of RoPE to match. Such an order is no fault; B's
values are then read in A's order, so that a fault among them stands alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..graphs.stages import split_tap_name
from .locate import Local, is_equal, judge_region
from .side import Side

Order = tuple[int, ...]


def in_a_order(a: Side, b: Side, found: Mapping[str, Local]) -> tuple[Side, dict[str, Local], tuple[str, ...]]:
    """B with its permuted channels read in A's order, the verdicts with it, and the taps that it concerns.

    An order is taken for meant where fewer regions are at fault with it than without.
    """
    verdicts, concerned = dict(found), list[str]()
    for block in dict.fromkeys(split_tap_name(tap)[0] for tap in found):
        for order, taps in _orders(a, found, block).items():
            group = _carried(a, b, taps, len(order))
            affected = list(dict.fromkeys((*group, *a.readers(group), *b.readers(group))))
            ordered = b.with_orders({tap: order for tap in group})
            after = {tap: judge_region(a, ordered, tap, a.values) for tap in affected}
            if _n_semantic(after, affected) < _n_semantic(verdicts, affected):
                b, concerned = ordered, [*concerned, *group]
                verdicts |= after
    return b, verdicts, tuple(concerned)


def _n_semantic(found: Mapping[str, Local], taps: list[str]) -> int:
    return sum(found[tap].verdict == "semantic" for tap in taps)


def _orders(a: Side, found: Mapping[str, Local], block: int | None) -> dict[Order, list[str]]:
    """The orders in which B's channels stand, each with the taps at which they do."""
    inside = [tap for tap in found if split_tap_name(tap)[0] == block]
    sizes = {a.values[tap].shape[-1] for tap in inside if {"head", "channel"} <= set(a.taps[tap].axes)}
    orders: dict[Order, list[str]] = {}
    for tap in inside:
        for size in sizes:
            order = _order(found[tap], size)
            if order is not None:
                orders.setdefault(order, []).append(tap)
    return orders


def _order(local: Local, head_dim: int) -> Order | None:
    """The order of B's channels within each head, the same for all heads, where that is all that differs."""
    a, b = local.a64, local.b64
    if local.verdict != "semantic" or a is None or b is None or a.size != b.size or a.shape[-1] % head_dim:
        return None
    left, right = (np.moveaxis(value.reshape(-1, head_dim), 1, 0) for value in (a, b))
    probe = np.random.default_rng(0).standard_normal(left.shape[1])
    order = np.argsort(left @ probe)[np.argsort(np.argsort(right @ probe))]
    if np.array_equal(order, np.arange(head_dim)) or not is_equal(local, right, left[order]):
        return None
    return tuple(int(i) for i in order)


def _carried(a: Side, b: Side, taps: list[str], head_dim: int) -> list[str]:
    """These taps, and those below them that have the same heads still."""
    group = list(taps)
    for tap in group:  # grows while it is walked
        for reader in (*a.readers([tap]), *b.readers([tap])):
            has_heads = {"head", "channel"} <= set(a.taps[reader].axes) and a.values[reader].shape[-1] == head_dim
            if has_heads and reader not in group and split_tap_name(reader)[0] == split_tap_name(tap)[0]:
                group.append(reader)
    return group
