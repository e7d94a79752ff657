"""The products that were taken last: the sides of a region, and what explains it, often ask for the same ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import numpy as np

_BYTES = 48 << 20  # what is kept in all: some products of each weight of a block, at a few tokens


class RecentProducts:
    """Products of arrays with weights, the last ones that fit into a few megabytes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[Hashable, np.ndarray, np.ndarray, np.ndarray, int]] = OrderedDict()
        self._by_weight: dict[Hashable, list[int]] = {}
        self._bytes = self._next = 0

    def find(self, weight: Hashable, x: np.ndarray) -> np.ndarray | None:
        """The product of `x` with a weight, where it was taken lately.

        weight: what tells that two weights are one, while both are in memory.
        """
        for n in self._by_weight.get(weight, ()):
            _, _, asked, product, _ = self._kept[n]
            if np.array_equal(asked, x):
                self._kept.move_to_end(n)
                return product
        return None

    def keep(self, weight: Hashable, held: np.ndarray, x: np.ndarray, product: np.ndarray) -> None:
        """Keep a product; the oldest ones go.

        held: the weight itself, which must stay in memory as long as it is told from others by its place there.
        """
        size = x.nbytes + product.nbytes + (0 if _is_mapped(held) else held.nbytes)
        if size > _BYTES // 4:
            return
        product.flags.writeable = False  # it is handed out again
        self._kept[self._next] = weight, held, x, product, size
        self._by_weight.setdefault(weight, []).append(self._next)
        self._next, self._bytes = self._next + 1, self._bytes + size
        while self._bytes > _BYTES:
            n, (oldest, *_, freed) = self._kept.popitem(last=False)
            self._by_weight[oldest].remove(n)
            self._bytes -= freed


def _is_mapped(array: np.ndarray) -> bool:
    """Whether an array is part of a file, and takes no memory of its own."""
    base: object = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    return isinstance(base, np.memmap)
