"""A run that the user stops leaves nothing half-written, and says how far it came."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from interrupts import heed_interrupts

_PATIENCE_SECONDS = 120


def interrupted(command: list[str], when: object) -> subprocess.CompletedProcess[str]:
    """Run opdiff, and press Ctrl-C as soon as `when()` holds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "opdiff", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    end = time.monotonic() + _PATIENCE_SECONDS
    while not when() and process.poll() is None and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=_PATIENCE_SECONDS)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.parametrize(
    ("seen", "at"), [(".weights.safetensors.*.partial", "weights"), ("weights.safetensors", "(weights|dsl)")]
)
def test_interrupted_export_leaves_only_whole_files_and_names_its_step(tmp_path: Path, seen: str, at: str):
    command = ["export", "smollm2", "--variant", "dsl", "--variant", "legacy", "--out", str(tmp_path)]
    ran = interrupted(command, lambda: any(tmp_path.glob(seen)))
    assert ran.returncode == 130, ran.stderr
    assert ran.stderr.count("\n") == 1
    assert re.search(f"interrupted while exporting {at}", ran.stderr)
    assert {file.name for file in tmp_path.iterdir()} <= {"weights.safetensors", "tokenizer.gguf"}
    assert not list(tmp_path.glob(".*"))


def test_interrupted_verdict_names_its_step_and_writes_nothing(tmp_path: Path):
    command = [
        "verdict",
        "smollm2",
        "--candidate",
        "dsl",
        "--against",
        "hf",
        "--no-q8",
        "--json",
        str(tmp_path / "v.json"),
    ]
    ran = interrupted([*command, "--out", str(tmp_path)], lambda: (tmp_path / "weights.safetensors").exists())
    assert ran.returncode == 130, ran.stderr
    *steps, line = ran.stderr.splitlines()
    assert all(re.fullmatch(r"opdiff: .* \(\d+ s\)", step) for step in steps)  # of a slow machine
    assert "smollm2: interrupted while exporting " in line
    assert {file.name for file in tmp_path.iterdir()} <= {"weights.safetensors", "tokenizer.gguf"}


def test_child_heeds_interrupts_though_its_parent_does_not():
    """As where the tests run in the background of a shell."""
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ran = [
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=heed)
            for heed in (None, heed_interrupts)
        ]
    finally:
        signal.signal(signal.SIGINT, before)
    assert [one.stdout.strip() for one in ran] == ["False", "True"]
