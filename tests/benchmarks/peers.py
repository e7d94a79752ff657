"""opdiff, Polygraphy, onnx-diagnostic and onnx-array-api on the same pairs of graphs. `make bench-peers` runs it, and makes the peers' environment.

Each tool runs once, as whole processes, by the way that its own help gives for two models' intermediate values. What it found is
read from its own report; where there is none, its error line stands instead. The tables go to stdout as Markdown.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from benchmarks.measured import Measured, measured, opdiff, python, watched
from benchmarks.shapes import QWEN3_0_6B, Shape, write_gguf

_HERE = Path(__file__).parent
_TOKENS = ",".join(str(37 * i % 8000) for i in range(16))
_SMALL = replace(QWEN3_0_6B, n_blocks=4, vocab_size=8192)
_TOLERANCE = 1e-5  # onnx-diagnostic's own, absolute and relative; Polygraphy's is the same
_HEAD = ("tool", "command", "seconds", "anonymous, MB", "says first", "lists", "names as the cause")


@dataclass(frozen=True, slots=True)
class Pair:
    """A wrong variant and the reference on one shape; `planted` is what the wrong one does otherwise, first where.

    route: as opdiff exports them, with taps; as torch.onnx.export does; or so, and the reference as onnxruntime optimises it.
    """

    title: str
    shape: Shape
    wrong: str
    planted: str
    route: Literal["taps", "torch", "optimised"] = "taps"

    @property
    def files(self) -> tuple[str, str]:
        """The two graphs."""
        return f"{self.wrong}.onnx", "optimised.onnx" if self.route == "optimised" else "reference.onnx"


@dataclass(frozen=True, slots=True)
class Said:
    """A tool's answer: the first tensors that it reports, how many, and the cause that it names."""

    first: str
    lists: str
    cause: str = "none"


@dataclass(frozen=True, slots=True)
class Tool:
    """`commands` run one after the other in the pair's folder; `read` finds the answer there, and None without one."""

    name: str
    commands: list[list[str]]
    read: Callable[[Path, str], Said | None]


_TWO = "the eps of QK-norm and the pairing of RoPE in every block, first at `blk.0.q_norm`"
_SQUARE = "square weights transposed in every block, first at `blk.0.q_proj`"
_PAIRS = (
    Pair("dsl and reference, 4 blocks of Qwen3-0.6B, 8192 words", _SMALL, "dsl", _TWO),
    Pair("legacy and reference, the same with 8 heads for 16", replace(_SMALL, n_heads=8), "legacy", _SQUARE),
    Pair("dsl and reference, Qwen3-0.6B (28 blocks, 2.4 GB)", QWEN3_0_6B, "dsl", _TWO),
    Pair(
        "Without taps: torch's export of the reference, 4 blocks, and onnxruntime's optimised copy of it",
        _SMALL,
        "reference",
        "nothing",
        "optimised",
    ),
    Pair("Without taps: torch's exports of dsl and reference, 4 blocks", _SMALL, "dsl", _TWO, "torch"),
    Pair(
        "Without taps: torch's export of dsl, 4 blocks, and onnxruntime's optimised copy of the reference",
        _SMALL,
        "dsl",
        _TWO,
        "optimised",
    ),
)


def main() -> None:
    """Measure, and print a table for each pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, required=True, help="the environment that holds the peers")
    parser.add_argument(
        "--pairs", type=int, nargs="*", default=range(len(_PAIRS)), help="which (default: all; 2 is large)"
    )
    parser.add_argument("--work", type=Path, help="a folder for 20 GB of files (default: a temporary one)")
    parser.add_argument("--limit-seconds", type=float, default=900, help="for each process; its memory: 3/4 of all")
    options = parser.parse_args()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    limits = options.limit_seconds, 0.75e9 * memory
    machine = f"{os.cpu_count()} cores, {memory:.0f} GB, load {os.getloadavg()[0]:.1f} before"
    print(f"{date.today()}, {machine}; 16 tokens, one run of each.")
    for pair in (_PAIRS[n] for n in options.pairs):
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            _export(pair, Path(folder))
            print(f"\n{pair.title}. Planted: {pair.planted}.\n")
            for line in (_HEAD, ("---",) * len(_HEAD)):
                print("| " + " | ".join(line) + " |", flush=True)
            for tool in _tools(pair, (options.peers / "bin").absolute()):
                print("| " + " | ".join(_row(tool, Path(folder), *limits)) + " |", flush=True)


def _export(pair: Pair, folder: Path) -> None:
    """The two graphs; for sbs the wrong module as an ExportedProgram, the reference by torch.onnx.export."""
    model = write_gguf(pair.shape, folder / "model.gguf")
    variants = list(dict.fromkeys((pair.wrong, "reference")))
    if pair.route == "taps":
        asked = [word for variant in variants for word in ("--variant", variant)]
        measured(opdiff("export", model, *asked, "--copy-weights", "--out", folder), 1)
        measured(python(_HERE / "exported_program.py", model, pair.wrong, _TOKENS, folder), 1)
        measured(python(_HERE / "plain_export.py", model, folder), 1)
    else:
        for variant in variants:
            measured(python(_HERE / "plain_export.py", model, folder, variant, f"{variant}.onnx"), 1)
    if pair.route == "optimised":
        measured(python(_HERE / "optimised.py", folder / "reference.onnx", folder / "optimised.onnx"), 1)
    model.unlink()
    loader = f'import numpy\n\n\ndef load_data():\n    yield {{"tokens": numpy.array([{_TOKENS}], "int64")}}\n'
    (folder / "tokens.py").write_text(loader)


def _tools(pair: Pair, peers: Path) -> Iterator[Tool]:
    a, b = pair.files
    ours = opdiff("compare", a, b, "--tokens", _TOKENS, "--json", "opdiff.json")
    yield Tool(f"opdiff {version('opdiff')}", [ours], _opdiff)
    pinned = dict(line.split("==") for line in (_HERE / "peers-requirements.txt").read_text().split() if "==" in line)
    every, taps = ["--onnx-outputs", "*"], ["--no-shape-check"]  # with both, 0.53.6 ends in a ValueError
    for asked in (every, taps) if pair.route == "taps" else (every,):
        run, how = [str(peers / "polygraphy"), "run"], ["--onnxrt", "--data-loader-script", "tokens.py", *asked]
        both = [[*run, a, *how, "--save-outputs", "a.json"], [*run, b, *how, "--load-outputs", "a.json"]]
        yield Tool(f"Polygraphy {pinned['polygraphy']}", both, _polygraphy)
    python_of_peers, name = str(peers / "python"), f"onnx-diagnostic {pinned['onnx-diagnostic']}"
    module = [python_of_peers, "-m", "onnx_diagnostic"]
    if pair.route == "taps":
        sbs = [*module, "sbs", "-i", "input.pt", "-e", f"{pair.wrong}.pt2", "-m", "plain.onnx", "-o", "sbs.xlsx"]
        yield Tool(name, [sbs], partial(_sbs, python_of_peers))
        yield Tool(name, [[*sbs, "--second-run"]], partial(_sbs, python_of_peers))
    yield Tool(name, [[*module, "compare", a, b]], _edit_distance)
    if pair.route != "taps":
        called = [python_of_peers, str(_HERE / "array_api.py"), a, b, _TOKENS]
        yield Tool(f"onnx-array-api {pinned['onnx-array-api']}", [called], _array_api)


def _row(tool: Tool, folder: Path, limit_seconds: float, limit_bytes: float) -> Iterator[str]:
    log, runs = folder / "log", list[Measured]()
    log.unlink(missing_ok=True)
    for command in tool.commands:
        run, status = watched(command, folder, log, limit_seconds, limit_bytes)
        runs.append(run)
        if status != 0:
            break
    yield tool.name
    yield ", then ".join(f"`{_shown(command)}`" for command in tool.commands[: len(runs)])
    yield f"{sum(run.seconds for run in runs):.1f}"
    yield f"{max(run.anonymous_bytes for run in runs) / 1e6:.0f}"
    if status is None:
        limit = f"{limit_seconds:.0f} s" if run.seconds > limit_seconds else f"{limit_bytes / 1e9:.0f} GB"
        said = Said(f"no answer: stopped at its limit of {limit}", "", "")
    else:
        text = log.read_text(errors="replace")
        said = tool.read(folder, text) or Said(_error(text), "", "")
    yield from (said.first, said.lists, said.cause)


def _shown(command: list[str]) -> str:
    return " ".join(Path(word).name if "/" in word else word for word in command).replace(_TOKENS, "0,37,...")


def _error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it printed nothing"]
    own = [line for line in lines if re.search(r"\w*(Error|Exception)\b", line)] or lines
    return f"`{own[-1][:200].replace('|', '/')}`"


def _opdiff(folder: Path, log: str) -> Said | None:
    if not (folder / "opdiff.json").exists():
        return None
    result = json.loads((folder / "opdiff.json").read_text())
    causes = ", ".join(f"`{cause['convention'] or cause['what']}`" for cause in result["root_causes"]) or "none"
    lists = f"{len(result['divergences'])} at fault, of {len(result['rows'])} compared"
    return Said(
        f"`{result['first_divergence'] or 'the same'}`", lists, f"{causes}; complete: {result['closed']['complete']}"
    )


def _polygraphy(folder: Path, log: str) -> Said | None:
    failed = re.findall(r"FAILED \| Output: ['`](.+?)['`] \|", log)
    if "Accuracy Summary" not in log:
        return None
    lists = f"{len(failed)} failed, of {log.count('Comparing Output:')} compared"
    return Said(_first_two(failed), lists)


def _sbs(python_of_peers: str, folder: Path, log: str) -> Said | None:
    if not log.rstrip().endswith("-- done"):
        return None
    to_csv = "import pandas; pandas.read_excel('sbs.xlsx').to_csv('sbs.csv')"
    subprocess.run([python_of_peers, "-c", to_csv], cwd=folder, check=True)
    with open(folder / "sbs.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["err_abs"] and row["onnx_op_type"] != "initializer"]
    over = [row for row in rows if not max(float(row["err_abs"]), float(row["err_rel"])) <= _TOLERANCE]
    shapes = sum(row["err_abs"] == "inf" for row in over)
    lists = f"{len(over)} over its tolerance ({shapes} for their shapes), of {len(rows)} compared"
    return Said(_first_two([row["onnx_name"] for row in over]), lists)


def _first_two(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:2]) or "none"


def _edit_distance(folder: Path, log: str) -> Said | None:
    rows = [[side.strip() for side in line.split("|")[1:3]] for line in log.splitlines() if line.count("|") == 2]
    if "-- done with distance" not in log:
        return None
    alone = [row for row in rows if "" in row]
    first = " ".join("".join(alone[0]).split()) if alone else "none"
    return Said(f"`{first}`", f"{len(alone)} on one side only, of {len(rows)} rows; compares no values")


def _array_api(folder: Path, log: str) -> Said | None:
    rows = [line for line in log.splitlines() if re.match(r"\d+ [=~+-] \|", line)]
    if not rows:
        return None
    other = [row for row in rows if row[4] != "="]
    first = " ".join(other[0][7:].replace("|", " / ").split()) if other else "none"
    return Said(f"`{first}`", f"{len(other)} other or on one side only, of {len(rows)} rows")


if __name__ == "__main__":
    main()
