"""A command that is killed at any point leaves what was there before, or what it makes, whole; and the next one clears up."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from .models import save_pair, write_sources
from .relay import kills
from .warm import Done, opdiff

_OF_A_RUN = re.compile(r"(?<=opdiff-)[0-9a-f]{8}")
_OF_PYTHON = re.compile(r"tmp/[a-z0-9_]{8}")  # with which tempfile tries whether a folder can be written to
State = dict[str, str]


@dataclass(frozen=True, slots=True)
class Case:
    """A command; what it was asked before; at how many points at least it is killed; after how many the next one runs."""

    arguments: str
    before: str
    n_points: int
    n_next: int = 100


CASES = {
    "export": Case("export seed --variant variant.py:Mine --out out", "", 15),
    "export of a module": Case("export --module module.py:mine --out out", "", 15),
    "trace": Case("trace seed --runtime hf --tokens 1,5,3 --out out/t.safetensors", "--tokens 2,4", 10),
    "compare": Case(
        "compare graphs/a.onnx graphs/b.onnx --json out/r.json --html out/r.html --junit out/r.xml --summary out/r.md "
        "--values out/values --tokens 1,5,3 --quiet",
        "--tokens 2,4",
        25,
    ),
    "verdict": Case(
        "verdict seed --candidate variant.py:Mine --against hf --prompts prompts.json --steps 1 --no-q8 --json out/v.json",
        "--steps 2",
        20,
        n_next=1,
    ),
}


def files(root: Path) -> State:
    """Every file below, with the hash of what it holds; random parts of names left out."""
    found = {str(path.relative_to(root)): path for path in sorted(root.rglob("*"))}
    found = {name: path for name, path in found.items() if not _OF_PYTHON.fullmatch(name)}
    return {
        _OF_A_RUN.sub("", name): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for name, path in found.items()
    }


def artifacts(root: Path) -> State:
    """What a user has: each file under its own name, a graph together with the data that it names."""
    hashes = files(root)
    shown = {name: text for name, text in hashes.items() if text and not any(p[0] == "." for p in Path(name).parts)}
    for name in [name for name in shown if name.endswith(".onnx")]:
        data = {str((root / name).parent / place) for place in locations(root / name)}
        shown[name] += "".join(hashes[str(Path(file).relative_to(root))] for file in sorted(data))
    return shown


def locations(graph: Path) -> set[str]:
    """The files that a graph reads."""
    initializers = onnx.load(graph, load_external_data=False).graph.initializer
    return {entry.value for tensor in initializers for entry in tensor.external_data if entry.key == "location"}


@pytest.mark.parametrize(
    ("name", "fresh"),
    [
        ("export", True),
        ("export", False),
        ("export of a module", False),
        ("trace", False),
        ("compare", True),
        ("compare", False),
        ("verdict", True),
    ],
)
def test_killed_at_any_point(name: str, fresh: bool, tmp_path: Path):
    case, root = CASES[name], tmp_path / "root"
    arguments = case.arguments.split()
    for folder in (root, root / "tmp", root / "out", root / "graphs"):
        folder.mkdir()
    (root / "prompts.json").write_text(json.dumps([{"tokens": [1, 5, 3]}]))
    if name == "compare":
        save_pair(root / "graphs")
    if not fresh:
        write_sources(root, 1.0)
        succeeds(run(root, [*arguments, *case.before.split()]))
    write_sources(root, 2.0)
    old = artifacts(root)
    start = shutil.copytree(root, tmp_path / "start")
    succeeds(run(root, arguments))
    new, new_files = artifacts(root), files(root)
    back(start, root)

    seen: dict[frozenset[str], Path] = {}  # by what was left that is nobody's
    n_points = 0
    (tmp_path / "said").mkdir()
    for killed in kills(arguments, root, tmp_path / "said", TMPDIR=str(root / "tmp")):
        n_points += 1
        found = artifacts(root)
        for file, text in found.items():
            assert text in (old.get(file), new.get(file)) or is_data(file), f"{file} after {killed}"
        assert not old.keys() - found.keys() or not new.keys() & (old.keys() - found.keys()), killed
        if (litter := frozenset(files(root).keys() - found.keys())) not in seen:
            seen[litter] = shutil.copytree(root, tmp_path / f"killed{n_points}")
    assert n_points >= case.n_points
    assert files(root) == new_files
    for left in [*seen.values()][-case.n_next :]:
        back(left, root)
        succeeds(run(root, arguments))
        assert files(root) == new_files, left


def back(kept: Path, root: Path) -> None:
    """Let the folder be as it was. Graphs know where their sources lie, so all runs are in one place."""
    shutil.rmtree(root)
    shutil.copytree(kept, root)


def is_data(file: str) -> bool:
    """Whether it belongs to a graph that names it, with which it was looked at."""
    return re.search(r"\.[0-9a-f]{16}\.(weights\.safetensors|onnx\.data)$", file) is not None


def run(root: Path, arguments: list[str]) -> Done:
    return opdiff(arguments, root, TMPDIR=str(root / "tmp"))


def succeeds(done: Done) -> None:
    assert done.status in (0, 1), done.err
    assert done.err == ""
