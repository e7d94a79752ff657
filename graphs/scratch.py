"""Scratch files: large arrays that are read a few times stand in mapped files, so that memory need not hold them."""

from __future__ import annotations

import tempfile

import numpy as np

_SMALL = 1 << 16  # bytes; less than this costs more in a file than it saves
_FILE_SIZE = 1 << 28  # bytes; only what is written takes space
_ALIGNMENT = 64


class Scratch:
    """Puts arrays aside in temporary files without a name, each of which goes with the last of its arrays."""

    def __init__(self) -> None:
        self._free = np.empty(0, np.uint8)
        self.n_bytes = 0

    def keep(self, array: np.ndarray) -> np.ndarray:
        """An array of the same values that stands in a file; a small one is returned as it is."""
        if array.nbytes < _SMALL:
            return array
        n_bytes = -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        if n_bytes > self._free.size:
            self._free = _mapped(max(n_bytes, _FILE_SIZE))
        place, self._free = self._free[:n_bytes], self._free[n_bytes:]
        self.n_bytes += n_bytes
        kept = place[: array.nbytes].view(array.dtype).reshape(array.shape)
        kept[...] = array
        return kept


def _mapped(n_bytes: int) -> np.ndarray:
    with tempfile.TemporaryFile() as file:
        file.truncate(n_bytes)
        return np.asarray(np.memmap(file, np.uint8, "r+"))
