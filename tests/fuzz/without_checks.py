"""`python -m fuzz.without_checks`, in tests/: take each check out of the readers, one at a time, and see that a test fails.

A check is an `if` that refuses: its body raises InputError, or tells what is wrong. It is taken out by making its condition
False, in a copy of the project.
"""

from __future__ import annotations

import ast
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent.parent
_LIES = "tests/fuzz/test_fuzz.py::test_files_that_lie_are_used_or_refused_in_one_line"
_SECONDS = 300
_ADDRESSES = 12 << 30  # bytes
READERS: dict[str, Sequence[str]] = {
    "graphs/soundness.py": ("tests/graphs/test_soundness.py",),
    "graphs/reading.py": ("tests/graphs/test_reading.py",),
    "graphs/weights.py": ("tests/graphs/test_weights.py", "tests/graphs/test_artifact.py"),
    "graphs/artifact.py": (
        "tests/graphs/test_artifact.py",
        "tests/exporters/test_export.py",
        "tests/exporters/test_lengths.py",
        "tests/test_bad_input.py",
    ),
    "graphs/tensor_files.py": ("tests/graphs/test_trace.py",),
    "graphs/name_map.py": ("tests/graphs/test_trace.py",),
    "exporters/checkpoints/gguf_header.py": ("tests/exporters/test_checkpoints.py",),
    "exporters/checkpoints/hf_files.py": ("tests/exporters/test_hf_folder.py",),
}


def checks(path: Path) -> Iterator[ast.If]:
    """The checks of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If) and _refuses(node.body[0]):
            yield node


def _refuses(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        return "InputError" in ast.dump(statement) or "ValueError" in ast.dump(statement)
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Yield)


def without(text: str, check: ast.If) -> str:
    """The source with the check's condition False."""
    condition = ast.get_source_segment(text, check.test)
    assert condition is not None
    lines = text.splitlines(keepends=True)
    start = sum(map(len, lines[: check.test.lineno - 1])) + check.test.col_offset
    assert text[start:].startswith(condition), "source beyond ASCII before the condition"
    return f"{text[:start]}False{text[start + len(condition) :]}"


@click.command()
@click.argument("files", nargs=-1, type=click.Choice(list(READERS)))
def main(files: tuple[str, ...]) -> None:
    """Print each check, and the test that misses it; the status is 1 where no test does."""
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "opdiff"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".git", "demo", "build", "fuzzed", "__pycache__")
        )
        for file in files or READERS:
            text = (copy / file).read_text()
            for check in checks(copy / file):
                (copy / file).write_text(without(text, check))
                missed = _failing(copy, (*READERS[file], _LIES))
                (copy / file).write_text(text)
                survivors += missed is None
                condition = " ".join((ast.get_source_segment(text, check.test) or "").split())[:70]
                click.echo(f"{file}:{check.lineno} `{condition}`: {missed or 'NO TEST FAILS'}")
    click.echo(f"{survivors} checks are missed by no test")
    sys.exit(1 if survivors else 0)


def _limit_memory() -> None:
    """What reads without a bound may not take the machine with it."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))


def _failing(copy: Path, tests: Sequence[str]) -> str | None:
    """The first test that fails in the copy."""
    for test in tests:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", test]
        env = {**os.environ, "PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            ran = subprocess.run(
                command, cwd=copy, env=env, capture_output=True, text=True, timeout=_SECONDS, preexec_fn=_limit_memory
            )
        except subprocess.TimeoutExpired:
            return f"{test} does not come to an end"
        failed = next((line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), None)
        if ran.returncode < 0:
            return f"{test} ends by signal {-ran.returncode}"
        if ran.returncode not in (0, 1):
            raise RuntimeError(f"pytest cannot run {test}: {ran.stdout[-1000:]}")
        if failed is not None:
            return failed.split(" - ")[0]
    return None


if __name__ == "__main__":
    main()
