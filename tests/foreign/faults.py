"""The corpus's faults in graphs without taps, by three routes and across routes: the table in FAULTS.md.

    cd tests && ../.venv/bin/python -m foreign.faults > foreign/FAULTS.md
    cd tests && ../.venv/bin/python -m foreign.faults --minutes 20

Each fault stands alone in the middle block of a tiny model at random weights.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from corpus.faults import FAULTS, Fault
from corpus.models import TOKENS, tiny_model
from foreign import models

from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result, RootCause
from opdiff.graphs.errors import OpdiffError
from opdiff.graphs.stages import split_tap_name

BLOCK = 1
HEADER = """# Faults without taps

As `cd tests && ../.venv/bin/python -m foreign.faults` printed it: the corpus's faults, each alone in the middle block, the
routes of the right graph and of the wrong one, where the blamed regions are, causes, and whether they are all.

| fault | routes | regions | causes | closed | |
|---|---|---|---|---|---|"""
_PLACES = ("exact", "in its block", "next block", "elsewhere", "none", "refused", "not exported")
WORDS = (*_PLACES, "one cause", "closed")
Route = Callable[[Any, Path], Path]


def by_torch(model: Any, path: Path) -> Path:
    """As torch.onnx writes it, at opset 18, attention in steps."""
    return models.written(models.Logits(model), models.IDS, path, 18, "input_ids")


def fused(model: Any, path: Path) -> Path:
    """As torch.onnx writes it at opset 23: Attention and RMSNormalization as one node each."""
    model.config._attn_implementation = "sdpa"
    return models.written(models.Logits(model), models.IDS, path, 23, "input_ids")


ROUTES: dict[str, Route] = {
    "torch": by_torch,
    "torch, opset 23": fused,
    "TorchScript": lambda model, path: models.by_torchscript(model, path, "eager", is_open=False),
    "onnxruntime all": lambda model, path: models.saved_by_onnxruntime(by_torch(model, path), "all"),
    "four bits": lambda model, path: models.in_four_bits(by_torch(model, path)),
    "float16": lambda model, path: models.in_half(by_torch(model, path)),
}
# The route of the right graph, and that of the one with a fault.
PAIRS = (
    ("torch", "torch"),
    ("TorchScript", "TorchScript"),
    ("onnxruntime all", "onnxruntime all"),
    ("torch, opset 23", "four bits"),
    ("TorchScript", "float16"),
)


def place(result: Result, fault: Fault) -> str:
    """Whether the regions that are blamed are the fault's: `exact`, `in its block`, where the next block begins (the first
    one, for the embedding), or `elsewhere`; `none` where none is.

    A stage may have no value on one side, or the other's value under its name: then the region that reads it is blamed.
    """
    blamed, wanted = {one.tap for one in result.divergences}, fault.taps(BLOCK)
    if not blamed:
        return "none"
    if blamed == wanted:
        return "exact"
    blocks, own = ({split_tap_name(tap)[0] for tap in taps} for taps in (blamed, wanted))
    if blocks == own:
        return "in its block"
    following = BLOCK + 1 if fault.in_block else 0
    is_read_there = (fault.in_block or wanted == {"embed"}) and blocks <= {*own, following}
    return "next block" if is_read_there else "elsewhere"


def sentence(cause: RootCause) -> str:
    """What a cause says, without B's name before it, and no more of it than fits a table."""
    told = cause.text.split(": ", 1)[-1][:90]
    return told if cause.convention is None else f"{cause.convention}: {told}"


def rows(fault: Fault, folder: Path) -> Iterator[tuple[str, ...]]:
    """What came of one fault, for each pair of routes."""
    for a, b in PAIRS:
        told: tuple[str, ...]
        try:
            paths = made(a, None, fault, folder), made(b, fault, fault, folder)
            result = compare(*paths, TOKENS, with_pictures=False)
        except OpdiffError as e:
            told = ("refused", "", "", str(e).splitlines()[0][:80])
        except RuntimeError:  # TorchScript's exporter
            told = ("not exported", "", "", "")
        else:
            causes = "; ".join(map(sentence, result.root_causes))
            closed = "yes" if result.closed is not None and result.closed.complete else "no"
            told = (place(result, fault), str(len(result.root_causes)), closed, causes)
        yield fault.name, f"{a} against {b}", *(one.replace("|", "/") for one in told)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Without what exporters print, from C++ too."""
    sys.stdout.flush()
    own = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.dup2(own, 1)
        os.close(own)


def made(route: str, patch: Fault | None, fault: Fault, folder: Path) -> Path:
    """The graph of a fault's model by one route, with the fault or without; made once."""
    path = folder / (fault.name.replace("/", " per ") if patch else fault.model) / route.replace(" ", "_") / "made.onnx"
    kept = path.parent / "path"
    if not kept.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = tiny_model(fault.model)
        if patch is not None:
            patch.apply(model, BLOCK)
        with torch.no_grad(), silenced():
            kept.write_text(str(ROUTES[route](model, path)))
    return Path(kept.read_text())


def summed(done: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """The lines of a table of how many rows came to what, for each pair of routes."""
    yield "| routes | " + " | ".join(WORDS) + " |"
    yield "|---|" + "---|" * len(WORDS)
    for pair in dict.fromkeys(row[1] for row in done):
        own = [row for row in done if row[1] == pair]
        found = Counter(row[2] for row in own)
        found.update({"one cause": sum(row[3] == "1" for row in own), "closed": sum(row[4] == "yes" for row in own)})
        yield "| " + " | ".join((pair, *(str(found[word]) for word in WORDS))) + " |"


def main() -> None:
    """Compare all faults by all pairs of routes, and print the table and how many were right."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", help="of faults; all where none is named")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no fault after so many")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    print(HEADER)
    end, faults = time.monotonic() + 60 * asked.minutes, [FAULTS[name] for name in asked.names or FAULTS]
    done: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for fault in (one for first in range(3) for one in faults[first::3]):
            if time.monotonic() > end:
                break
            for row in rows(fault, Path(temporary)):
                print("| " + " | ".join(row) + " |", flush=True)
                done.append(row)
    print(f"\n{len({row[0] for row in done})} of {len(FAULTS)} faults.\n")
    print("\n".join(summed(done)))


if __name__ == "__main__":
    main()
