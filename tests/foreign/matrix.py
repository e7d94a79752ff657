"""Every route of two models against every third other one, aligned without names: the table in ROUTES.md.

    cd tests && ../.venv/bin/python -m foreign.matrix > foreign/ROUTES.md

onnxslim, onnxsim and onnxruntime-genai make routes of their own where they can be imported.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from corpus.models import N_BLOCKS, TOKENS, tiny_model
from foreign import models
from torch import nn

from opdiff.compare.align.foreign import align_foreign
from opdiff.compare.diagnose import compare
from opdiff.compare.opening import open_either
from opdiff.graphs.run import Runner
from opdiff.graphs.stages import IN_BLOCK

OTHER_TOKENS = tuple(reversed(TOKENS))


def routes(kind: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Each route's name and file."""
    plain: dict[str, Path] = {}
    for attention, opset in (("eager", 18), ("eager", 20), ("eager", 23), ("sdpa", 18), ("sdpa", 20), ("sdpa", 23)):
        name = f"torch, {attention}, opset {opset}"
        plain[name] = _exported(models.Logits, kind, attention, folder / f"{attention}{opset}.onnx", opset)
        yield name, plain[name]
    for attention, opset in (("eager", 18), ("sdpa", 23)):
        path = folder / f"raw.{attention}.onnx"
        yield (
            f"torch, {attention}, not optimised",
            _exported(models.Logits, kind, attention, path, opset, optimize=False),
        )
        path = folder / f"mask.{attention}.onnx"
        yield f"torch, {attention}, with a mask", _exported(models.WithMask, kind, attention, path, opset)
    eager, fused = plain["torch, eager, opset 18"], plain["torch, sdpa, opset 23"]
    for level in ("basic", "extended", "all"):
        yield f"onnxruntime {level} of eager", models.saved_by_onnxruntime(eager, level)
        yield f"onnxruntime {level} of opset 23", models.saved_by_onnxruntime(fused, level)
    for name, path in (("eager", eager), ("opset 23", fused)):
        yield f"float16 of {name}", models.in_half(path)
        yield f"four bits of {name}", models.in_four_bits(path)
        yield f"eight bits of {name}", in_eight_bits(path)
        yield f"other names for {name}", models.renamed(path)
    yield "four bits in blocks of 32", models.in_four_bits(plain["torch, sdpa, opset 18"], 32)
    yield "onnxruntime's transformers optimizer", optimised(eager, tiny_model(kind).config)
    for name, make in (("onnxslim", models.slim), ("onnxsim", models.simplified)):
        with contextlib.suppress(ImportError):
            yield name, make(eager, eager.with_suffix(f".{name}.onnx"))
    with contextlib.suppress(ImportError):
        yield from by_genai(kind, folder)
    for attention in ("eager", "sdpa"):
        for is_open in (False, True):
            path = folder / f"script.{attention}.{is_open}.onnx"
            made = models.by_torchscript(tiny_model(kind), path, attention, is_open)
            yield f"TorchScript, {attention}, {'any' if is_open else 'one'} length", made


def _exported(
    wrapper: Callable[[Any], nn.Module], kind: str, attention: str, path: Path, opset: int, **more: Any
) -> Path:
    model = tiny_model(kind)
    model.config._attn_implementation = attention
    inputs = (models.IDS, torch.ones_like(models.IDS)) if wrapper is models.WithMask else (models.IDS,)
    names = ["input_ids", "attention_mask"][: len(inputs)]
    with torch.no_grad():
        torch.onnx.export(
            wrapper(model),
            inputs,
            str(path),
            verbose=False,
            opset_version=opset,
            input_names=names,
            dynamo=True,
            **more,
        )
    return path


def in_eight_bits(path: Path) -> Path:
    """The graph with its products' weights in eight bits, one scale for each output."""
    model = onnx.load(path)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    wanted = {node.input[1] for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in held}
    for name in sorted(wanted):
        weight = onnx.numpy_helper.to_array(held[name])
        scale = np.abs(weight).max(0) / 127
        model.graph.initializer.remove(held[name])
        stored = np.round(weight / scale).astype(np.int8)
        model.graph.initializer.append(onnx.numpy_helper.from_array(stored, f"{name}.q"))
        model.graph.initializer.append(onnx.numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"))
        node = onnx.helper.make_node("DequantizeLinear", [f"{name}.q", f"{name}.scale"], [name], name, axis=1)
        model.graph.node.insert(0, node)
    made = path.with_suffix(".int8.onnx")
    onnx.save(model, made)
    return made


def optimised(path: Path, config: Any) -> Path:
    """The graph as onnxruntime's optimizer for transformers leaves it."""
    from onnxruntime.transformers import optimizer

    made = path.with_suffix(".optimised.onnx")
    model = optimizer.optimize_model(
        str(path), model_type="gpt2", num_heads=config.num_attention_heads, hidden_size=config.hidden_size
    )
    model.save_model_to_file(str(made))
    return made


def by_genai(kind: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """onnxruntime-genai's builder on the model's HF folder."""
    import onnxruntime_genai  # noqa: F401

    tiny_model(kind).save_pretrained(folder / "hf")
    for precision in ("fp32", "fp16", "int4"):
        made = built_by_genai(folder, precision)
        if made is not None:
            yield f"onnxruntime-genai, {precision}", made


def built_by_genai(folder: Path, precision: str) -> Path | None:
    """What the builder makes of the model in `hf` of a folder, in a folder beside it; None where it fails."""
    out = folder / precision
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", folder / "hf", "-o", out]
    command += ["-p", precision, "-e", "cpu", "-c", folder / "cache"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env={**os.environ})
    return out / "model.onnx" if done.returncode == 0 else None


def row(a: tuple[str, Path], b: tuple[str, Path]) -> tuple[str, ...]:
    """What came of one pair."""
    result = compare(a[1], b[1], TOKENS)
    opened = [open_either(path, None, {}) for path in (a[1], b[1])]
    pairs = [align_foreign(*opened, tokens, Runner()) for tokens in (TOKENS, OTHER_TOKENS)]
    taps = {one.tap for one in pairs[0].named}
    wanted = [f"blk.{n}.{stage}" for n in range(N_BLOCKS) for stage in IN_BLOCK]
    wanted = [
        tap for tap in [*wanted, "embed", "final_norm", "logits"] if "_norm" not in tap[-6:] or not _is_llama(tap, a)
    ]
    moved = len({*pairs[0].entries()} ^ {*pairs[1].entries()}) // 2
    shares = [f"{100 * pairs[0].share(side):.0f}" for side in "ab"]
    stages = sum(tap in taps for tap in wanted) / len(wanted)
    causes = "; ".join(cause.text[:60] for cause in result.root_causes)
    return a[0], b[0], str(len(taps)), *shares, f"{100 * stages:.0f}", str(moved), str(len(result.root_causes)), causes


def _is_llama(tap: str, a: tuple[str, Path]) -> bool:
    return "llama" in str(a[1]) and tap.rsplit(".", 1)[-1] in ("q_norm", "k_norm")


def main() -> None:
    """Make all routes, compare every third pair, and print the table."""
    warnings.filterwarnings("ignore")
    print(
        "# Routes\n\nAs `cd tests && ../.venv/bin/python -m foreign.matrix` printed it: points, the share of A's and of B's values that"
    )
    print(
        "have a partner (%), the stages that are points (%), points that name another partner on a second input, and root causes.\n"
    )
    n_pairs = n_blamed = 0
    for kind in ("qwen3", "llama"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / kind
            folder.mkdir()
            with contextlib.redirect_stdout(io.StringIO()):
                made = list(routes(kind, folder))
            print(f"## {kind}: {len(made)} routes\n")
            print("| A | B | points | A | B | stages | moved | causes | |\n|---|---|---|---|---|---|---|---|---|")
            for n, a in enumerate(made):
                for m, b in enumerate(made):
                    if n != m and (m - n) % 3 == 1:
                        told = row(a, b)
                        n_pairs, n_blamed = n_pairs + 1, n_blamed + (told[7] != "0")
                        print("| " + " | ".join(told) + " |", flush=True)
            print()
    print(f"{n_pairs} pairs, {n_blamed} of them with a cause.")


if __name__ == "__main__":
    main()
