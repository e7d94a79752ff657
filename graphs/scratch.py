"""Scratch files: large arrays that are read a few times stand in mapped files, so that memory need not hold them."""

from __future__ import annotations

import tempfile
from threading import Lock
from typing import IO

import numpy as np

from .errors import InputError

_SMALL = 1 << 16  # bytes; less than this costs more in a file than it saves
_IN_MEMORY = 1 << 27  # bytes; so much is left where it is, before files are begun
_FILE_SIZE = 1 << 28  # bytes; only what is written takes space
_ALIGNMENT = 64


class Scratch:
    """Puts arrays aside in temporary files without a name, each of which goes with the last of its arrays."""

    def __init__(self, in_memory: int = _IN_MEMORY) -> None:
        self._in_memory = in_memory
        self._file: IO[bytes] | None = None
        self._map, self._end = np.empty(0, np.uint8), 0
        self._one_by_one = Lock()
        self.n_bytes = 0

    def keep(self, array: np.ndarray) -> np.ndarray:
        """An array of the same values, not to be written to, that stands in a file; a small one, and the first ones, as
        they are.

        Raises:
            InputError: the temporary folder is full.
        """
        if array.nbytes < _SMALL:
            return array
        with self._one_by_one:
            return self._put_aside(array)

    def _put_aside(self, array: np.ndarray) -> np.ndarray:
        if array.nbytes <= self._in_memory:
            self._in_memory -= array.nbytes
            return array
        try:
            begin = self._written(np.ascontiguousarray(array))
        except OSError as e:
            raise InputError(f"{_folder()}: no room for large values ({e.strerror or e}); set TMPDIR") from e
        self._end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        self.n_bytes += array.nbytes
        return self._map[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)

    def _written(self, array: np.ndarray) -> int:
        """Where in the file it stands now. It is written, and not copied to the map: there a full disk is a SIGBUS."""
        if self._file is None or self._end + array.nbytes > self._map.size:
            self._begin(max(array.nbytes, _FILE_SIZE))
        assert self._file is not None
        self._file.seek(self._end)
        self._file.write(array.data)
        self._file.flush()
        return self._end

    def _begin(self, n_bytes: int) -> None:
        """A new file; the one before goes with the last of its arrays."""
        self._file, self._end = tempfile.TemporaryFile(), 0  # noqa: SIM115 (it lives as long as its arrays)
        self._file.truncate(n_bytes)
        self._map = np.asarray(np.memmap(self._file, np.uint8, "r"))


def _folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:  # none can be written to
        return "the temporary folder"
