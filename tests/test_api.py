"""The Python API: paths and objects alike, typed results, and an import that loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx_text import DECODER, save_decoder

import opdiff
from opdiff.compare.result import Result
from opdiff.graphs.errors import InputError

OTHER = DECODER.replace("act1 = Relu(up1)", "act1 = Abs(up1)")


@pytest.fixture
def pair(tmp_path):
    return save_decoder(tmp_path / "a.onnx"), save_decoder(tmp_path / "b.onnx", text=OTHER)


def test_import_loads_neither_torch_nor_onnxruntime():
    code = (
        "import opdiff, sys; print([m for m in ('torch', 'onnxruntime', 'onnx', 'numpy', 'rich') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("order", ["import opdiff.compare.diagnose; ", ""])
def test_compare_is_a_function_whether_or_not_the_package_was_imported(order, pair):
    code = f"{order}import opdiff, sys; print(opdiff.compare(*sys.argv[1:], tokens=[1, 5, 3]).first_divergence)"
    ran = subprocess.run([sys.executable, "-c", code, *map(str, pair)], capture_output=True, text=True)
    assert ran.stdout.strip() == "blk.1.ffn_down", ran.stderr


def test_paths_are_compared_as_the_command_does(pair):
    result = opdiff.compare(str(pair[0]), pair[1], tokens=[1, 5, 3])
    assert isinstance(result, Result)
    assert result.first_divergence == "blk.1.ffn_down"


def test_model_protos_are_compared(tmp_path, pair):
    inside = [onnx.load(path) for path in pair]  # with their weights
    assert opdiff.compare(*inside, tokens=[1, 5, 3]).first_divergence == "blk.1.ffn_down"


def test_onnxruntimes_optimiser_and_a_provider_are_asked_for_as_by_the_command(pair):
    faulty = opdiff.compare(*pair, tokens=[1, 5, 3], optimization_b="all")
    assert faulty.first_divergence == "blk.1.ffn_down"
    assert opdiff.compare(pair[0], pair[0], tokens=[1, 5, 3], provider_b="CPUExecutionProvider").parity
    with pytest.raises(
        InputError, match="no level most of onnxruntime's optimiser; there are none, basic, extended, all"
    ):
        opdiff.compare(*pair, tokens=[1, 5, 3], optimization_a="most")


def test_recording_is_a_side(pair, tmp_path):
    from opdiff.graphs.tensor_files import read_tensors

    opdiff.compare(*pair, tokens=[1, 5, 3], values=tmp_path / "kept")
    recorded = dict(read_tensors(tmp_path / "kept" / "b.safetensors").tensors)
    assert opdiff.compare(pair[1], recorded).parity
    assert opdiff.compare(pair[0], recorded).first_divergence == "blk.1.ffn_down"


class Scaled(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(16.0).reshape(4, 4) - 7)
        self.factor = factor

    def forward(self, x):
        return torch.relu(x @ self.weight) * self.factor


def test_modules_are_compared_and_aligned_with_their_example_inputs():
    x = torch.linspace(-1, 1, 12).reshape(3, 4)
    (cause,) = opdiff.compare((Scaled(2.0), x), (Scaled(3.0), x)).root_causes
    assert cause.edit == ("3 where A has 2, in step.02.Relu * 3",)
    assert opdiff.align((Scaled(2.0), x), (Scaled(2.0), x)).share("a") == 1.0


def test_parity_is_asserted_and_a_failure_says_why(pair):
    assert opdiff.assert_parity(pair[0], pair[0], tokens=[1, 5, 3]).parity
    with pytest.raises(AssertionError, match=r"blk\.1\.ffn_down") as failed:
        opdiff.assert_parity(*pair, tokens=[1, 5, 3])
    assert "abs" in str(failed.value).lower()


@pytest.mark.parametrize("side", [3, None, [1, 2, 3], {"blk.0.ffn_down": np.array(["text"])}, "missing.onnx"])
def test_what_is_no_side_is_refused(side, pair):
    with pytest.raises((InputError, TypeError, KeyError)) as refused:
        opdiff.compare(pair[0], side, tokens=[1, 5, 3])
    assert isinstance(refused.value, InputError)


def test_export_trace_and_verdict_are_the_commands(tmp_path, seed):
    paths = opdiff.export("seed", "dsl", "legacy:converter=on", out=tmp_path, length=3)
    assert [path.name for path in paths] == ["dsl.onnx", "legacy.onnx"]
    traced = opdiff.trace(tmp_path / "seed.gguf", "hf", tokens=[1, 5, 3], out=tmp_path / "hf.safetensors")
    assert opdiff.compare(seed / "reference.onnx", traced).parity


def test_prompt_is_read_by_the_tokenizer_beside_the_graph(smollm2):
    result = opdiff.compare(smollm2 / "dsl.onnx", smollm2 / "reference.onnx", prompt="The capital of France is")
    assert result.tokens == (504, 3575, 282, 4649, 314)
    assert [result.pieces[token] for token in result.tokens] == ["The", " capital", " of", " France", " is"]


def test_prompt_without_a_tokenizer_is_refused(pair):
    with pytest.raises(InputError, match="--tokens"):
        opdiff.compare(*pair, prompt="Hello")
