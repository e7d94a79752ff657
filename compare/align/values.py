"""Which value of one graph is a value of the other: by its numbers, in whatever layout."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ...graphs.adopt.flat import Ran
from ..measure import squared
from .arrangement import AT_ONCE, Plan, arrangement, plain

NEAR = 1e-6  # relative: what constants that are rounded otherwise leave open
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast"})


@dataclass(frozen=True, slots=True)
class Match:
    """The value of A that a value of B is, and how it must be laid out."""

    name: str
    plan: Plan


def is_move(node: Ran) -> bool:
    """Whether a node leaves numbers as they are, but for where they stand."""
    return moves(node.operator, node.domain)


def moves(operator: str, domain: str) -> bool:
    """Whether such a node does."""
    return operator in _MOVES and not domain


class ValueIndex:
    """Finds A's values by their numbers.

    Args:
        values: by name, in the order in which A makes them; floats are looked at only.
        root_of: of which value one is the same numbers, moved elsewhere.
    """

    def __init__(
        self, values: Iterable[tuple[str, np.ndarray]], root_of: Callable[[str], str] = lambda name: name
    ) -> None:
        self._root_of = root_of
        self._arrays: dict[str, np.ndarray] = {}
        self._places: dict[str, int] = {}
        self._by_size: dict[int, list[tuple[float, float, int, str]]] = {}
        for name, array in values:
            if array.dtype.kind != "f" or array.size < 2:
                continue
            self._arrays[name] = plain(array)
            self._places[name] = len(self._places)
            insort(self._by_size.setdefault(array.size, []), (*_norms(self._arrays[name]), self._places[name], name))

    def find(self, array: np.ndarray, nearness: float = NEAR) -> list[Match]:
        """The values of A that this one is: those in the same layout first, then in the order in which A makes them. Where one has
        the same shape, those that are the same numbers in another one are left out.
        """
        if array.dtype.kind != "f" or array.size < 2:
            return []
        wanted = plain(array)
        found, roots = list[Match](), set[str]()
        for is_moved, _, name in sorted(self._near(wanted, nearness)):
            if is_moved and self._root_of(name) in roots:
                continue
            plan = arrangement(self._arrays[name], wanted, nearness)
            if plan is not None:
                found.append(Match(name, plan))
            if plan == ():
                roots.add(self._root_of(name))
        return sorted(found, key=lambda match: len(match.plan))

    def _near(self, wanted: np.ndarray, nearness: float) -> Iterator[tuple[bool, int, str]]:
        """The values that may be this one: whether their shape is another, their places, their names."""
        second, fourth = _norms(wanted)
        among, far = self._by_size.get(wanted.size, []), 4 * nearness * max(second, fourth) + np.finfo(float).tiny
        for n in range(bisect_left(among, (second - far,)), len(among)):
            ours, other, place, name = among[n]
            if ours > second + far:
                return
            if abs(other - fourth) <= far:
                yield self._arrays[name].shape != wanted.shape, place, name


def _norms(array: np.ndarray) -> tuple[float, float]:
    """The roots of the sums of squares and of fourth powers over what is finite: no layout changes them."""
    flat = np.asarray(array, np.float64).ravel()
    second = fourth = 0.0
    for start in range(0, flat.size, AT_ONCE):
        squares = np.square(flat[start : start + AT_ONCE])
        if not np.isfinite(sum_of_squares := float(squares.sum())):
            squares = squares[np.isfinite(squares)]
            sum_of_squares = float(squares.sum())
        second, fourth = second + sum_of_squares, fourth + squared(squares)
    return second**0.5, fourth**0.25
