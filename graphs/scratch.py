"""A scratch file: large arrays that are read a few times stand in a mapped file, so that memory need not hold them."""

from __future__ import annotations

import tempfile

import numpy as np

_SMALL = 1 << 16  # bytes; less than this costs more in a file than it saves


class Scratch:
    """Arrays put aside in a temporary file without a name; the system frees it with the last of them."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self.n_bytes = 0

    def keep(self, array: np.ndarray) -> np.ndarray:
        """The same array, contiguous, as a view of the file, not to be written to; a small one is returned as it is."""
        if array.nbytes < _SMALL:
            return array
        offset = self.n_bytes
        self._file.seek(offset)
        self._file.write(np.ascontiguousarray(array).data)
        self._file.flush()
        self.n_bytes += array.nbytes
        return np.asarray(np.memmap(self._file, array.dtype, "r", offset, array.shape))
