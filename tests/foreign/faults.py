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
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from corpus.faults import FAULTS, Fault
from corpus.models import TOKENS, tiny_model
from foreign import models

from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result
from opdiff.graphs.errors import OpdiffError
from opdiff.graphs.stages import split_tap_name

BLOCK = 1
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
    """Whether the regions that are blamed are the fault's: `exact`, `in its block`, where the next block begins, or
    `elsewhere`; `none` where none is.

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
    return "next block" if fault.in_block and blocks <= {*own, BLOCK + 1} else "elsewhere"


def rows(fault: Fault, folder: Path) -> Iterator[tuple[str, ...]]:
    """What came of one fault, for each pair of routes."""
    for a, b in PAIRS:
        told: tuple[str, ...]
        try:
            paths = made(a, None, fault, folder), made(b, fault, fault, folder)
            result = compare(*paths, TOKENS, with_pictures=False)
        except (OpdiffError, RuntimeError) as e:
            told = ("refused", "", "", str(e).splitlines()[0][:80])
        else:
            causes = "; ".join(cause.text.split(": ", 1)[-1][:90] for cause in result.root_causes)
            closed = "yes" if result.closed is not None and result.closed.complete else "no"
            told = (place(result, fault), str(len(result.root_causes)), closed, causes)
        yield fault.name, f"{a} against {b}", *(one.replace("|", "/") for one in told)


def made(route: str, patch: Fault | None, fault: Fault, folder: Path) -> Path:
    """The graph of a fault's model by one route, with the fault or without; made once."""
    path = folder / (fault.name.replace("/", " per ") if patch else fault.model) / route.replace(" ", "_") / "made.onnx"
    kept = path.parent / "path"
    if not kept.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = tiny_model(fault.model)
        if patch is not None:
            patch.apply(model, BLOCK)
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            kept.write_text(str(ROUTES[route](model, path)))
    return Path(kept.read_text())


def main() -> None:
    """Compare all faults by all pairs of routes, and print the table and how many were right."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no fault after so many")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    print("# Faults without taps\n")
    print(
        "As `cd tests && ../.venv/bin/python -m foreign.faults` printed it: the corpus's faults, each alone in the middle block,"
    )
    print(
        "the routes of the right graph and of the wrong one, where the blamed regions are, causes, and whether they are all.\n"
    )
    print("| fault | routes | regions | causes | closed | |\n|---|---|---|---|---|---|")
    end, faults = time.monotonic() + 60 * asked.minutes, list(FAULTS.values())
    counts: dict[str, Counter[str]] = {}
    n_done = 0
    with tempfile.TemporaryDirectory() as temporary:
        for fault in (one for first in range(3) for one in faults[first::3]):
            if time.monotonic() > end:
                break
            n_done += 1
            for row in rows(fault, Path(temporary)):
                print("| " + " | ".join(row) + " |", flush=True)
                counted = counts.setdefault(row[1], Counter())
                counted.update([row[2], "one cause" if row[3] == "1" else "", "closed" if row[4] == "yes" else ""])
    print(
        f"\n{n_done} of {len(faults)} faults.\n\n| routes | exact | in its block | next block | elsewhere | none | refused | one cause | closed |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    words = ("exact", "in its block", "next block", "elsewhere", "none", "refused", "one cause", "closed")
    for pair, counted in counts.items():
        print("| " + " | ".join((pair, *(str(counted[word]) for word in words))) + " |")


if __name__ == "__main__":
    main()
