"""Two exports into one folder at once."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from opdiff.graphs.artifact import load_artifact

from .models import write_sources
from .warm import Done, opdiff


def both(root: Path, *commands: str) -> list[Done]:
    folders = [root / "first", root / "second"]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        write_sources(folder, 1.0)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda command, folder: opdiff(command.split(), folder), commands, folders))


def test_both_end_well_one_after_the_other(tmp_path: Path):
    done = both(
        tmp_path,
        "export seed --variant variant.py:Mine --out ../out",
        "export seed --variant variant.py:Mine --copy-weights --out ../out",
    )
    told = re.escape(f"opdiff: {Path('..', 'out')}: another export writes there; waiting for its end\n")
    refusal = r"opdiff: \.\./out/weights\.safetensors: lacks what is needed now .*\n"  # linked ones serve no copy
    for one in done:
        assert re.fullmatch(f"({told})?" if one.status == 0 else f"({told})?{refusal}", one.err), one.err
    assert 0 in [one.status for one in done]
    artifact = load_artifact(tmp_path / "out" / "Mine.onnx")
    assert (artifact.weights["variant.own"].array == 1.0).all()
    assert not [file for file in (tmp_path / "out").iterdir() if file.name.startswith(".")]
