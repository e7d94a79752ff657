"""ONNX files that packages of other people carry, each against what optimisers make of it: the table in FILES.md.

    pip install --no-deps --target files silero-vad magika nudenet rapidocr-onnxruntime onnxslim onnxsim
    cd tests && PYTHONPATH=../files ../.venv/bin/python -m foreign.files > foreign/FILES.md

Files whose package is not there are left out.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
from foreign import models

from opdiff.compare.align.foreign import align_foreign
from opdiff.compare.diagnose import compare
from opdiff.compare.opening import open_either
from opdiff.compare.result import Result
from opdiff.graphs.errors import InputError
from opdiff.graphs.run import Runner

PACKAGES = ("silero_vad", "magika", "nudenet", "rapidocr_onnxruntime")
WITHOUT_OTHERS = ("silero_vad_16k_sequence",)  # of other inputs than the rest of its package
OF_OTHER_WEIGHTS = "silero_vad_half"
Given = dict[str, np.ndarray]


def files() -> Iterator[Path]:
    """The files that are there, by package."""
    for package in PACKAGES:
        found = find_spec(package)
        for folder in () if found is None else found.submodule_search_locations or ():
            yield from sorted(Path(folder).rglob("*.onnx"))


OPTIMISERS: dict[str, Callable[[Path, Path], Path]] = {
    "onnxslim": models.slim,
    "onnxsim": models.simplified,
    "onnxruntime extended": lambda path, made: models.saved_by_onnxruntime(path, "extended", made),
}


def optimised(path: Path, by: str, folder: Path) -> Path | str:
    """The file as an optimiser writes it, or why it does not."""
    made = folder / f"{path.stem}.{by.split()[0]}.onnx"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            OPTIMISERS[by](path, made)
    except ImportError:
        return "not installed"
    except Exception as e:  # whatever an optimiser fails with
        return f"{by} fails: {str(e).splitlines()[0]:.60}"
    return made


def spoken(path: Path) -> Given:
    """What silero-vad's files take: 36 ms of sound at 16 kHz, and a state."""
    random = np.random.default_rng(0)
    numbers: Given = {
        "input": random.standard_normal((1, 576)).astype(np.float32) / 10,
        "state": random.standard_normal((2, 1, 128)).astype(np.float32) / 10,
        "sr": np.array(16000, np.int64),
    }
    taken = {info.name for info in onnx.load(path, load_external_data=False).graph.input}
    return {name: value for name, value in numbers.items() if name in taken}


def row(a: Path, b: Path, given: tuple[Given, Given] = ({}, {})) -> tuple[str, ...]:
    """What came of one pair."""
    started = time.perf_counter()
    try:
        result = compare(a, b, inputs=given)
    except InputError as e:
        return "", "", "", "", f"refused: {e}"
    seconds = time.perf_counter() - started
    pair = align_foreign(*(open_either(path, None, {}) for path in (a, b)), None, Runner(), given)
    shares = [f"{100 * pair.share(side):.0f}" for side in "ab"]
    return str(len(pair.named)), *shares, f"{seconds:.1f}", told(result)


def told(result: Result) -> str:
    """What a comparison found, in a few words."""
    if result.parity:
        return "nothing blamed"
    others = [note.split(": ")[0] for note in result.notes if "other numbers than" in note]
    return "; ".join([f"{len(result.root_causes)} causes", *others])


def main() -> None:
    """Make all files, compare them, and print the table."""
    warnings.filterwarnings("ignore")
    print("# Files by others\n")
    print(
        "As `cd tests && PYTHONPATH=../files ../.venv/bin/python -m foreign.files` printed it, with inputs that opdiff made:"
    )
    print("points, the share of A's and of B's values that have a partner (%), and seconds.\n")
    print("| file | against | points | A | B | s | |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for path in files():
            for by in OPTIMISERS:
                made = optimised(path, by, Path(name))
                cells = ("", "", "", "", made) if isinstance(made, str) else row(path, made)
                print("| " + " | ".join((path.stem, f"its own, by {by}", *cells)) + " |", flush=True)
    print("\nsilero-vad's files against each other, on one input:\n")
    print("| A | B | points | A | B | s | |\n|---|---|---|---|---|---|---|")
    voices = [path for path in files() if "silero" in path.stem and path.stem not in WITHOUT_OTHERS]
    for a, b in combinations(voices, 2):
        print("| " + " | ".join((a.stem, b.stem, *row(a, b, (spoken(a), spoken(b))))) + " |", flush=True)


if __name__ == "__main__":
    main()
