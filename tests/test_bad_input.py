"""Bad input: exit status 2, one line that says what and where, no traceback, nothing half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from opdiff.__main__ import main
from opdiff.exporters.checkpoints.seed import write_seed
from opdiff.graphs.artifact import load_artifact, save_artifact
from opdiff.graphs.errors import InputError


def opdiff(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_refused(done: Result, *words: str) -> None:
    assert done.exit_code == 2, done.stderr
    assert done.stderr.startswith("opdiff: "), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_the_command_itself_exits_so(tmp_path):
    command = [sys.executable, "-m", "opdiff", "compare", "none.onnx", "none.onnx", "--tokens", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("opdiff: none.onnx: ")
    assert "Traceback" not in done.stderr


@pytest.fixture
def gguf(tmp_path) -> Path:
    path = tmp_path / "model.gguf"
    write_seed(path)
    return path


def refused_export(model: object, variant: str, out: Path, *words: str) -> None:
    assert_refused(opdiff("export", model, "--variant", variant, "--out", out), *words)
    left = [path for path in out.rglob("*")] if out.exists() else []
    assert [p for p in left if p.suffix == ".onnx" or "partial" in p.name] == []


def test_a_checkpoint_that_is_missing_or_foreign_or_cut_short_is_refused(gguf, tmp_path):
    out = tmp_path / "out"
    refused_export(tmp_path / "none.gguf", "dsl", out, "none.gguf")
    text = tmp_path / "text.gguf"
    text.write_text("this is no model")
    refused_export(text, "dsl", out, "text.gguf")
    short = tmp_path / "short.gguf"
    short.write_bytes(gguf.read_bytes()[:-1000])
    refused_export(short, "dsl", out, "short.gguf")


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("nope", ("nope", "dsl", "legacy", "reference")),
        ("dsl:colour=red", ("colour", "rope", "qk_norm_eps")),
        ("dsl:rope=sideways", ("sideways", "half_split")),
        ("missing.py:thing", ("missing.py",)),
    ],
)
def test_an_unknown_variant_option_or_value_is_answered_with_those_that_exist(variant, words, gguf, tmp_path):
    refused_export(gguf, variant, tmp_path / "out", *words)


def test_a_users_module_that_marks_nothing_or_breaks_is_refused(gguf, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "class Silent(torch.nn.Module):\n"
        "    def __init__(self, checkpoint): super().__init__()\n"
        "    def forward(self, tokens): return tokens * 2\n"
        "def broken(checkpoint): raise KeyError('oh')\n"
    )
    refused_export(gguf, f"{file}:Silent", tmp_path / "out", "opdiff.tap")
    refused_export(gguf, f"{file}:broken", tmp_path / "out", "KeyError")
    refused_export(gguf, f"{file}:absent", tmp_path / "out", "absent", "Silent")


@pytest.mark.parametrize("tokens", ["1,64", "-1", "1,x", ""])
def test_tokens_outside_the_vocabulary_or_no_numbers_are_refused(tokens, seed):
    assert_refused(opdiff("compare", seed / "dsl.onnx", seed / "legacy.onnx", f"--tokens={tokens}"), "token")


def test_a_graph_that_is_missing_or_foreign_or_cut_short_is_refused(seed, tmp_path):
    other = seed / "dsl.onnx"
    assert_refused(opdiff("compare", tmp_path / "none.onnx", other, "--tokens", "1"), "none.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    assert_refused(opdiff("compare", tmp_path / "text.onnx", other, "--tokens", "1"), "text.onnx")
    (tmp_path / "short.onnx").write_bytes(other.read_bytes()[:5000])
    assert_refused(opdiff("compare", tmp_path / "short.onnx", other, "--tokens", "1"), "short.onnx")
    assert_refused(opdiff("compare", tmp_path, other, "--tokens", "1"), "folder")


def foreign(path: Path, tap: str, location: str | None = None) -> Path:
    """A small graph with one tap; with `location`, its weight stands in that file."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (int64[T] tokens) => (float[T] out)'
        " <float[2] w = {1.0, 2.0}> { out = Gather(w, tokens) }"
    )
    model.graph.node[0].output[0] = tap
    model.graph.output[0].name = tap
    if location is not None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("float_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "8")):
            tensor.external_data.add(key=key, value=value)
        onnx.helper.set_model_props(model, {"opdiff.taps": f'{{"{tap}": ["token"]}}', "opdiff.format": "1"})
        path.write_bytes(model.SerializeToString())
    else:
        save_artifact(model, path, {tap: ("token",)}, {})
    return path


def test_graphs_without_taps_in_common_are_refused(seed, tmp_path):
    other = foreign(tmp_path / "other.onnx", "my.own.tap")
    assert_refused(opdiff("compare", seed / "dsl.onnx", other, "--tokens", "1"), "no taps in common", "my.own.tap")


def test_a_graph_without_any_tap_is_refused(tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
    )
    onnx.save(model, tmp_path / "plain.onnx")
    with pytest.raises(InputError, match="no taps"):
        load_artifact(tmp_path / "plain.onnx")


@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_weights_outside_of_the_graphs_folder_are_refused(kind, tmp_path):
    secret = tmp_path / "secret.bin"
    np.ones(2, np.float32).tofile(secret)
    folder = tmp_path / "graphs"
    folder.mkdir()
    if kind == "link":
        os.symlink(secret, folder / "weights.bin")
    location = {"parent": "../secret.bin", "absolute": str(secret), "link": "weights.bin"}[kind]
    with pytest.raises(InputError, match="outside"):
        load_artifact(foreign(folder / "a.onnx", "embed", location))


def test_weights_that_are_cut_short_are_refused(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"1234")
    with pytest.raises(InputError, match="reaches outside"):
        load_artifact(foreign(tmp_path / "a.onnx", "embed", "weights.bin"))


def test_an_output_folder_that_is_a_file_is_refused(gguf, tmp_path):
    (tmp_path / "taken").write_text("")
    assert_refused(opdiff("export", gguf, "--variant", "dsl", "--out", tmp_path / "taken"), "taken")


def test_same_exits_with_0_and_different_with_1(seed, tmp_path):
    assert opdiff("compare", seed / "dsl.onnx", seed / "dsl.onnx", "--tokens", "1,5").exit_code == 0
    result = tmp_path / "result.json"
    done = opdiff("compare", seed / "dsl.onnx", seed / "legacy.onnx", "--tokens", "1,5", "--json", result)
    assert done.exit_code == 1
    assert result.exists()


@pytest.mark.parametrize("command", [(), ("export",), ("compare",), ("demo",), ("view",)])
def test_every_help_carries_an_example(command):
    done = opdiff(*command, "--help")
    assert done.exit_code == 0
    assert "Example:" in done.stdout
