"""Files and folders that must not outlive a run, and go though it is killed.

Each has a mark in its name, and its maker holds a lock on it, which the system takes away when the maker dies. So whoever
makes the next one in that folder finds those that nobody holds, and removes them. Numbers of processes would not do: they come
again, and in a container, or on another machine that shares the folder, they mean another process.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked, and so nothing is removed
    fcntl = None  # type: ignore[assignment]

_MARK = "opdiff-"


@contextmanager
def file_beside(path: Path) -> Iterator[Path]:
    """A new, empty file in the same folder, which goes with the block if it is still there.

    Raises:
        OSError: it cannot be made.
    """
    _sweep(path.parent, f".*.{_MARK}*.partial")
    made, lock = _made(path.with_name(f".{path.name}.{_MARK}"), ".partial", _new_file)
    try:
        yield made
    finally:
        made.unlink(missing_ok=True)
        os.close(lock)


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """A new folder, in `parent` or where the system keeps such, which goes with the block.

    Raises:
        InputError: it cannot be made.
    """
    try:
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        _sweep(parent, f".{_MARK}*.folder")
        made, lock = _made(parent / f".{_MARK}", ".folder", _new_folder)
        inner = made / "files"  # an export locks the folder that it writes to, and this one is locked
        inner.mkdir()
    except OSError as e:
        raise InputError(f"{parent or 'temporary files'}: cannot be written to ({e.strerror or e}); set TMPDIR") from e
    try:
        yield inner
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


@contextmanager
def alone_in(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Keep others who ask for the same folder waiting until the block ends; `waiting` is called where this one must."""
    if fcntl is None:
        yield
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _new_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def _new_folder(path: Path) -> int:
    path.mkdir(mode=0o700)
    return os.open(path, os.O_RDONLY)


def _made(prefix: Path, suffix: str, make: Callable[[Path], int]) -> tuple[Path, int]:
    """What was made under a name of its own, and the lock on it; again, where a sweep came between the two."""
    while True:
        path = prefix.with_name(f"{prefix.name}{secrets.token_hex(4)}{suffix}")
        try:
            lock = make(path)
        except FileExistsError:
            continue
        if _holds(lock) is not False and _is(path, lock):
            return path, lock
        os.close(lock)


def _holds(lock: int) -> bool | None:
    """Take the lock: False where another has it, None where the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is(path: Path, opened: int) -> bool:
    """Whether what was opened still stands under that name."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(opened))
    except FileNotFoundError:
        return False


def _sweep(folder: Path, pattern: str) -> None:
    """Remove what runs left that were killed."""
    if fcntl is None:
        return
    for path in folder.glob(pattern):
        with suppress(OSError):  # gone meanwhile, or another user's
            opened = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if os.fstat(opened).st_uid == os.geteuid() and _holds(opened) and _is(path, opened):
                    _remove(path, os.fstat(opened).st_mode)
            finally:
                os.close(opened)


def _remove(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)
    else:
        path.unlink()
