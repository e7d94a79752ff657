"""GitHub annotations: at the lines of files of the repository, and no text can be taken for a command."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from opdiff.compare.baseline import compared
from opdiff.compare.report.annotations import github_annotations
from opdiff.compare.result import Result

LINE = re.compile(r"::(error|notice) file=([^,:\n]*),line=(\d+),title=([^,:\r\n]*)::([^\r\n]*)")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    (root / "src").mkdir(parents=True)
    for name in ("mine.py", "a, b: 100%.py"):
        (root / "src" / name).write_text("x = 1\n")
    (tmp_path / "other.py").write_text("x = 1\n")
    return root


def at(result: Result, source: object, a_source: object = None) -> Result:
    """The result, with other lines for its cause."""
    texts = [None if one is None else str(one) for one in (source, a_source)]
    return replace(result, root_causes=(replace(result.root_causes[0], source=texts[0], a_source=texts[1]),))


def unescaped(text: str) -> str:
    for mark, code in ((",", "%2C"), (":", "%3A"), ("\n", "%0A"), ("\r", "%0D"), ("%", "%25")):
        text = text.replace(code, mark)
    return text


def test_bs_line_is_an_error_and_as_a_notice(parted: Result, repository: Path):
    b, a = f"{repository}/src/mine.py:12", f"{repository}/src/mine.py:3"
    first, second = (LINE.fullmatch(line) for line in github_annotations(at(parted, b, a), repository))
    assert first is not None
    assert first.groups()[:3] == ("error", "src/mine.py", "12")
    assert unescaped(first[4]) == f"opdiff: {parted.root_causes[0].what}"
    assert unescaped(first[5]).endswith("\nmending it moves the logits by up to 5.67")
    assert second is not None
    assert second.groups()[:3] == ("notice", "src/mine.py", "3")


def test_real_lines_are_those_of_the_variants(diagnosis: Result):
    root = Path(__file__).parents[3]
    found = [LINE.fullmatch(line) for line in github_annotations(diagnosis, root)]
    assert [(one[1], one[2]) for one in found if one] == 3 * [
        ("error", "exporters/variants/legacy.py"),
        ("notice", "exporters/variants/dsl.py"),
    ]


@pytest.mark.parametrize(
    "source",
    [
        "{}/../other.py:1",
        "{}/src/../../other.py:1",
        "/etc/passwd:1",
        "{}/src/none.py:1",
        "{}/src:1",
        "{}/src/mine.py",
        "a",
    ],
)
def test_what_is_no_file_below_the_root_has_no_annotation(source: str, parted: Result, repository: Path):
    assert list(github_annotations(at(parted, source.format(repository)), repository)) == []


def test_a_link_that_leads_out_of_the_root_has_no_annotation(parted: Result, repository: Path):
    (repository / "link.py").symlink_to(repository.parent / "other.py")
    assert list(github_annotations(at(parted, f"{repository}/link.py:1"), repository)) == []


def test_a_cause_without_a_line_has_none(parted: Result, repository: Path):
    assert list(github_annotations(at(parted, None), repository)) == []


def test_marks_in_a_path_are_escaped(parted: Result, repository: Path):
    (line,) = github_annotations(at(parted, f"{repository}/src/a, b: 100%.py:1"), repository)
    found = LINE.fullmatch(line)
    assert found is not None
    assert found[2] == "src/a%2C b%3A 100%25.py"


def test_hostile_text_stays_within_its_line(hostile: Result, repository: Path):
    (line,) = github_annotations(at(hostile, f"{repository}/src/mine.py:1"), repository)
    assert LINE.fullmatch(line) is not None
    assert line.isprintable()
    assert line.startswith("::error file=src/mine.py,line=1,title=opdiff%3A <script>")


def test_what_a_baseline_knows_is_a_notice(parted: Result, repository: Path):
    placed = at(parted, f"{repository}/src/mine.py:12")
    known = compared(placed, placed, Path("known.json"))
    (line,) = github_annotations(placed, repository, known)
    assert line.startswith("::notice file=src/mine.py,line=12")
