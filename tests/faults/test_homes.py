"""Homes that are not set, not there or not to be written to, and users without a name: each command works, or says why not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from . import limits
from .models import save_pair, write_sources
from .warm import opdiff

HOMES = {
    "not there": {"HOME": "/nowhere/at/all"},
    "not to be written to": {"HOME": "/proc"},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    save_pair(root)
    write_sources(root, 1.0)
    return root


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("compare a.onnx b.onnx --tokens 1,5,3 -q", 1),
        ("export seed --variant variant.py:Mine --out out", 0),
        ("trace seed --runtime hf --tokens 1,5,3 --out out/t.safetensors", 0),
    ],
)
def test_home(home: str, command: str, status: int, root: Path):
    done = opdiff(command.split(), root, **HOMES[home], XDG_CACHE_HOME="", HF_HOME="")
    assert (done.status, done.err) == (status, "")


def test_no_home_and_no_name(root: Path):
    """As in a container whose user is a number; from the very start, where torch and others look for their folders."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}

    def python(*words: str) -> subprocess.CompletedProcess[str]:
        limit, command = limits.as_nobody, [sys.executable, *words]
        try:
            return subprocess.run(
                command, cwd="/", env=kept, preexec_fn=limit, capture_output=True, text=True, timeout=120
            )
        except PermissionError:
            pytest.skip("Python itself cannot be read by another user here")

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        write_sources(Path(folder), 1.0)
        if python("-c", "import opdiff").returncode:
            pytest.skip("Python itself cannot be read by another user here")
        done = python(
            "-m", "opdiff", "export", "seed", "--variant", f"{folder}/variant.py:Mine", "--out", f"{folder}/out"
        )
    assert (done.returncode, done.stderr) == (0, "")
