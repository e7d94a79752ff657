"""Data that one graph alone reads, in a file beside it that is named by what it holds.

The two are one artifact, and no system renames two files at once. So new data never take an old name: the .onnx that names
them makes them current when it is renamed, and only then goes what it named before. A run that is killed at any point leaves
the old graph with the old data, or the new one with the new.
"""

from __future__ import annotations

import re
from pathlib import Path

_N_DIGITS = 16  # of the hash, in hexadecimal


def data_file(graph: Path, sha256: str, ending: str) -> Path:
    """Where the graph's data of this hash stand: `legacy.0123456789abcdef.weights.safetensors`."""
    return graph.with_name(f"{graph.stem}.{sha256[:_N_DIGITS]}{ending}")


def remove_others(graph: Path, ending: str, kept: Path | None) -> None:
    """Remove the data that the graph read before it was written anew."""
    name = re.compile(re.escape(graph.stem) + rf"\.[0-9a-f]{{{_N_DIGITS}}}" + re.escape(ending))
    for file in graph.parent.iterdir():
        if name.fullmatch(file.name) and file != kept:
            file.unlink(missing_ok=True)
