"""What of a region's values is known without its inputs: constants, weights, and what is computed of them alone."""

from __future__ import annotations

import numpy as np

from ....graphs.network import Network
from ....graphs.slices import implicit_inputs
from ...align.arrangement import MASK_SIZE

_LARGE = 1 << 20  # elements of a weight: those of more are not read for this
_ROUNDED = 1e-6  # how far two numbers may lie apart that are one, rounded otherwise; of many, relative to the largest
_STORED = 2.0**-7  # the same, of two weights of which one may be stored in fewer bits, relative to the largest
_SCALAR = 1


class Leaves:
    """Tells fixed values from those that hang on an input, be it only on the number of its tokens."""

    def __init__(self, network: Network) -> None:
        self._network = network
        program = network.region.program
        self._hanging = {f"i{n}" for n in range(program.n_inputs)}
        self._made: set[str] = set()
        for node in program.model.graph.node:
            self._made.update(node.output)
            if self._hanging.intersection((*node.input, *implicit_inputs(node))):
                self._hanging.update(node.output)

    def is_fixed(self, name: str) -> bool:
        """Whether a value is the same for every input."""
        value = self._network.values[name]
        if value.maker is None:
            return value.kind in ("constant", "weight")
        if name in self._made:
            return name not in self._hanging
        return all(map(self.is_fixed, value.maker.operands))  # a part of a Gemm

    def is_large(self, name: str) -> bool:
        """Whether a fixed value is made of a weight that is not read for this."""
        leaves = (self._network.values[one] for one in self._network.cone(name))
        return any(leaf.kind == "weight" and self._size(leaf.name) > _LARGE for leaf in leaves)

    def _size(self, name: str) -> int:
        array = self._network.array(name)
        return 0 if array is None else array.size

    def scalars(self, name: str) -> list[float]:
        """The single numbers of which a value is made."""
        arrays = [
            self._network.array(one) for one in self._network.cone(name) if self._network.values[one].kind == "constant"
        ]
        return [float(array.ravel()[0]) for array in arrays if array is not None and array.size == _SCALAR]


def are_one(a: np.ndarray | None, b: np.ndarray | None, is_weight: bool) -> bool:
    """Whether two fixed values hold the same numbers, but for rounding, storage, and how infinity is written."""
    if a is None or b is None:
        return a is b
    ours, theirs = (np.where(np.abs(x) > MASK_SIZE, np.copysign(np.inf, x), x) for x in (_wide(a), _wide(b)))
    if ours.size != theirs.size:
        if _SCALAR not in (ours.size, theirs.size):
            return False
        ours, theirs = np.broadcast_arrays(ours.reshape(-1), theirs.reshape(-1))
    ours, theirs = ours.ravel(), theirs.ravel()
    largest = float(np.max(np.abs(ours), initial=0.0, where=np.isfinite(ours)))
    share = _STORED if is_weight else _ROUNDED if ours.size > 1 else 0.0
    return bool(np.isclose(ours, theirs, rtol=_ROUNDED, atol=share * largest, equal_nan=True).all())


def _wide(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float64)
