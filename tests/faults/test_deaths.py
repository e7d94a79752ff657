"""A command's death by a signal is one line and status 2, and signals that are sent to it reach it once."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .models import save_pair

pytestmark = pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="nothing is watched on this system")

COMMAND = """
import ctypes, os, signal, sys, time
from opdiff.graphs.watch import watched

def command():
    {body}

watched(command)
"""


def ran(body: str) -> subprocess.CompletedProcess[str]:
    code = COMMAND.format(body=body)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("ctypes.string_at(0)", "a native library crashed (SIGSEGV)"),
        ("os.abort()", "a native library crashed (SIGABRT)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by the system (SIGKILL)"),
        ("ctypes.CDLL(None).exit(1)", "a native library ended it (status 1)"),
    ],
)
def test_crash_is_one_line(body: str, words: str):
    done = ran(body)
    assert done.returncode == 2
    assert done.stderr.startswith(f"opdiff: {words}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("status", [0, 1, 2, 130])
def test_ordinary_end_is_handed_on(status: int):
    done = ran(f"print('said'); sys.exit({status})")
    assert (done.returncode, done.stdout, done.stderr) == (status, "said\n", "")


def test_what_is_registered_for_the_end_is_run_and_what_was_said_comes_out():
    done = ran(
        "import atexit; atexit.register(print, 'bye'); print('said'); print('so', file=sys.stderr, end=''); sys.exit(1)"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "said\nbye\n", "so")


@pytest.mark.parametrize("status", [0, 1, 2])
def test_a_crash_in_clearing_up_does_not_change_how_it_ended(status: int):
    """A library whose memory ran out while it was imported may crash when it is taken down."""
    done = ran(f"import atexit; atexit.register(os.abort); print('said', flush=True); sys.exit({status})")
    assert (done.returncode, done.stdout, done.stderr) == (status, "said\n", "")


def test_death_by_a_signal_that_a_user_sends_stays_what_it_is():
    assert ran("os.kill(os.getpid(), signal.SIGTERM)").returncode == -signal.SIGTERM


WAITS = """
    signal.signal(signal.SIGINT, lambda *_: os.write(1, b'INT\\n'))
    print(os.getpid(), flush=True)
    time.sleep(1); time.sleep(0.5); sys.exit(7)"""


def test_an_interrupt_that_a_process_sends_reaches_the_command():
    process = subprocess.Popen([sys.executable, "-c", COMMAND.format(body=WAITS)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "INT\n"
    assert process.returncode == 7


def test_an_interrupt_from_the_keyboard_reaches_the_command_once():
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", COMMAND.format(body=WAITS)])
    assert os.read(terminal, 100).strip().isdigit()
    os.write(terminal, b"\x03")
    said = b""
    try:
        while part := os.read(terminal, 100):
            said += part
    except OSError:  # the terminal's other end is closed
        pass
    _, status = os.waitpid(pid, 0)
    assert said.count(b"INT") == 1
    assert os.waitstatus_to_exitcode(status) == 7


def test_a_kill_of_the_command_leaves_nothing_that_runs_on():
    process = subprocess.Popen([sys.executable, "-c", COMMAND.format(body=WAITS)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert child != process.pid
    process.kill()
    process.wait(30)
    end = time.monotonic() + 30
    while runs(child) and time.monotonic() < end:
        time.sleep(0.01)
    assert not runs(child)
    process.stdout.close()


def runs(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


# Cuts the weights off as soon as they are mapped, when the next library is imported, as another process might.
CUT = """
import os, sys
maps = []
def hook(event, given):
    if event == "mmap.__new__":
        maps.append(given)
    elif event == "import" and maps and os.path.getsize("weights.safetensors"):
        os.truncate("weights.safetensors", 0)
sys.addaudithook(hook)
from opdiff.__main__ import run
run()
"""


def test_weights_that_are_cut_short_while_they_are_mapped_are_one_line(tmp_path: Path):
    save_pair(tmp_path)
    command = [sys.executable, "-c", CUT, "compare", "a.onnx", "b.onnx", "--tokens", "1,5,3", "--json", "out.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("opdiff: a file was cut short while it was read")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.json").exists()
