"""The ids are HF's, but where HF is known to part from llama.cpp; each such place is shown to be the only reason."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import Digits, Sequence

from opdiff.exporters.tokenizers import open_tokenizer
from opdiff.exporters.tokenizers.byte_level import byte_alphabet
from opdiff.exporters.tokenizers.others import encode_with_hf, load_hf_tokenizer


def test_smollm2_gives_hfs_ids_once_hf_splits_digits(smollm2_gguf, smollm2_tokenizer, varied_texts):
    """HF reads no tokenizer.ggml.pre: it does not split digits from what is before them, as the model's maker did."""
    pytest.importorskip("transformers")
    ours, hf = smollm2_tokenizer, load_hf_tokenizer(smollm2_gguf)
    texts = varied_texts(2000, 1, [ours.token(id) for id in range(17)] + ["<|im_start", "im_end|>", "<|"])
    absent = absent_bytes(ours)
    differ = parted(ours, hf, texts)
    assert differ
    assert all(has_number(text) or absent & {*text.encode()} for text in differ)
    hf.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), hf.backend_tokenizer.pre_tokenizer])
    differ = parted(ours, hf, texts)
    assert all(absent & {*text.encode()} for text in differ)
    assert len(differ) < 5


def parted(tokenizer, hf, texts):
    """The texts on which the ids differ."""
    theirs = encode_with_hf(hf, texts)
    return [text for text, ids in zip(texts, theirs, strict=True) if tokenizer.encode(text) != ids]


def has_number(text):
    return any(unicodedata.category(char)[0] == "N" for char in text)


def absent_bytes(tokenizer):
    """The bytes without a token, as SmolLM2 has some: HF drops them before the merging, llama.cpp after it."""
    tokens = {tokenizer.token(id) for id in range(tokenizer.vocab_size)}
    return {byte for byte, char in enumerate(byte_alphabet()) if char not in tokens}


def test_what_merges_does_not_merge_across_a_byte_without_a_token(smollm2_tokenizer):
    """In HF it does: there `" " 04 "]"` is the one token `Ġ]`."""
    assert [smollm2_tokenizer.token(id) for id in smollm2_tokenizer.encode(" \x04]")] == ["Ġ", "]"]
    assert [smollm2_tokenizer.token(id) for id in smollm2_tokenizer.encode(" ]")] == ["Ġ]"]


@pytest.fixture(scope="module")
def qwen3(qwen3_folder):
    """The real Qwen3's tokenizer.json: through us, and through HF."""
    pytest.importorskip("transformers")
    return open_tokenizer(qwen3_folder), load_hf_tokenizer(qwen3_folder)


def test_the_real_qwen3_gives_hfs_ids_on_2000_varied_texts(qwen3, varied_texts):
    assert qwen3[0].vocab_size == 151_669
    assert parted(*qwen3, varied_texts(2000, 4, ["<|im_start|>", "<think>", "<|endoftext|>"])) == []


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["<|im_end|>", "<think", "\t"]))
)
@settings(max_examples=200, deadline=None)
def test_any_text_gives_hfs_ids(qwen3, texts):
    assert parted(*qwen3, ["".join(texts)]) == []


def test_qwen_as_gguf_differs_from_its_tokenizer_json_by_unicode_normalisation_alone(
    qwen3_folder, llama_cpp_vectors, varied_texts
):
    """The tokenizer.json brings a text into NFC first; a GGUF cannot say so, and llama.cpp does not."""
    own, gguf = open_tokenizer(qwen3_folder), open_tokenizer(llama_cpp_vectors / "ggml-vocab-qwen2.gguf")
    texts = varied_texts(2000, 5)
    assert own.encode("e\u0301") != gguf.encode("e\u0301")
    assert [own.encode(text) for text in texts] == [gguf.encode(unicodedata.normalize("NFC", text)) for text in texts]
