"""A command runs in a child process, so that its death by a signal is one line and an exit status too.

A mapped file that is cut short kills whoever touches a page that is gone (SIGBUS). A native library may crash on what it is
given (SIGSEGV, SIGABRT), or call exit(1), which would read as "they differ". The kernel kills what takes too much memory
(SIGKILL). No handler in Python can answer: it runs between two instructions of Python, and these deaths come within one. Only
another process sees them all. So the first thing that a command does, while it is small and has one thread, is to fork: the
child is the command, in the same process group, on the same terminal; the parent waits, hands on what is sent to it, and ends
as the child did. That costs some milliseconds.

Where the system cannot say who sent a signal (macOS, Windows), Ctrl-C would reach the child twice, and nothing is watched. Nor
is it where opdiff is called from Python, whose process is not opdiff's to fork.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

_HANDED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG
_CRASHED = "a native library crashed ({}), most likely on a damaged file; write or download the files anew"
_ENDED = "a native library ended it ({}), as some do when memory runs out; give fewer tokens, or close other programs"
_DEATHS = {
    "SIGBUS": "a file was cut short while it was read, or its disk failed ({}); leave it as it is, and run this again",
    "SIGKILL": "killed by the system ({}), as it does when memory runs out; give fewer tokens, or close other programs",
    **dict.fromkeys(("SIGSEGV", "SIGABRT", "SIGILL", "SIGFPE"), _CRASHED),
}


def watched(command: Callable[[], None]) -> None:
    """Run the command, which exits by itself, in a child, and exit as it does: with 2 and a line where it crashes."""
    if not hasattr(signal, "sigwaitinfo"):
        return command()
    handed_on = {signal.Signals[name] for name in _HANDED_ON}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a parent may leave it ignored: then no child's end is told
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*handed_on, signal.SIGCHLD})
    parent, (told, tell), child = os.getpid(), os.pipe(), _forked()
    if child:
        os.close(tell)
        _end_as(_status(child, handed_on), os.read(told, 1))
    if child == 0:
        _die_with(parent)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    status = 1  # Python's own, for an error that nobody catches
    atexit.register(lambda: _leave(status))  # the first one, which runs after all others
    try:
        command()
        status = 0
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
        raise
    finally:
        os.write(tell, bytes([status & 255]))  # Python ends it, and no library that calls exit


def _leave(status: int) -> None:
    """End the process. The system frees its memory at once, where Python would free it array by array."""
    with suppress(OSError):  # a stream that leads nowhere, of which Python tells
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status & 255)


def _forked() -> int | None:
    try:
        return os.fork()
    except OSError:  # no more processes are allowed
        return None


def _die_with(parent: int) -> None:
    """See to it that a kill of the parent, which can hand that on to nobody, ends this process."""
    with suppress(AttributeError, OSError):  # a system other than Linux
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _status(child: int, handed_on: set[signal.Signals]) -> int:
    """How the child ended, as `os.waitstatus_to_exitcode` says it; until then, signals go on to it.

    Those of a terminal go to all of its processes, and have reached the child.
    """
    while True:
        told = signal.sigwaitinfo({*handed_on, signal.SIGCHLD})
        if told.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
        elif told.si_code <= 0:  # sent by a process
            os.kill(child, told.si_signo)


def _end_as(status: int, told: bytes) -> None:
    """End as the child did: as it told, where Python reached its end, though a library's crash in clearing up came after."""
    death = signal.Signals(-status).name if status < 0 else f"status {status}"
    if told and (status >= 0 or death in _DEATHS):
        os._exit(told[0])
    if status < 0 and death not in _DEATHS:  # whoever stopped the child meant the command
        signal.signal(-status, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-status})
        os.kill(os.getpid(), -status)
        os._exit(128 - status)  # the first process of a container outlives it
    with suppress(OSError):
        os.write(2, f"opdiff: {_DEATHS.get(death, _ENDED).format(death)}\n".encode())
    os._exit(2)
