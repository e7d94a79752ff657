"""The whole flow in seconds, as a user has it: export the seed, compare, read the answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def opdiff(*arguments: object, at: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "opdiff", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=at, env={**os.environ, "COLUMNS": "80"}, timeout=300
    )


def test_from_a_gguf_file_to_the_causes(tmp_path):
    variants = ("--variant", "dsl", "--variant", "legacy")
    done = opdiff("export", "seed", *variants, "--out", "out", at=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["out/dsl.onnx", "out/legacy.onnx"]
    files = ["dsl.onnx", "legacy.onnx", "seed.gguf", "weights.safetensors"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files

    graphs = ("out/dsl.onnx", "out/legacy.onnx", "--tokens", "1,5,3")
    done = opdiff("compare", *graphs, "--json", "r.json", at=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("differ: dsl (A: dsl) and legacy (B: legacy) part at blk.0.q_proj; 3 root causes")
    for cause in ("linear.layout", "rope.pairing", "qk_norm.eps: legacy has 1e-06, dsl has 1e-05", "complete: "):
        assert cause in done.stdout
    assert len(json.loads((tmp_path / "r.json").read_text())["root_causes"]) == 3

    same = opdiff("compare", "out/legacy.onnx", "out/legacy.onnx", "--tokens", "1,5,3", at=tmp_path)
    assert same.returncode == 0
