"""`opdiff trace`: the prompt is the tokens, and what it cannot do is one line and no file."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from corpus.models import loadable_gguf, tiny_model
from corpus.vocabulary import N_TOKENS

from opdiff.__main__ import main
from opdiff.graphs.trace import load_trace


@pytest.fixture
def model(tmp_path) -> Path:
    return loadable_gguf(tiny_model("qwen3", 1, N_TOKENS), tmp_path / "model.gguf")


def opdiff(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["trace", *(str(argument) for argument in arguments)])


def test_a_prompt_is_the_tokens_of_the_models_own_tokenizer(model, tmp_path):
    done = opdiff(model, "--runtime", "hf", "--prompt", "in the 12", "--out", tmp_path / "t.safetensors")
    assert done.exit_code == 0, done.output
    merged = {"in": 256 + 3, "Ġthe": 256 + 2, "12": 256 + 7}  # where vocabulary.py's merges stand
    space = load_trace(tmp_path / "t.safetensors").tokens
    assert space is not None
    assert space == (merged["in"], merged["Ġthe"], space[2], merged["12"])
    assert space[2] < 256


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--prompt or --tokens"),
        (("--prompt", "a", "--tokens", "1"), "--prompt or --tokens"),
        (("--prompt", ""), "no tokens"),
        (("--tokens", "1,x"), "1,5,3"),
        (("--tokens", "1,267"), "token 267"),
        (("--tokens=-1,2",), "token -1"),
    ],
)
@pytest.mark.parametrize("runtime", ["hf", "llama.cpp"])
def test_an_input_that_is_none_is_refused(words, said, runtime, model, tmp_path):
    done = opdiff(model, "--runtime", runtime, *words, "--out", tmp_path / "t.safetensors")
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("opdiff: ")
    assert said in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf"]


def test_a_trace_is_written_as_safetensors_or_not_at_all(model, tmp_path):
    done = opdiff(model, "--runtime", "hf", "--tokens", "1", "--out", tmp_path / "t.npz")
    assert (done.exit_code, "t.npz" in done.stderr) == (2, True)
    (tmp_path / "file").write_text("")
    done = opdiff(model, "--runtime", "hf", "--tokens", "1", "--out", tmp_path / "file" / "t.safetensors")
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)


def test_a_model_that_is_not_there_is_refused(tmp_path):
    done = opdiff(tmp_path / "none.gguf", "--runtime", "hf", "--tokens", "1", "--out", tmp_path / "t.safetensors")
    assert done.exit_code == 2
    assert "none.gguf" in done.stderr
