"""opdiff tokenize: the answer first, the exit status says whether all agree, and one line for what cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tokenizers import Tokenizer, models, pre_tokenizers

from opdiff.__main__ import main
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.tokenizers import open_tokenizer
from opdiff.exporters.tokenizers.byte_level import byte_alphabet


def tokenize(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["tokenize", *(str(argument) for argument in arguments)])


def assert_refused(done: Result, *words: str) -> None:
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("opdiff: ")
    for word in words:
        assert word in line


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory) -> Path:
    """A tiny model with a tokenizer.json of single bytes and one merge."""
    pytest.importorskip("transformers")
    from corpus.models import tiny_model

    folder = tmp_path_factory.mktemp("hf")
    tiny_model("qwen3").save_pretrained(folder)
    alphabet = byte_alphabet()
    made = Tokenizer(models.BPE({char: id for id, char in enumerate([*alphabet, "ab"])}, [("a", "b")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_ids_and_pieces_are_printed(smollm2_gguf):
    done = tokenize("smollm2", "The capital")
    assert done.exit_code == 0
    rows = [line.split("│")[1:4] for line in done.stdout.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [["0", "504", "The"], ["1", "3575", "Ġcapital"]]
    assert done.stdout.splitlines()[0] == f"{smollm2_gguf} (pre-tokeniser smollm)"


def test_path_of_a_vocabulary_gives_what_its_name_gives(smollm2_gguf):
    assert tokenize(smollm2_gguf, "a b").stdout == tokenize("smollm2", "a b").stdout


def test_llama_cpp_that_agrees_is_exit_status_0(any_llama_cpp, smollm2_gguf):
    done = tokenize("smollm2", "The  42 <|im_end|>", "--against", "llama.cpp")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == "same: llama.cpp gives the same 6 tokens"


def test_place_where_hf_parts_is_named_with_both_pieces_and_written_as_json(smollm2_gguf, tmp_path):
    pytest.importorskip("transformers")
    done = tokenize("smollm2", "is  42", "--against", "hf", "--json", tmp_path / "r.json")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0] == "differ: hf parts at token 1: ĠĠ here, Ġ there"
    found = json.loads((tmp_path / "r.json").read_text())
    (hf,) = found["against"]
    assert (found["schema"], found["same"], found["text"]) == ("opdiff.tokens/1", False, "is  42")
    assert found["pieces"] == ["is", "ĠĠ", "4", "2"]
    assert found["ids"] == open_tokenizer(smollm2_gguf).encode("is  42")
    assert (hf["runtime"], hf["index"], hf["ours"], hf["theirs"]) == ("hf", 1, "ĠĠ", "Ġ")
    assert hf["ids"] != found["ids"]


def test_no_bos_leaves_it_out(any_llama_cpp, write_vocabulary):
    model = write_vocabulary("llama-bpe", [("<s>", 3)], n_merges=9, bos_token_id=265)
    for options in ([], ["--no-bos"]):
        done = tokenize(model, "a<s>", "--against", "llama.cpp", *options)
        assert done.exit_code == 0, done.output
        assert done.stdout.count("<s>") == (1 if options else 2)


def test_text_without_tokens_is_an_empty_table(hf_folder):
    assert tokenize(hf_folder, "").exit_code == 0


def test_hf_folder_has_its_own_tokenizer_and_its_checkpoint_opens_it(hf_folder):
    assert open_tokenizer(open_checkpoint(str(hf_folder))).encode("cab") == open_tokenizer(hf_folder).encode("cab")
    done = tokenize(hf_folder, "cab", "--against", "hf")
    assert done.exit_code == 0, done.output
    assert "same: hf gives the same 2 tokens" in done.stdout
    assert_refused(tokenize(hf_folder, "cab", "--against", "llama.cpp"), "llama.cpp reads GGUF files only")


def test_pieces_cannot_command_the_terminal(hf_folder, tmp_path):
    folder = Path(shutil.copytree(hf_folder, tmp_path / "hf"))
    made = Tokenizer(models.WordLevel({"\x1b[31mred[/]": 0}, "\x1b[31mred[/]"))
    made.save(str(folder / "tokenizer.json"))
    stdout = tokenize(folder, "red").stdout
    assert "\x1b" not in stdout
    assert r"\x1b[31mred[/]" in stdout


def test_what_has_no_tokenizer_is_refused(tmp_path):
    assert_refused(tokenize("seed", "x"), "seed", "has no tokenizer; give token ids")
    assert_refused(tokenize(tmp_path / "none.gguf", "x"), "none.gguf: no such file")
    assert_refused(tokenize(tmp_path, "x"), "tokenizer.json: no such file")
    (tmp_path / "text.gguf").write_text("this is no model")
    assert_refused(tokenize(tmp_path / "text.gguf", "x"), "text.gguf: not a GGUF file")
    assert_refused(tokenize(open_checkpoint("seed", tmp_path).path, "x"), "the file has no tokenizer")


def test_json_that_cannot_be_written_is_refused_and_nothing_is_left(hf_folder, tmp_path):
    done = tokenize(hf_folder, "cab", "--json", tmp_path / "missing" / "r.json")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"opdiff: {tmp_path}/missing/r.json: ")
    assert not (tmp_path / "missing").exists()


def test_runtime_that_is_not_known_is_refused(hf_folder):
    assert tokenize(hf_folder, "x", "--against", "ollama").exit_code == 2
