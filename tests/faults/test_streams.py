"""Standard streams that are closed, full, or of a reader that has seen enough: a line at the most, and the status that fits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .models import save_pair

OPDIFF = f"{sys.executable} -m opdiff"
COMPARE = "compare a.onnx b.onnx --tokens 1,5,3"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    save_pair(folder)
    return folder


def shell(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash; the status is that of opdiff, and not of what reads its output."""
    line = f"set -o pipefail; {text}"
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&- <&-", "| head -n 1", "| true"])
def test_an_answer_that_nobody_reads_is_still_the_exit_status(streams: str, pair: Path):
    done = shell(f"{OPDIFF} {COMPARE} --json out.json {streams}", pair)
    assert (done.returncode, done.stderr) == (1, "")
    assert (pair / "out.json").read_text().endswith("}\n")


@pytest.mark.parametrize("command", [COMPARE, "--help", "compare --help", "completion bash"])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="wants /dev/full")
def test_full_output_is_one_line(command: str, pair: Path):
    done = shell(f"{OPDIFF} {command} > /dev/full", pair)
    assert done.returncode == 2
    assert done.stderr == "opdiff: output: No space left on device; choose another place\n"


def test_a_reader_that_left_ends_what_has_no_answer_as_sigpipe_does(pair: Path):
    done = shell(f"{OPDIFF} completion bash | true", pair)
    assert done.returncode in (0, 141)  # 0 where it was written before the reader was gone
    assert done.stderr == ""
    done = shell(f"({OPDIFF} {COMPARE} -v 3>&1 1>&2 2>&3) 2>/dev/null | head -n 1", pair)
    assert done.returncode in (1, 141)
    assert "Traceback" not in done.stderr + done.stdout


def test_errors_that_nobody_reads_are_still_the_exit_status(pair: Path):
    for streams in ("2>&-", "2> /dev/full"):
        assert shell(f"{OPDIFF} compare none.onnx none.onnx --tokens 1 {streams}", pair).returncode == 2


def test_a_closed_output_is_not_a_file_that_is_written(pair: Path):
    """The first file that a process opens gets the lowest free number, which would be that of its output."""
    done = shell(f"{OPDIFF} {COMPARE} --values values >&-", pair)
    assert (done.returncode, done.stderr) == (1, "")
    again = shell(f"{OPDIFF} compare a.onnx values/a.safetensors -q", pair)
    assert again.returncode == 0, again.stderr
