"""Channels in another order: one side may keep the channels of its heads permuted, from one projection to where they are summed over.

Llama's GGUF files do so with q and k: rows and gains are permuted, and the pairing of RoPE to match. Such an order is no fault; one
side's values are then read in the other's order, so that a fault among them stands alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...graphs.stages import split_tap_name
from ..sides.side import Side
from ..sides.trace_side import TraceSide
from .locate import Local, is_equal, judge_region

Order = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ordered:
    """Both sides with their channels in one order: B's are read in A's, or a trace's in those of the graph beside it,
    whose weights have that order too. `orders` has the order at each tap that it concerns.
    """

    a: Side
    b: Side
    found: Mapping[str, Local]
    orders: Mapping[str, Order] = field(default_factory=dict)

    @property
    def taps(self) -> tuple[str, ...]:
        return tuple(self.orders)

    def with_order(self, order: Order, taps: Sequence[str]) -> Ordered:
        """The same with these taps in that order: channel i of one side is channel order[i] of the other."""
        a, b = self.a, self.b
        if isinstance(a, TraceSide):
            a = a.with_orders({tap: tuple(np.argsort(order).tolist()) for tap in taps})
        else:
            b = b.with_orders(dict.fromkeys(taps, order))
        affected = list(dict.fromkeys((*taps, *a.readers(taps), *b.readers(taps))))
        after = {tap: judge_region(a, b, tap) for tap in affected}
        return Ordered(a, b, {**self.found, **after}, {**self.orders, **dict.fromkeys(taps, order)})

    def n_at_fault(self) -> int:
        return sum(local.verdict == "semantic" for local in self.found.values())

    def fault(self) -> tuple[int, float]:
        """How many regions are at fault, and by how much in all."""
        shares = (x.error / x.scale if x.scale else np.inf for x in self.found.values() if x.verdict == "semantic")
        return self.n_at_fault(), sum(shares)


def in_one_order(a: Side, b: Side, found: Mapping[str, Local]) -> Ordered:
    """The sides in one order, with the verdicts that they then have.

    An order is taken for meant where fewer regions are at fault with it than without: at the taps that show it; there and
    as far down as heads have such channels; or, where a fault hides the order of one of two that are multiplied, as q and
    k are, at both of them.
    """
    best = Ordered(a, b, found)
    for block in dict.fromkeys(split_tap_name(tap)[0] for tap in found):
        while (
            tried := min(_tried(best, block), key=Ordered.n_at_fault, default=best)
        ).n_at_fault() < best.n_at_fault():
            best = tried
        best = _followed(best, block)
    return best


def _followed(sides: Ordered, block: int | None) -> Ordered:
    """An order is followed to what is at fault behind it in either order, where it is the less so: a rotation that is left out
    turns nothing far at the first positions, and another order puts everything elsewhere.
    """
    inside = {tap: order for tap, order in sides.orders.items() if split_tap_name(tap)[0] == block}
    for order in dict.fromkeys(inside.values()):
        taps = [tap for tap in inside if inside[tap] == order]  # q's and k's go together
        behind = _carried(sides.a, sides.b, taps, len(order))
        open_ones = [tap for tap in behind if tap not in inside and sides.found[tap].verdict == "semantic"]
        moved = sides.with_order(order, open_ones) if open_ones else sides
        if moved.fault() < sides.fault():
            sides = moved
    return sides


def _tried(sides: Ordered, block: int | None) -> Iterator[Ordered]:
    """The sides with one more order, at fewer taps first."""
    a, b = sides.a, sides.b
    for order, taps in _orders(a, sides.found, block).items():
        group = _carried(a, b, taps, len(order))
        both = _carried(a, b, [*group, *_partners(a, group, len(order))], len(order))
        for members in {frozenset(members): members for members in (taps, group, both)}.values():
            yield sides.with_order(order, [tap for tap in members if tap not in sides.taps])


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


def _partners(side: Side, group: list[str], head_dim: int) -> list[str]:
    """The taps whose channels are multiplied with the group's, head by head, and what they alone are made of."""
    partners: list[str] = []
    reads = [name for reader in side.readers(group) for name in side.reads(reader)]
    for tap in reads:  # grows while it is walked
        channels = side.values[tap].shape[-1]
        has_heads = {"head", "channel"} <= set(side.taps[tap].axes) and channels == head_dim
        is_merged = channels % head_dim == 0 and bool(partners) and set(side.readers([tap])) <= set(partners)
        if (has_heads or is_merged) and tap not in group and tap not in partners:
            partners.append(tap)
            reads.extend(side.reads(tap))
    return partners
