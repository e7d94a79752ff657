"""Memory that runs out is one line and status 2, wherever it does."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .models import save_pair

MEGABYTES = (50, 70, 90, 110, 130, 150, 180, 220, 4000)


def with_memory(megabytes: int, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    words = [sys.executable, "-m", "opdiff", *command.split()]
    return subprocess.run(words, cwd=folder, preexec_fn=limit, capture_output=True, text=True, timeout=120)


def test_little_memory_is_one_line_or_enough(tmp_path: Path):
    save_pair(tmp_path)
    statuses = set()
    for megabytes in MEGABYTES:
        done = with_memory(megabytes, "compare a.onnx b.onnx --tokens 1,5,3 -q", tmp_path)
        statuses.add(done.returncode)
        assert "Traceback" not in done.stderr, f"{megabytes} MB: {done.stderr}"
        if done.returncode != 1:
            assert done.returncode == 2, f"{megabytes} MB: {done.stderr}"
            assert done.stderr.splitlines()[-1].startswith("opdiff: ")  # a library may have said something before
            assert done.stdout == ""
    assert statuses == {1, 2}


# A whole command in whose midst the limit falls to what is in use, and a little.
LOWERED = """
import resource, sys
from opdiff.__main__ import run

def lower(event, given):
    if event == "mmap.__new__":
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (1 << 20),) * 2)

sys.addaudithook(lower)
run()
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="wants /proc")
def test_large_arrays_that_find_no_memory_are_one_line(tmp_path: Path):
    np.savez(tmp_path / "big.npz", logits=np.zeros((1000, 4000), np.float32))
    save_pair(tmp_path)
    command = [sys.executable, "-c", LOWERED, "compare", "a.onnx", "big.npz", "--tokens", "1,5,3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("opdiff: "), done.stderr
    assert "memory" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "what",
    [
        "MemoryError()",
        "RuntimeError('[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can\\'t allocate memory')",
        "OSError(12, 'Cannot allocate memory')",
        "ImportError('libtorch_cpu.so: failed to map segment from shared object')",
    ],
)
def test_each_way_to_say_so_is_known_also_as_the_cause_of_another(what: str):
    """The texts are numpy's, torch's, the system's and the loader's own."""
    for line in ("raise error", "raise InputError('something else') from error"):
        code = f"from opdiff.graphs.faults import faults_told\nfrom opdiff.graphs.errors import InputError\nerror = {what}\n"
        code += f"with faults_told():\n    {line}\n"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert done.stderr.startswith("opdiff: out of memory; ")


def test_a_library_that_fails_without_saying_why_is_one_line():
    """Python's own text, for code in C that fails and sets no exception, as onnxruntime's start may where memory is short."""
    code = "from opdiff.graphs.faults import faults_told\n"
    code += "with faults_told():\n    raise SystemError('error return without exception set')\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("opdiff: a native library failed (error return without exception set), as some do")
    assert done.stderr.count("\n") == 1
