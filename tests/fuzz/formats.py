"""The formats: for each, valid files, how one is damaged, and the commands that read it."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import onnx
from click.testing import CliRunner

from opdiff.__main__ import main

from . import proto_mutator, tree_mutator
from .bytes_mutator import damaged
from .kept import COMMAND, found
from .lies import LIES
from .valid import TOKENS, decoder_values, exported_files, gguf_files, hf_folder, onnx_files, save_safetensors

_TOKENS = ["--tokens", ",".join(map(str, TOKENS))]
Words = list[str]


@dataclass(frozen=True, slots=True)
class Format:
    """valid: writes valid files into a folder. damage: turns a copy of that folder into a case, whose command it returns."""

    name: str
    valid: Callable[[Path], None]
    damage: Callable[[Random, Path], Words]


def _in_bytes(path: Path, random: Random, head: int = 1024) -> None:
    path.write_bytes(damaged(path.read_bytes(), random, head))


def _in_json(path: Path, random: Random) -> None:
    if random.random() < 0.2:
        _in_bytes(path, random)
        return
    tree = tree_mutator.changed(json.loads(path.read_text()), random)
    path.write_text(tree_mutator.text_of(tree), encoding="utf-8", errors="surrogatepass")


def _onnx(random: Random, folder: Path) -> Words:
    kind, other = random.choice(
        (("decoder", "right.onnx"),) * 3 + (("foreign", "foreign.right.onnx"), ("legacy", "reference.onnx"))
    )
    path = folder / f"{kind}.onnx"
    if random.random() < 0.15:
        _in_bytes(path, random, head=len(path.read_bytes()))
    else:
        model = onnx.ModelProto.FromString(path.read_bytes())
        path.write_bytes(proto_mutator.changed(model, random).SerializeToString())
    pair = [path.name, other] if random.random() < 0.3 else [other, path.name]
    if random.random() < 0.1:
        return ["align", *pair, *_TOKENS]
    return ["compare", *pair, *_TOKENS, *random.choice(([], ["--tables"], ["--verbose"], ["--optimization-b", "all"]))]


def _onnx_valid(folder: Path) -> None:
    exported = folder / "exported"
    exported_files(exported)
    onnx_files(folder)
    (folder / "weights.safetensors").rename(folder / "small.safetensors")
    for path in folder.glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = "small.safetensors" if entry.key == "location" else entry.value
        path.write_bytes(model.SerializeToString())
    for path in exported.iterdir():
        path.rename(folder / path.name)
    exported.rmdir()


def _gguf(random: Random, folder: Path) -> Words:
    path = random.choice(sorted(folder.glob("*.gguf")))
    _in_bytes(path, random, head=4096)
    return random.choice((["read-checkpoint", path.name], ["tokenize", path.name, "abc ab<|end|>"]))


def _trace_valid(folder: Path) -> None:
    onnx_files(folder)
    values = decoder_values()
    taps = {name: {"axes": "token vocab" if name == "logits" else "token channel", "name": name, "op_type": "Add",
                   "scope": None, "source": None} for name in values if name != "tokens"}  # fmt: skip
    facts = {"format": "opdiff.trace/1", "runtime": "port 1", "taps": json.dumps(taps), "schedule": "whole"}
    save_safetensors(folder / "t.safetensors", values, {f"opdiff.{key}": text for key, text in facts.items()})
    np.savez(folder / "t.npz", **values)  # type: ignore[arg-type]
    np.savez_compressed(folder / "small.npz", **values)  # type: ignore[arg-type]
    from gguf import GGUFWriter

    writer = GGUFWriter(folder / "t.gguf", "port")
    for name, value in values.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _safetensors(random: Random, folder: Path) -> Words:
    path = random.choice((folder / "t.safetensors", folder / "weights.safetensors"))
    data = path.read_bytes()
    if random.random() < 0.4:
        _in_bytes(path, random)
    else:
        length = int.from_bytes(data[:8], "little")
        header = tree_mutator.changed(json.loads(data[8 : 8 + length]), random)
        text = tree_mutator.text_of(header).encode("utf-8", "surrogatepass")
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    if path.name == "t.safetensors":
        return ["compare", "right.onnx", path.name]
    return ["compare", "right.onnx", "decoder.onnx", *_TOKENS]


def _gguf_trace(random: Random, folder: Path) -> Words:
    _in_bytes(folder / "t.gguf", random)
    return ["compare", "right.onnx", "t.gguf", *random.choice(([], _TOKENS))]


def _npz(random: Random, folder: Path) -> Words:
    path = random.choice((folder / "t.npz", folder / "small.npz"))
    if random.random() < 0.5:
        _in_bytes(path, random)
    else:
        _in_members(path, random)
    command = ["compare", "right.onnx", path.name]
    return (
        command
        if random.random() < 0.7
        else ["compare", "foreign.onnx", "foreign.right.onnx", *_TOKENS, "--inputs", path.name]
    )


def _in_members(path: Path, random: Random) -> None:
    """Damage one array of the archive, whose own checksums stay right."""
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(sorted(held))
    if random.random() < 0.3:
        value = np.load(io.BytesIO(held[name]))
        file = io.BytesIO()
        np.save(file, _odd_array(value, random), allow_pickle=True)
        held[name] = file.getvalue()
    else:
        held[name] = damaged(held[name], random, head=128)
    if random.random() < 0.2:
        held[random.choice(("../x.npy", "/abs.npy", "a\x1b[2J.npy", "logits", "blk.0.q_proj.npy"))] = held.pop(name)
    with zipfile.ZipFile(path, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, data in held.items():
            archive.writestr(name, data)


def _odd_array(value: np.ndarray, random: Random) -> np.ndarray:
    return random.choice(
        (
            np.asarray([None, {}], object),
            np.asarray("text"),
            value.astype(np.complex64),
            value.astype("datetime64[s]") if value.dtype.kind == "i" else value.astype(">f8"),
            value[..., :0],
            value.astype(np.float16),
            value * np.inf,
            np.zeros((1,) * 30, np.float32),
            np.asarray([(1, 2.0)], [("a", "i4"), ("b", "f4")]),
            np.asfortranarray(value),
        )
    )


def _hf(random: Random, folder: Path) -> Words:
    name = random.choice(("config.json", "config.json", "model.safetensors.index.json"))
    _in_json(folder / "hf" / name, random)
    return ["read-checkpoint", "hf"]


def _hf_shard(random: Random, folder: Path) -> Words:
    _in_bytes(folder / "hf" / random.choice(("a.safetensors", "b.safetensors")), random)
    return ["read-checkpoint", "hf"]


def _tokenizer_json(random: Random, folder: Path) -> Words:
    _in_json(folder / "hf" / random.choice(("tokenizer.json", "tokenizer.json", "tokenizer_config.json")), random)
    return ["tokenize", "hf", random.choice(("abc ab<|end|>", "", "ééé", "a" * 200))]


_NAME_MAP = """
[names]
"their.{N}.ffn" = "blk.{N}.ffn_down"
"input_ids" = "tokens"
"embedding" = "embed"
"out" = "logits"

[axes]
ffn_down = "token channel"
logits = "token vocab"
"""
_LINES = ("[names]", "[axes]", "[[names]]", '"a" = "b"', '"{N}" = "{N}"', "x = 1", 'q_proj = "token token"', '"\\u0000" = "embed"',
          '"(a+)+$" = "embed"', "names.a.b.c = 1", 'ffn_down = ""', '"a{N}b{N}" = "blk.{N}.{N}"', "\x1b[2J", "= =", '"' * 3)  # fmt: skip


def _toml_valid(folder: Path) -> None:
    onnx_files(folder)
    values = decoder_values()
    theirs = {
        "input_ids": "tokens",
        "embedding": "embed",
        "their.0.ffn": "blk.0.ffn_down",
        "their.1.ffn": "blk.1.ffn_down",
    }
    np.savez(folder / "t.npz", **{name: values[tap] for name, tap in {**theirs, "out": "logits"}.items()})  # type: ignore[arg-type]
    (folder / "names.toml").write_text(_NAME_MAP)


def _toml(random: Random, folder: Path) -> Words:
    path = folder / "names.toml"
    if random.random() < 0.5:
        _in_bytes(path, random)
    else:
        lines = path.read_text().splitlines()
        for _ in range(random.randint(1, 4)):
            lines.insert(random.randrange(len(lines) + 1), random.choice((*_LINES, random.choice(lines))))
        path.write_text("\n".join(lines))
    return ["compare", "right.onnx", "t.npz", "--names", "names.toml"]


def _json_valid(folder: Path) -> None:
    onnx_files(folder)
    run = CliRunner().invoke
    at = str(folder)
    foreign = [f"{at}/foreign.onnx", f"{at}/foreign.right.onnx", *_TOKENS]
    run(main, ["compare", f"{at}/right.onnx", f"{at}/decoder.onnx", *_TOKENS, "--json", f"{at}/r.json"])
    model = onnx.load(f"{at}/decoder.onnx", load_external_data=False)
    model.graph.node[5].op_type = "Abs"
    (folder / "wrong.onnx").write_bytes(model.SerializeToString())
    run(main, ["compare", f"{at}/right.onnx", f"{at}/wrong.onnx", *_TOKENS, "--json", f"{at}/d.json"])
    run(main, ["align", *foreign, "--out", f"{at}/map.json"])
    (folder / "prompts.json").write_text(json.dumps([{"tokens": [1, 2], "text": "ab"}, {"tokens": [3]}, "abc"]))
    gguf_files(folder)


def _json(random: Random, folder: Path) -> Words:
    kind = random.choice(("r", "d", "d", "map", "prompts", "baseline"))
    file = "d" if kind == "baseline" else kind
    _in_json(folder / f"{file}.json", random)
    if kind == "map":
        return ["compare", "foreign.onnx", "foreign.right.onnx", *_TOKENS, "--map", "map.json"]
    if kind == "prompts":
        return ["read-prompts", "plain.gguf", "prompts.json"]
    if kind == "baseline":
        return ["compare", "right.onnx", "wrong.onnx", *_TOKENS, "--baseline", "d.json"]
    outputs = ["--html", "o.html", "--junit", "o.xml", "--summary", "o.md", "--model-explorer", "o.json"]
    return ["report", f"{kind}.json", *random.choice((outputs, ["--every-tap"], ["--verbose"], ["--tables"], outputs))]


_PIECES = ("1", "2", ",", "-", "+", ":", "=", ".", " ", "0", "99999999999", "1e3", "whole", "each", "chunks", "batch", "pad-left",
           "pad-right", "1,2", "\x1b[2J", "é", "\u202e", "\udcff", "a" * 300, "..", "/", "seed", "smollm2", "reference", "legacy",
           "weights=q8_0", "activations=ggml", "converter", "on", "x.py", "port.py", "NAME", "hf", "dsl", "nan", "0x1", "\n", "%s",
           "{}", "[", "]", "'", '"', "\\", "٣", "१", "²", "٫", "_")  # fmt: skip


def _text(random: Random) -> str:
    return "".join(random.choice(_PIECES) for _ in range(random.randint(1, 6)))


def _arguments(random: Random, folder: Path) -> Words:
    pair = ["right.onnx", "decoder.onnx"]
    text, kind = _text(random), random.randrange(8)
    if kind == 0:
        return ["compare", *pair, f"--tokens={text}"]
    if kind == 1:
        return ["compare", *pair, *_TOKENS, f"--schedule-{random.choice('ab')}={text}"]
    if kind == 2:
        return ["read-variant", "--", text]
    if kind == 3:
        return ["read-checkpoint", "--", text]
    if kind == 4:
        return ["tokenize", "--", random.choice(("hf", text)), _text(random)]
    if kind == 5:
        return ["compare", *pair, *_TOKENS, f"--provider-b={text}"]
    if kind == 6:
        return ["compare", "--tokens=1,2", "--", *random.sample([pair[0], text], 2)]
    return random.sample(
        [*pair, "compare", "--tokens", text, "--json", "--help", "align", "--map", text], random.randint(1, 6)
    )


def _arguments_valid(folder: Path) -> None:
    onnx_files(folder)
    hf_folder(folder / "hf")


def _hf_valid(folder: Path) -> None:
    hf_folder(folder / "hf")


FORMATS = {
    one.name: one
    for one in (
        Format("onnx", _onnx_valid, _onnx),
        Format("gguf", gguf_files, _gguf),
        Format("gguf-trace", _trace_valid, _gguf_trace),
        Format("safetensors", _trace_valid, _safetensors),
        Format("hf-shards", _hf_valid, _hf_shard),
        Format("hf-config", _hf_valid, _hf),
        Format("tokenizer-json", _hf_valid, _tokenizer_json),
        Format("npz", _trace_valid, _npz),
        Format("toml", _toml_valid, _toml),
        Format("json", _json_valid, _json),
        Format("arguments", _arguments_valid, _arguments),
    )
}


def lies_valid(folder: Path) -> None:
    """What the lies are made of."""
    _trace_valid(folder)
    _json_valid(folder)
    hf_folder(folder / "hf")


def case_of(name: str, number: int, valid: Path, folder: Path) -> Words:
    """Make the case of this number in an empty folder, from the valid files; the command that reads it, to run there."""
    if name == "found":
        shutil.copytree(found()[number], folder, dirs_exist_ok=True)
        words: Words = json.loads((folder / COMMAND).read_text())["words"]
        return words
    shutil.copytree(valid, folder, dirs_exist_ok=True)
    if name == "lies":
        return list(LIES.values())[number](folder)
    return FORMATS[name].damage(Random(f"{name} {number}"), folder)


def make_valid(name: str, folder: Path) -> None:
    """The valid files from which cases are made."""
    if name == "lies":
        lies_valid(folder)
    elif name != "found":  # those are whole by themselves
        FORMATS[name].valid(folder)
