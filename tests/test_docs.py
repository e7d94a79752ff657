"""The documentation: whatever README.md and docs/ show is run, and prints what they show; names and links are real; the site builds."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from contextvars import copy_context
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import made_once
from markdown_it import MarkdownIt
from pages import PAGES, ROOT, Export, Reader

from opdiff.__main__ import main
from opdiff.compare.conventions import CONVENTIONS
from opdiff.graphs.stages import CACHES, OF_SOME, STAGES, split_tap_name


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Export:
    """Runs an export once, whichever page asks first, and gives each page a copy of what it wrote."""

    def run(arguments: list[str], folder: Path) -> str:
        place = arguments.index("--out") + 1
        words = [*arguments[:place], "out", *arguments[place + 1 :]]

        def make(home: Path) -> None:
            with chdir(home):
                done = copy_context().run(CliRunner().invoke, main, words)
            assert done.exit_code == 0, done.output
            (home / "printed").write_text(done.stdout)

        name = hashlib.sha256(" ".join(words).encode()).hexdigest()[:12]
        home = made_once(tmp_path_factory, worker_id, f"docs-{name}", make)
        shutil.copytree(home / "out", folder / arguments[place], dirs_exist_ok=True)
        return (home / "printed").read_text().replace("out/", f"{arguments[place]}/")

    return run


@pytest.fixture
def reader(tmp_path: Path, export: Export) -> Reader:
    return Reader(tmp_path, export)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_everything_that_a_page_shows_runs_and_prints_what_it_shows(page: Path, reader: Reader):
    reader.read(page)


BAD = {
    "a command that is none": "```sh\nopdiff compere a b\n```\n",
    "a command that another program would run": "```sh\nls\n```\n",
    "a block that does not say what it is": "```\nopdiff --help\n```\n",
    "a language that nobody runs": "```perl\nprint\n```\n",
    "a command among text": "```text\nopdiff export seed\n```\n",
    "a command of ours that is not run": "<!-- not run: slow -->\n```sh\nopdiff demo\n```\n",
    "a line that is not printed": "```sh\nopdiff --help\n```\n\n```text\nno such line\n```\n",
    "a status that it does not have": "<!-- status 2 -->\n```sh\nopdiff --help\n```\n",
    "Python that fails": "```python\nimport opdiff.nothing\n```\n",
    "a target that make does not have": "```sh\nmake coffee\n```\n",
    "an extra that is none": "```sh\npip install 'opdiff[coffee]'\n```\n",
    "lines to change that are not there": "```diff\n--- api.py\n@@\n-no such line\n+another\n```\n",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_page_is_refused_that_shows(text: str, reader: Reader):
    page = reader.folder / "page.md"
    page.write_text(text)
    with pytest.raises((AssertionError, ImportError)):
        reader.read(page)


def words(page: Path) -> Iterator[str]:
    """What stands between backticks in a page's own text."""
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        yield from (one.content for one in token.children or () if one.type == "code_inline")


def wrong_names(page: Path) -> list[str]:
    """Conventions, taps and options that the page names and opdiff does not have."""
    conventions = {one.name for one in CONVENTIONS}
    families = {name.split(".")[0] for name in conventions}
    options = {option for command in main.commands.values() for one in command.params for option in one.opts}
    foreign = {"--no-deps", "--version", "--help"}
    found = []
    for word in words(page):
        name = word.split("=")[0]
        if re.fullmatch(r"[a-z_]+\.[a-z_]+", name) and name.split(".")[0] in families and name not in conventions:
            found.append(word)
        if re.fullmatch(r"blk\.(\d+|N)\.[a-z_]+", word):
            stage = split_tap_name(word.replace("N", "0"))[1]
            found += [] if stage in (*STAGES, *CACHES, *OF_SOME) else [word]
        found += [one for one in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", word) if one not in options | foreign]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_no_convention_stage_or_option_that_is_not_there(page: Path):
    assert wrong_names(page) == []


def test_the_check_of_names_can_fail(tmp_path: Path):
    (tmp_path / "page.md").write_text("`rope.pairing=half_split`, `rope.colour`, `blk.0.q_rop`, `compare --nothing`\n")
    assert wrong_names(tmp_path / "page.md") == ["rope.colour", "blk.0.q_rop", "--nothing"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_to_a_file_leads_to_one(page: Path):
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    inner = [one for token in tokens for one in token.children or ()]
    targets = [str(one.attrs.get("href") or one.attrs.get("src") or "").split("#")[0] for one in inner]
    missing = [one for one in targets if one and "://" not in one and not (page.parent / one).exists()]
    assert missing == []


def test_the_site_builds_without_a_warning(tmp_path: Path):
    for module in ("sphinx", "myst_parser", "furo", "sphinx_click"):
        pytest.importorskip(module, reason="the site wants pip install 'opdiff[docs]'")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(ROOT / "docs"), "site"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").exists()
    commands = re.sub(r"<[^>]*>", "", (tmp_path / "site" / "commands.html").read_text(encoding="utf-8"))
    assert all(f"opdiff {name}" in commands for name in main.commands)
    assert "root_causes" in (tmp_path / "site" / "json.html").read_text(encoding="utf-8")
