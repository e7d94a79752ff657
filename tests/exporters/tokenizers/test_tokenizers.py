"""Tokenizers by themselves: round trips, the two sources, what is special, and what cannot be used says so in one line."""

import functools
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.tokenizers import open_tokenizer
from opdiff.exporters.tokenizers.byte_level import ByteLevelTokenizer, byte_alphabet
from opdiff.exporters.tokenizers.others import (
    encode_with_hf,
    encode_with_llama_cpp,
    first_difference,
    load_hf_tokenizer,
)
from opdiff.exporters.tokenizers.pre_tokenizers import PRE_TOKENIZERS
from opdiff.exporters.tokenizers.vocabulary import read_vocabulary
from opdiff.graphs.errors import InputError

ALPHABET = byte_alphabet()
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
FIELDS = {
    "model": "gpt2",
    "pre": "gpt-2",
    "tokens": (*ALPHABET, "ab", "Ġc", "abĠc", "<s>", "<own>"),
    "merges": ("a b", "Ġ c"),
    "token_type": np.array([1] * 259 + [3, 4], np.int32),
    "bos_token_id": 259,
}


def small(**changes) -> ByteLevelTokenizer:
    """A tokenizer of 256 bytes, three merged tokens and two special ones; a change to None leaves the field out."""
    fields = {f"tokenizer.ggml.{key}": value for key, value in (FIELDS | changes).items() if value is not None}
    return ByteLevelTokenizer("small", read_vocabulary(fields.get))


def write_json(folder: Path, bos: str | None = "<s>", template: bool = True) -> Path:
    """A tokenizer.json with truncation and padding, such as training scripts leave them."""
    model = tokenizers.models.BPE({char: id for id, char in enumerate(ALPHABET)}, [])
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<s>"])
    made.add_tokens(["<own>"])
    if template:
        made.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 256)])
    made.enable_truncation(4)
    made.enable_padding(length=9)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": bos and {"content": bos}}))
    return folder


def test_smollm2_encodes_the_prompt_of_the_report(smollm2_tokenizer):
    assert smollm2_tokenizer.encode("The capital of France is") == [504, 3575, 282, 4649, 314]
    assert smollm2_tokenizer.decode([504, 3575, 282, 4649, 314]) == "The capital of France is"
    assert (smollm2_tokenizer.token(3575), smollm2_tokenizer.vocab_size) == ("Ġcapital", 49_152)
    assert "smollm" in smollm2_tokenizer.source


def test_smollm2_opens_in_under_a_second(smollm2_gguf):
    def seconds() -> float:
        start = time.process_time()
        open_tokenizer(smollm2_gguf)
        return time.process_time() - start

    assert min(seconds() for _ in range(3)) < 1


def test_an_open_checkpoint_gives_the_same_tokenizer(smollm2_gguf, smollm2_tokenizer):
    opened = open_tokenizer(open_checkpoint("smollm2"))
    assert opened.encode("One two 345") == smollm2_tokenizer.encode("One two 345")


RECIPES = sorted({pre.cuts: pre.name for pre in PRE_TOKENIZERS.values()}.values())


@pytest.fixture(scope="module")
def every_recipe() -> list[ByteLevelTokenizer]:
    return [small(pre=pre, add_bos_token=False) for pre in RECIPES]


@given(text=UNICODE)
@settings(max_examples=60, deadline=None)
def test_every_text_comes_back_from_its_ids_with_every_pre_tokenizer(every_recipe, text):
    for tokenizer, special in itertools.product(every_recipe, (True, False)):
        assert tokenizer.decode(tokenizer.encode(text, special=special)) == text, tokenizer.source


@given(texts=st.lists(UNICODE | st.sampled_from(["<|im_start|>", "<|im_end|>", "<|im", "  12", "\r\n"])))
@settings(max_examples=200, deadline=None)
def test_every_text_comes_back_from_smollm2_but_for_bytes_without_a_token(smollm2_tokenizer, texts):
    kept = bytes(byte for byte in "".join(texts).encode() if byte not in absent_bytes(smollm2_tokenizer))
    assert smollm2_tokenizer.decode(smollm2_tokenizer.encode("".join(texts))) == kept.decode("utf-8", "replace")


@functools.cache
def absent_bytes(tokenizer) -> set[int]:
    """The bytes without a token, of which SmolLM2 has some."""
    tokens = {tokenizer.token(id) for id in range(tokenizer.vocab_size)}
    return {byte for byte, char in enumerate(ALPHABET) if char not in tokens}


def test_the_text_of_a_special_token_is_plain_text_if_so_wanted_but_for_user_defined_ones():
    tokenizer = small()
    assert tokenizer.encode("ab<s><own>") == [256, 259, 260]
    plain = tokenizer.encode("ab<s><own>", special=False)
    assert plain == [256, *map(ALPHABET.index, "<s>"), 260]
    assert tokenizer.decode(plain) == "ab<s><own>"


def test_merges_that_are_not_needed_are_ignored_where_the_name_says_so():
    assert small(pre="llama-bpe", add_bos_token=False).encode(" c") == [257]
    words = (*FIELDS["tokens"][:258], "Ġde", "<s>", "<own>")
    ids = [small(pre=pre, tokens=words).encode(" de", add_bos=False) for pre in ("llama-bpe", "gpt-2")]
    assert ids == [[258], [ALPHABET.index(char) for char in "Ġde"]]


def test_bos_and_eos_follow_the_file_unless_the_caller_says_otherwise():
    assert small().encode("a") == small(pre="llama-bpe").encode("a", add_bos=False) == [97]
    assert small(pre="llama-bpe").encode("a") == small().encode("a", add_bos=True) == [259, 97]
    both = small(add_bos_token=True, add_eos_token=True, eos_token_id=260)
    assert (both.encode("a"), both.encode("a", add_bos=False)) == ([259, 97, 260], [97])
    with pytest.raises(InputError, match="BOS is asked for, and the vocabulary names none; encode with add_bos=False"):
        small(pre="glm4", bos_token_id=None).encode("a", add_bos=True)


def test_bytes_that_are_no_text_decode_to_the_replacement_character():
    assert small().decode([97, 0x80, 259]) == "a\ufffd<s>"


def test_a_token_outside_the_byte_alphabet_is_text_as_it_stands():
    assert small(tokens=(*FIELDS["tokens"][:260], "日 本")).decode([260]) == "日 本"


@pytest.mark.parametrize("bad", [-1, 261])
def test_an_id_that_is_no_token_is_refused(bad, tmp_path):
    with pytest.raises(InputError, match=rf"no token {bad}; ids go from 0 to 260"):
        small().decode([97, bad])
    with pytest.raises(InputError, match=rf"no token {bad}; it has 258 tokens"):
        open_tokenizer(write_json(tmp_path)).decode([97, bad])


def test_half_a_surrogate_pair_is_refused(smollm2_gguf):
    for encode in (
        small().encode,
        lambda text: encode_with_llama_cpp(smollm2_gguf, [text]),
        lambda text: encode_with_hf(None, [text]),
    ):
        with pytest.raises(InputError, match="lone surrogate at character 1"):
            encode("a\ud800")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": "llama"}, r"tokenizer.ggml.model 'llama' \(SentencePiece\) is not supported"),
        ({"model": "bert"}, r"'bert' \(WordPiece\) is not supported"),
        ({"model": "t5"}, r"'t5' \(Unigram\) is not supported"),
        ({"model": "x" * 999}, r"'x{77}\.\.\.' \(an unknown kind\) is not supported"),
        ({"model": "none"}, "the file has no tokenizer"),
        ({"model": None}, "tokenizer.ggml.model is not there, so the file has no tokenizer"),
        ({"model": np.zeros(3)}, "numpy.ndarray.* is not supported"),
        ({"pre": "gpt-7"}, "tokenizer.ggml.pre 'gpt-7' is an unknown pre-tokeniser"),
        ({"pre": "kimi-k2"}, r"'kimi-k2' is not supported \(it has no merges\)"),
        ({"pre": 3}, "tokenizer.ggml.pre is 3, not a text"),
        ({"merges": None}, "no tokenizer.ggml.merges"),
        ({"merges": ()}, "no tokenizer.ggml.merges"),
        ({"merges": np.zeros(0)}, "no tokenizer.ggml.merges"),
        ({"merges": np.zeros(3)}, "tokenizer.ggml.merges is not an array of texts"),
        ({"merges": ("a b", "a zz")}, "merge 1, 'a zz', names 'zz', which is no token of the vocabulary"),
        ({"merges": ("zz a",)}, "merge 0, 'zz a', names 'zz', which is no token"),
        ({"merges": ("b a",)}, "merge 0, 'b a', makes 'ba', which is no token"),
        ({"merges": ("ab",)}, "merge 0, 'ab', is not two tokens with one space between"),
        ({"merges": ("a b c",)}, "merge 0, 'a b c', is not two tokens"),
        ({"tokens": None}, "no tokenizer.ggml.tokens"),
        ({"tokens": ("a", "b", "ab", "a")}, "token 'a' stands there twice, as 0 and 3"),
        ({"tokens": ("a", "b", "ab", "\udcff")}, "token 3, .* is not UTF-8"),
        ({"token_type": np.zeros(3, np.int32)}, "token_type is not an integer for each of the 261 tokens"),
        ({"token_type": np.zeros(261)}, "token_type is not an integer for each"),
        ({"bos_token_id": 261}, "bos_token_id is 261, and the vocabulary has 261 tokens"),
        ({"bos_token_id": True}, "bos_token_id is True"),
        ({"add_bos_token": 1}, "add_bos_token is 1, neither true nor false"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_tokenizer_that_cannot_be_used_says_why_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as raised:
        small(**changes)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 250


def test_a_message_names_the_file(write_vocabulary):
    model = write_vocabulary("no-such-name", n_merges=9)
    with pytest.raises(InputError, match=rf"^{model}: tokenizer.ggml.pre 'no-such-name'"):
        open_tokenizer(model)


@pytest.mark.parametrize("content, message", [(b"", "cannot be opened"), (b"GGUF", "cut short"), (b"no", "not a GGUF")])
def test_a_file_that_is_no_gguf_is_refused(tmp_path, content, message):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_tokenizer(path)


def test_a_missing_path_or_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file; give a GGUF file, or a folder"):
        open_tokenizer(tmp_path / "absent.gguf")
    with pytest.raises(InputError, match=r"tokenizer\.json: no such file"):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer\.json that can be used"):
        open_tokenizer(tmp_path)


def test_a_tokenizer_json_is_found_in_the_folder_and_beside_the_safetensors(tmp_path):
    folder = write_json(tmp_path)
    for name in ("model.safetensors", "model.safetensors.index.json", "config.json"):
        (folder / name).touch()
    names = ("tokenizer.json", "model.safetensors", "model.safetensors.index.json")
    sources = {open_tokenizer(path).source for path in (folder, *(folder / name for name in names))}
    assert sources == {str(folder / "tokenizer.json")}


def test_a_tokenizer_json_neither_cuts_off_nor_fills_up(tmp_path):
    tokenizer = open_tokenizer(write_json(tmp_path))
    assert tokenizer.encode("abcdef", add_bos=False) == [97, 98, 99, 100, 101, 102]
    assert tokenizer.encode("a<s><own>b", special=False) == [256, 97, *map(ALPHABET.index, "<s>"), 257, 98]
    assert tokenizer.encode("a<s><own>b") == [256, 97, 256, 257, 98]
    assert tokenizer.decode([256, 97, 257]) == "<s>a<own>"


def test_bos_of_a_tokenizer_json_is_added_once(tmp_path):
    assert open_tokenizer(write_json(tmp_path)).encode("a", add_bos=True) == [256, 97]
    assert open_tokenizer(write_json(tmp_path, template=False)).encode("a") == [97]
    assert open_tokenizer(write_json(tmp_path, template=False)).encode("a", add_bos=True) == [256, 97]
    with pytest.raises(InputError, match=r"BOS is asked for, and tokenizer_config\.json beside it names none"):
        open_tokenizer(write_json(tmp_path, bos=None)).encode("a", add_bos=True)


def test_the_first_difference_is_where_two_lists_part():
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([], []) is None
    assert first_difference([1, 2, 3], [1, 9, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == first_difference([1, 2, 3], [1, 2]) == 2


def test_what_is_not_installed_is_named_with_its_pip_line(monkeypatch, smollm2_gguf):
    for module in ("tokenizers", "transformers", "llama_cpp", "xllamacpp"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match="tokenizers package is not installed; pip install"):
        open_tokenizer(smollm2_gguf)
    with pytest.raises(InputError, match="transformers is not installed; pip install"):
        load_hf_tokenizer(smollm2_gguf)
    with pytest.raises(InputError, match=r"llama\.cpp is not installed; pip install xllamacpp"):
        encode_with_llama_cpp(smollm2_gguf, ["a"])


@pytest.mark.parametrize("package", ["transformers", "llama_cpp", "xllamacpp"])
def test_what_other_runtimes_cannot_load_is_one_line(package, tmp_path):
    pytest.importorskip(package)

    def load(path: Path) -> None:
        load_hf_tokenizer(path) if package == "transformers" else encode_with_llama_cpp(path, ["a"], package=package)

    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"model\.gguf: (transformers|llama\.cpp) cannot") as raised:
        load(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "absent.gguf")


def test_importing_tokenizers_imports_no_runtime():
    code = "import sys, opdiff.exporters.tokenizers; print({'tokenizers', 'transformers', 'torch'} & {*sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
