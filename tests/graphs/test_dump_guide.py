"""docs/dump-your-runtime.md: what it tells others to write is what `load_trace` reads."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from opdiff.graphs.name_map import AXES, read_name_map
from opdiff.graphs.stages import STAGES, default_axes
from opdiff.graphs.trace import load_trace

GUIDE = (Path(__file__).parent.parent.parent / "docs" / "dump-your-runtime.md").read_text(encoding="utf-8")
RUST_MAIN = """
fn main() -> Result<()> {
    let (embed, q) = (vec![1.0f32; 96], vec![0.5f32; 96]);
    dump("mine.safetensors", &[1, 5, 3], &[("embed", &[3, 32], &embed), ("blk.0.q_rope", &[3, 2, 16], &q)])
}
"""


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    assert found is not None
    return found[1]


def assert_dumped(path: Path) -> None:
    trace = load_trace(path)
    assert (trace.tokens, trace.unknown) == ((1, 5, 3), ())
    assert [tap.axes for tap in trace.taps.values()] == [("token", "channel"), ("token", "head", "channel")]
    np.testing.assert_array_equal(trace.values["embed"], np.ones((3, 32)))
    np.testing.assert_array_equal(trace.values["blk.0.q_rope"], np.full((3, 2, 16), 0.5))


def test_the_python_lines_write_a_trace(tmp_path):
    code = block("python") + '\nnp.savez("mine.npz", **taps)\n'
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    assert_dumped(tmp_path / "mine.safetensors")
    assert_dumped(tmp_path / "mine.npz")


@pytest.mark.skipif(shutil.which("rustc") is None, reason="rustc is not installed")
def test_the_rust_lines_write_a_trace(tmp_path):
    (tmp_path / "dump.rs").write_text(block("rust") + RUST_MAIN)
    subprocess.run(["rustc", "dump.rs"], cwd=tmp_path, check=True, timeout=120)
    subprocess.run([tmp_path / "dump"], cwd=tmp_path, check=True, timeout=60)
    assert_dumped(tmp_path / "mine.safetensors")


def test_the_name_map_is_one(tmp_path):
    (tmp_path / "names.toml").write_text(block("toml"))
    names = read_name_map(tmp_path / "names.toml")
    assert names.tap_of("model.layers.17.attn.query_rotated") == "blk.17.q_rope"
    assert names.axes == {"q_rope": ("batch", "head", "token", "channel")}
    assert all(f"`{word}`" in GUIDE for word in AXES)


def test_the_table_has_every_stage_with_its_axes():
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in GUIDE.splitlines() if line.startswith("| `")]
    said = {stage: row[2] for row in rows if len(row) == 3 for stage in re.findall(r"`(\w+)`", row[0])}
    assert set(said) == set(STAGES)
    for stage, text in said.items():
        for layout in text.split(", or "):
            words = tuple(layout.split())
            assert words in default_axes(stage, len(words)), stage
