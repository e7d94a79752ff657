"""Prompts: texts and tokens as a file has them, and one line for each thing that a file can have wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from corpus.models import CONTEXT_LENGTH, loadable_gguf, tiny_model
from corpus.vocabulary import N_TOKENS

from opdiff.exporters.checkpoints import Checkpoint, open_checkpoint
from opdiff.exporters.prompts import DEFAULT, prompts_of, read_prompts
from opdiff.exporters.tokenizers import open_tokenizer
from opdiff.graphs.decoding import Prompt
from opdiff.graphs.errors import InputError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    model = tiny_model("qwen3", vocab_size=N_TOKENS)
    return open_checkpoint(str(loadable_gguf(model, tmp_path_factory.mktemp("prompts") / "model.gguf")))


def file(folder: Path, content: object) -> Path:
    path = folder / "prompts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read(folder: Path, content: object, checkpoint: Checkpoint, n_steps: int = 8) -> list[Prompt]:
    return list(prompts_of(read_prompts(file(folder, content)), open_tokenizer(checkpoint), checkpoint, n_steps))


def test_without_a_file_there_are_the_three_of_the_report():
    assert read_prompts(None) == list(DEFAULT)
    assert DEFAULT == ("The capital of France is", "What is 2 + 2?", "fun fibonacci(n: Int): Int {")


def test_texts_are_tokenized_and_tokens_are_taken_as_they_are(tmp_path, checkpoint):
    found = read(tmp_path, ["ab", {"text": "ab"}, {"tokens": [1, 5]}, {"text": "for me", "tokens": [7]}], checkpoint)
    ids = tuple(open_tokenizer(checkpoint).encode("ab"))
    assert found == [Prompt("ab", ids), Prompt("ab", ids), Prompt(None, (1, 5)), Prompt("for me", (7,))]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ({}, "not a list of prompts"),
        ([], "not a list of prompts"),
        ("3", "not a list of prompts"),
        (["a", 3], "prompt 2: neither a text nor an object"),
        ([None], "prompt 1: neither a text nor an object"),
        ([{}], "prompt 1: neither a text nor an object"),
        ([{"prompt": "a"}], "prompt 1: neither a text nor an object"),
        ([{"text": 3}], "prompt 1: neither a text nor an object"),
        ([{"text": 3, "tokens": [1]}], "prompt 1: neither a text nor an object"),
        ([{"tokens": "1,5"}], "prompt 1: its tokens are no list of whole numbers"),
        ([{"tokens": [1, 2.0]}], "prompt 1: its tokens are no list of whole numbers"),
        ([{"tokens": [True]}], "prompt 1: its tokens are no list of whole numbers"),
        ([{"tokens": []}], "prompt 1: it has no tokens"),
        ([""], "prompt 1: it has no tokens"),
        ([{"tokens": [1, N_TOKENS]}], f"prompt 1: token {N_TOKENS} is none of "),
        ([{"tokens": [-1]}], "prompt 1: token -1 is none of "),
        ([{"tokens": [10**30]}], "prompt 1: token 1000"),
        ('["\\ud800"]', "prompt 1: the text has a lone surrogate"),
        ([{"tokens": [1] * (CONTEXT_LENGTH - 7)}], "57 tokens and 8 steps are more than the model's context of 64"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_refused_in_one_line(content, words, tmp_path, checkpoint):
    with pytest.raises(InputError) as refused:
        read(tmp_path, content, checkpoint)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_prompt_that_just_fits_the_context_is_taken(tmp_path, checkpoint):
    assert len(read(tmp_path, [{"tokens": [1] * (CONTEXT_LENGTH - 8)}], checkpoint)[0].tokens) == CONTEXT_LENGTH - 8


def test_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        read_prompts(tmp_path / "none.json")
    (tmp_path / "p.json").write_bytes(b'["\xff"]')
    with pytest.raises(InputError, match=r"p\.json: not (JSON|UTF-8)"):
        read_prompts(tmp_path / "p.json")


def test_without_a_tokenizer_only_tokens_are_taken(tmp_path, checkpoint):
    reason = InputError("there is no tokenizer")
    assert list(prompts_of([{"tokens": [1]}], reason, checkpoint, 8)) == [Prompt(None, (1,))]
    with pytest.raises(InputError, match=r"prompt 1: there is no tokenizer; or give the prompts as tokens"):
        list(prompts_of(["a"], reason, checkpoint, 8))
