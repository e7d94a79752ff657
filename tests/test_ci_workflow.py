"""The workflow of docs/ci.md: a real one, by GitHub's schema, and its commands are opdiff's."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from pages import ROOT, blocks

from opdiff.__main__ import main


def workflow() -> str:
    (found,) = (block.text for block in blocks(ROOT / "docs" / "ci.md") if block.language == "yaml")
    return found


def linted(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """By the schema that check-jsonschema brings along; nothing is fetched."""
    (folder / "parity.yml").write_text(text)
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", "parity.yml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def commands(text: str) -> Iterator[list[str]]:
    """The command lines of opdiff in its steps."""
    for job in yaml.safe_load(text)["jobs"].values():
        for step in job["steps"]:
            for line in step.get("run", "").replace("\\\n", " ").splitlines():
                words = shlex.split(line)
                if words[:1] == ["opdiff"]:
                    yield words[1:]


def test_the_workflow_is_as_githubs_schema_says(tmp_path: Path):
    done = linted(workflow(), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lint_can_fail(tmp_path: Path):
    for right, wrong in (("runs-on:", "run-on:"), ("    steps:", "    step:"), ("contents: read", "contents: reed")):
        assert right in workflow()
        assert linted(workflow().replace(right, wrong), tmp_path).returncode == 1, wrong


def test_its_commands_have_only_options_that_there_are():
    found = list(commands(workflow()))
    assert [words[0] for words in found] == ["export", "compare"]
    for name, *arguments in found:
        main.commands[name].make_context(name, arguments)


def test_what_one_step_writes_the_next_reads():
    (export, compare) = commands(workflow())
    assert compare[1] == f"{export[export.index('--out') + 1]}/reference.onnx"
    assert compare[2] in workflow().split("- name: Export")[0]
