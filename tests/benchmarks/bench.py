"""What opdiff costs against doing it plainly, on the shape of Qwen3-0.6B with random weights. `make bench` runs it.

Every figure is a ratio of whole processes measured in one run; the table goes to stdout as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import onnx
from benchmarks.measured import Measured, measured, opdiff, python
from benchmarks.shapes import QWEN3_0_6B, QWEN3_8B, Shape, write_gguf
from foreign.models import without_taps

from opdiff.graphs.stages import IN_BLOCK, split_tap_name

_HERE = Path(__file__).parent
_PAIR = ("dsl", "reference")
_GROWTH = replace(QWEN3_0_6B, n_blocks=8, vocab_size=8192)
_STAGES = (  # of each block, those that are tapped, beside the three taps outside of the blocks
    ("ffn_residual",),
    ("q_rope", "k_rope", "attn_context", "attn_residual", "ffn_act", "ffn_residual"),
    IN_BLOCK,
)
Row = tuple[str, str, str, str, str]


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each command; the medians are printed")
    parser.add_argument("--work", type=Path, help="a folder for 10 GB of files (default: a temporary one)")
    parser.add_argument("--with-8b", action="store_true", help="measure the shape of Qwen3-8B too, which wants 20 GB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        print(
            f"{date.today()}, {_processor()}, {os.cpu_count()} cores, {_memory_gigabytes():.0f} GB; medians of "
            f"{options.runs} runs.\n"
        )
        _print(("figure", "plain", "opdiff", "ratio", "wanted"), _figures(Path(folder), options.runs))
        print(
            "\nGrowth (8 blocks of that width, 8192 tokens in the vocabulary, 16 tokens, where nothing else is said):\n"
        )
        _print(("what grows", "size", "compare, s", "anonymous, MB", ""), _growth(Path(folder), options.runs))
        print(
            "\nDecoding SmolLM2 against llama.cpp, each prefix anew (plain) and through the candidate's own cache (opdiff):\n"
        )
        _print(("figure", "plain", "opdiff", "ratio", "wanted"), _decoding(Path(folder), options.runs))
        print("\nThe shape of Qwen3-8B in bfloat16, 16 tokens, one run:\n")
        _print(("step", "blocks", "seconds", "anonymous, GB", "wanted"), _large(Path(folder), options.with_8b))


def _figures(folder: Path, n_runs: int) -> Iterator[Row]:
    model = write_gguf(QWEN3_0_6B, folder / "model.gguf")
    out = folder / "out"
    asked = [word for name in ("dsl", "reference", "legacy:head_dim=metadata") for word in ("--variant", name)]
    exporting = _fresh(opdiff("export", model, *asked, "--out", out), out, n_runs)
    linked = _disk(out) / QWEN3_0_6B.n_bytes_stored
    pair = [out / f"{name}.onnx" for name in _PAIR]
    for n_tokens, wanted in ((16, 0.5), (128, 0.7)):
        plain = measured(python(_HERE / "plain_run.py", _tokens(n_tokens), *pair), n_runs)
        ours = measured(opdiff("compare", *pair, "--tokens", _tokens(n_tokens)), n_runs, may_differ=True)
        yield _row(f"compare, {n_tokens} tokens: seconds", plain.seconds, ours.seconds, wanted)
        shares = [m.anonymous_bytes / QWEN3_0_6B.n_bytes for m in (plain, ours)]
        yield f"compare, {n_tokens} tokens: anonymous memory / weights", *(f"{s:.2f}" for s in shares), "", "0.25"
    bare = [without_taps(path) for path in pair]
    plain = measured(python(_HERE / "plain_run.py", _tokens(16), *pair), n_runs)
    ours = measured(opdiff("compare", *bare, "--tokens", _tokens(16)), n_runs, may_differ=True)
    yield _row("compare without taps, 16 tokens: seconds", plain.seconds, ours.seconds, 1.0)
    shares = [m.anonymous_bytes / QWEN3_0_6B.n_bytes for m in (plain, ours)]
    yield "compare without taps, 16 tokens: anonymous memory / weights", *(f"{s:.2f}" for s in shares), "", "0.35"
    plain_folder = folder / "plain"
    plain = _fresh(python(_HERE / "plain_export.py", model, plain_folder), plain_folder, 1)
    yield _row("export of three variants, against one: seconds", plain.seconds, exporting.seconds, 0.5)
    yield "disk for three variants / weights, the checkpoint linked", "3", f"{linked:.3f}", "", "0.05"
    measured(opdiff("export", model, *asked, "--out", folder / "copied", "--copy-weights"), 1)
    copied = _disk(folder / "copied") / QWEN3_0_6B.n_bytes_stored
    yield "disk for three variants / weights, copied", "3", f"{copied:.2f}", "", "1.05"
    sizes = [replace(_GROWTH, n_blocks=n) for n in (2, 56)]
    few, many = (_exported(shape, folder / "blocks", n_runs) for shape in sizes)
    yield "export, 56 blocks against 2: seconds", f"{few:.1f}", f"{many:.1f}", f"{many / few:.2f}", "2"
    shown = measured(opdiff("compare", "--help"), n_runs)
    yield "opdiff compare --help: seconds", "", f"{shown.seconds:.2f}", "", "0.3"


def _growth(folder: Path, n_runs: int) -> Iterator[Row]:
    for n_blocks in (4, 8, 16, 32):
        yield _grown("blocks", n_blocks, replace(_GROWTH, n_blocks=n_blocks), 16, folder, n_runs)
    for n_tokens in (4, 16, 64, 256):
        yield _grown("tokens", n_tokens, _GROWTH, n_tokens, folder, n_runs)
    for width in (512, 1024, 2048):
        shape = replace(_GROWTH, width=width, ffn_width=3 * width, n_heads=width // 64, n_kv_heads=width // 128)
        yield _grown("width", width, shape, 16, folder, n_runs)
    for stages in _STAGES:
        yield _grown("taps", len(stages) * _GROWTH.n_blocks + 3, _GROWTH, 16, folder, n_runs, stages)  # 11 taps: 6 s
    for n_blocks in (4, 8, 16, 32):
        shape = replace(_GROWTH, n_blocks=n_blocks)
        yield _grown("blocks, without taps", n_blocks, shape, 16, folder, n_runs, None)
    for n_tokens in (4, 16, 64, 256):
        yield _grown("tokens, without taps", n_tokens, _GROWTH, n_tokens, folder, n_runs, None)


def _decoding(folder: Path, n_runs: int) -> Iterator[Row]:
    """`opdiff verdict` on graphs that are there already."""
    prompts, out = folder / "prompts.json", folder / "decoded"
    prompts.write_text(json.dumps([{"tokens": [504, 3575, 282, 4649, 314]}]))
    asked = ("--against", "llama.cpp", "--prompts", prompts, "--no-q8")
    for cache in ((), ("--cache",)):
        measured(opdiff("export", "smollm2", "--variant", "reference", *cache, "--out", out / "".join(cache)), 1)
    for n_steps in (16, 64, 128):
        whole, each = (
            measured(
                opdiff(
                    *("verdict", "smollm2", "--candidate", out / "".join(cache) / "reference.onnx", *asked),
                    *("--steps", n_steps, "--schedule", schedule),
                ),
                n_runs,
                may_differ=True,
            )
            for schedule, cache in (("whole", ()), ("each", ("--cache",)))
        )
        yield _row(f"verdict, {n_steps} steps: seconds", whole.seconds, each.seconds, 1.0)


def _large(folder: Path, is_wanted: bool) -> Iterator[Row]:
    """Export and compare of the 8B shape, or one row that says why not."""
    free, needed = shutil.disk_usage(folder).free, 1.2 * QWEN3_8B.n_bytes_stored
    if not is_wanted or free < needed:
        reason = "left out: --with-8b measures it" if not is_wanted else "left out: the disk is too small"
        yield reason, str(QWEN3_8B.n_blocks), f"{needed / 1e9:.0f} GB of disk needed", f"{free / 1e9:.0f} GB free", ""
        return
    model, out = write_gguf(QWEN3_8B, folder / "large.gguf"), folder / "large"
    asked = [word for name in _PAIR for word in ("--variant", name)]
    steps = {
        "export": opdiff("export", model, *asked, "--out", out),
        "compare": opdiff("compare", *(out / f"{name}.onnx" for name in _PAIR), "--tokens", _tokens(16)),
    }
    for name, command in steps.items():
        ours = measured(command, 1, may_differ=True)
        gigabytes = f"{ours.anonymous_bytes / 1e9:.2f}"
        yield f"{name} of {' and '.join(_PAIR)}", str(QWEN3_8B.n_blocks), f"{ours.seconds:.0f}", gigabytes, "4"
    yield "disk / weights", str(QWEN3_8B.n_blocks), "", f"{_disk(out) / QWEN3_8B.n_bytes_stored:.4f}", "0.05"


def _disk(folder: Path) -> int:
    """What an export's folder adds to the disk, in bytes: files with another name elsewhere are there already."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.stat().st_nlink == 1)


def _grown(
    what: str,
    size: int,
    shape: Shape,
    n_tokens: int,
    folder: Path,
    n_runs: int,
    stages: Collection[str] | None = IN_BLOCK,
) -> Row:
    """What a comparison costs; with taps of these stages only, or without any."""
    place = folder / "growth"
    _exported(shape, place, 1)
    files = [place / "out" / f"{name}.onnx" for name in _PAIR]
    pair = [without_taps(path) if stages is None else _tapped(path, stages) for path in files]
    ours = measured(opdiff("compare", *pair, "--tokens", _tokens(n_tokens)), n_runs, may_differ=True)
    shutil.rmtree(place)
    return what, str(size), f"{ours.seconds:.1f}", f"{ours.anonymous_bytes / 1e6:.0f}", ""


def _tapped(path: Path, stages: Collection[str]) -> Path:
    """The artifact with the taps of these stages only, and with those outside of the blocks."""
    model = onnx.load(path, load_external_data=False)
    for entry in model.metadata_props:
        if entry.key == "opdiff.taps":
            taps = {name: axes for name, axes in json.loads(entry.value).items() if _is_of(name, stages)}
            entry.value = json.dumps(taps)
    path.write_bytes(model.SerializeToString())
    return path


def _is_of(tap: str, stages: Collection[str]) -> bool:
    block, stage = split_tap_name(tap)
    return block is None or stage in stages


def _exported(shape: Shape, folder: Path, n_runs: int) -> float:
    folder.mkdir(exist_ok=True)
    model = write_gguf(shape, folder / "model.gguf")
    asked = [word for name in _PAIR for word in ("--variant", name)]
    return _fresh(opdiff("export", model, *asked, "--out", folder / "out"), folder / "out", n_runs).seconds


def _fresh(command: list[str], out: Path, n_runs: int) -> Measured:
    """The command's cost where its folder is empty each time; the last run's files stay."""
    runs = []
    for _ in range(n_runs):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        runs.append(measured(command, 1))
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def _tokens(n: int) -> str:
    return ",".join(str(37 * i % 8000) for i in range(n))


def _row(what: str, plain: float, ours: float, wanted: float) -> Row:
    return what, f"{plain:.1f}", f"{ours:.1f}", f"{ours / plain:.2f}", f"{wanted}"


def _print(head: Row, rows: Iterator[Row]) -> None:
    for line in (head, ("---",) * len(head)):
        print("| " + " | ".join(line) + " |", flush=True)
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def _processor() -> str:
    """The processor's name, where the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def _memory_gigabytes() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


if __name__ == "__main__":
    main()
