"""A disk that is full or cannot be written to: one line, status 2, old files as they were, and nothing beside them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from . import limits
from .models import save_pair, write_sources
from .warm import Done, opdiff

REPORTS = "--json out/r.json --html out/r.html --junit out/r.xml --summary out/r.md --model-explorer out/m.json"
COMMANDS = {
    "export": "export seed --variant variant.py:Mine --out out",
    "export of a module": "export --module module.py:mine --out out",
    "trace": "trace seed --runtime hf --tokens 1,5,3 --out out/t.safetensors",
    "compare": f"compare graphs/a.onnx graphs/b.onnx --tokens 1,5,3 {REPORTS}",
    "values": "compare graphs/a.onnx graphs/b.onnx --tokens 1,5,3 --values out",
    "align": "align graphs/a.onnx graphs/b.onnx --tokens 1,5,3 --out out/map.json --json out/a.json",
    "report": f"report r.json {REPORTS}",
    "verdict": "verdict seed --candidate variant.py:Mine --against hf --prompts prompts.json --steps 1 --no-q8 --out out",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with what the commands read, and `out`, to which they write."""
    root = tmp_path / "root"
    for folder in (root, root / "graphs", root / "out"):
        folder.mkdir()
    write_sources(root, 1.0)
    save_pair(root / "graphs")
    (root / "prompts.json").write_text(json.dumps([{"tokens": [1, 5, 3]}]))
    done = opdiff([*["compare", "graphs/a.onnx", "graphs/b.onnx", "--tokens", "1,5,3", "--json", "r.json", "-q"]], root)
    assert done.status == 1, done.err
    return root


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Another file system there, in memory."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def read_only(root: Path) -> Iterator[Path]:
    """The same, where `out` cannot be written to, by root neither."""
    if os.geteuid() == 0:
        with mounted(root / "out", "ro"):
            yield root
    else:
        (root / "out").chmod(0o555)
        yield root
        (root / "out").chmod(0o755)


def refused(done: Done, *words: str) -> None:
    assert done.status == 2, done.out + done.err
    assert done.err.startswith("opdiff: ")
    assert done.err.count("\n") == 1, done.err
    for word in words:
        assert word in done.err


def left(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "kilobytes"),
    [*((name, 8) for name in COMMANDS), ("export", 100), ("export", 148), ("export of a module", 108), ("trace", 64)],
)
def test_full_disk(name: str, kilobytes: int, root: Path):
    """As it is from the start, or as it comes to be after some files."""
    out = root / "out"
    with mounted(out, f"size={kilobytes}k"):
        (out / "r.json").write_text("old" * 1000)
        refused(opdiff(COMMANDS[name].split(), root), "out", "cannot be written")
        found = left(out)
    assert found.pop("r.json") == b"old" * 1000
    assert not [file for file in found if Path(file).name.startswith(".") or file.endswith(".onnx")]


@pytest.mark.parametrize("name", ["export", "trace", "compare", "values", "align", "report"])
def test_file_that_may_not_grow(name: str, root: Path):
    refused(opdiff(COMMANDS[name].split(), root, limits.little_room), "File too large")
    assert not [file for file in left(root / "out") if Path(file).name.startswith(".")]


@pytest.mark.parametrize("name", ["export", "export of a module", "trace", "compare", "values", "align", "report"])
def test_folder_that_cannot_be_written_to(name: str, read_only: Path):
    refused(opdiff(COMMANDS[name].split(), read_only), "out")
    assert left(read_only / "out") == {}


def test_results_that_cannot_be_written_are_refused_before_anything_is_run(read_only: Path):
    asked = ["compare", "none.onnx", "none.onnx", "--tokens", "1", "--json", "out/r.json"]
    refused(opdiff(asked, read_only), "out/r.json: its folder cannot be written to")


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_result_over_what_is_no_file_is_refused(kind: str, root: Path):
    place = root / "out" / "r.json"
    os.mkfifo(place) if kind == "fifo" else place.mkdir()
    refused(opdiff(["report", "r.json", "--json", "out/r.json"], root), "out/r.json: a folder or a device")
    assert not place.is_file()


SCRATCH = """
import sys
import numpy as np
from opdiff.graphs.errors import InputError
from opdiff.graphs.scratch import Scratch

scratch, kept = Scratch(in_memory=0), []
try:
    for n in range(8):
        kept.append(scratch.keep(np.full(1 << 17, n, np.float32)))
except InputError as e:
    print(e)
assert all((array == n).all() for n, array in enumerate(kept))
print(len(kept))
"""


def test_values_that_are_put_aside_on_a_full_disk_are_one_line_and_those_before_stay(root: Path):
    out = root / "out"
    with mounted(out, "size=2M"):
        environment = {**os.environ, "TMPDIR": str(out)}
        done = subprocess.run([sys.executable, "-c", SCRATCH], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    line, count = done.stdout.splitlines()
    assert line == f"{out}: no room for large values (No space left on device); set TMPDIR"
    assert int(count) in (2, 3, 4)


def test_folder_of_temporary_files_that_is_full_or_not_there(root: Path):
    done = opdiff(COMMANDS["report"].split(), root, TMPDIR=str(root / "none"))
    assert (done.status, done.err) == (1, "")
    done = opdiff(COMMANDS["compare"].split(), root, TMPDIR=str(root / "none"))
    assert (done.status, done.err) == (1, "")
