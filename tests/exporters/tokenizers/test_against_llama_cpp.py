"""The ids of a GGUF's tokenizer are llama.cpp's: on its own test vectors, and on varied texts for every pre-tokeniser."""

from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opdiff.exporters.tokenizers import open_tokenizer
from opdiff.exporters.tokenizers.others import LLAMA_CPP_PACKAGES, encode_with_llama_cpp
from opdiff.exporters.tokenizers.pre_tokenizers import PRE_TOKENIZERS

VECTORS = ["gpt-2", "qwen2", "llama-bpe", "qwen35", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "mpt"]
VECTORS += ["refact", "starcoder"]
SEPARATOR = "\n__ggml_vocab_test__\n"
RULES = {(pre.cuts, pre.ignore_merges, pre.add_bos, pre.default_bos): pre.name for pre in PRE_TOKENIZERS.values()}
BEHAVIOURS = sorted({"gpt-2", "qwen2", "llama-bpe", "smollm", *RULES.values()})

CONTROL, USER, UNKNOWN, NORMAL = 3, 4, 2, 1
SPECIAL = [("<s>", CONTROL), ("</s>", CONTROL), ("<think>", USER), ("<unk>", UNKNOWN), ("<mask>", CONTROL)]
SPECIAL += [("<|endoftext|>", CONTROL)]
OVERLAPPING = [("<|a", CONTROL), ("a|>b", CONTROL), ("a|><|a|>", USER), ("<|im_end|>", NORMAL), ("<|start|>", CONTROL)]


def read_vectors(path):
    texts = path.with_name(path.name + ".inp").read_bytes().decode().removesuffix(SEPARATOR).split(SEPARATOR)
    rows = path.with_name(path.name + ".out").read_text().splitlines()
    return texts, [[int(id) for id in row.split()] for row in rows]


def parted(tokenizer, texts, theirs, **options):
    """The texts on which the ids differ."""
    assert len(texts) == len(theirs)
    return [(text, ours, ids) for text, ids in zip(texts, theirs, strict=True)
            if (ours := tokenizer.encode(text, **options)) != ids]  # fmt: skip


@pytest.mark.parametrize("name", VECTORS)
def test_ids_are_those_of_llama_cpps_own_vectors(llama_cpp_vectors, name):
    path = llama_cpp_vectors / f"ggml-vocab-{name}.gguf"
    texts, ids = read_vectors(path)
    tokenizer = open_tokenizer(path)
    assert len(texts) > 40
    assert parted(tokenizer, texts, ids, special=False, add_bos=False) == []
    assert [tokenizer.decode(row) for row in ids] == texts


@pytest.mark.parametrize("package", LLAMA_CPP_PACKAGES)
def test_smollm2_gives_the_ids_that_llama_cpp_gives_on_2000_varied_texts(
    smollm2_gguf, smollm2_tokenizer, varied_texts, package
):
    if not find_spec(package):
        pytest.skip(f"{package} is not installed")
    special = [smollm2_tokenizer.token(id) for id in range(17)]
    texts = varied_texts(2000, 1, [*special, "<|im_start", "im_end|>", "<|"])
    theirs = encode_with_llama_cpp(smollm2_gguf, texts, package=package)
    assert parted(smollm2_tokenizer, texts, theirs) == []
    theirs = encode_with_llama_cpp(smollm2_gguf, texts[:300], special=False, package=package)
    assert parted(smollm2_tokenizer, texts[:300], theirs, special=False) == []


@pytest.mark.parametrize("name", ["gpt-2", "qwen2", "llama-bpe"])
def test_real_vocabulary_gives_the_ids_that_llama_cpp_gives_on_2000_varied_texts(llama_cpp_vectors, varied_texts, name):
    pytest.importorskip("llama_cpp", reason="only llama-cpp-python loads a vocabulary without weights")
    model = llama_cpp_vectors / f"ggml-vocab-{name}.gguf"
    texts = varied_texts(2000, 6, ["<|endoftext|>", "<|im_start|>", "<|begin_of_text|>"])
    assert parted(open_tokenizer(model), texts, encode_with_llama_cpp(model, texts)) == []


@pytest.fixture(scope="module")
def llama_of_smollm2(smollm2_gguf):
    """llama-cpp-python's own, in this process."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="only llama-cpp-python tokenizes without a server")
    return llama_cpp.Llama(str(smollm2_gguf), vocab_only=True, verbose=False)


KNOWN_TO_BOTH = st.characters(exclude_categories=["Cs", "Cn"], max_codepoint=0xFFFF)  # Python 3.11's Unicode 14


@given(text=st.text(KNOWN_TO_BOTH) | st.text(st.sampled_from(" \t\n\r09aZ'sé中ا\x00\x04😀<|>_")))
@settings(max_examples=500, deadline=None)
def test_any_text_gives_the_ids_that_llama_cpp_gives(smollm2_tokenizer, llama_of_smollm2, text):
    assert smollm2_tokenizer.encode(text) == llama_of_smollm2.tokenize(text.encode(), add_bos=True, special=True)


@pytest.mark.parametrize("pre", BEHAVIOURS)
def test_every_pre_tokenizer_cuts_as_llama_cpp_does(any_llama_cpp, write_vocabulary, varied_texts, pre):
    words = ["ĠThe", "MyClassName", "Ġquick", "123"]  # no merges lead to them: only ignore_merges finds them
    model = write_vocabulary(pre, SPECIAL, words)
    texts = ["The quick 123 MyClassName The quick", *varied_texts(400, 2, ["<s>", "<think>", " The", "123"])]
    assert parted(open_tokenizer(model), texts, encode_with_llama_cpp(model, texts)) == []


def test_a_wrong_cut_would_be_seen(any_llama_cpp, write_vocabulary, varied_texts):
    texts = varied_texts(400, 2)
    theirs = encode_with_llama_cpp(write_vocabulary("qwen2"), texts, add_bos=False)
    assert len(parted(open_tokenizer(write_vocabulary("llama-bpe")), texts, theirs, add_bos=False)) > 40
    assert len(parted(open_tokenizer(write_vocabulary("qwen35")), texts, theirs, add_bos=False)) > 20


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    "fields", [{"pre": "gpt-2"}, {"pre": "jina-v2-es"}, {"pre": "gpt-2", "name": "Phi-3 mini"}], ids=str
)
def test_special_tokens_are_found_as_llama_cpp_finds_them(
    any_llama_cpp, write_vocabulary, varied_texts, fields, special
):
    model = write_vocabulary(special=[*SPECIAL, *OVERLAPPING], n_merges=999, **fields)
    found = [text for text, _ in SPECIAL + OVERLAPPING] + ["|>", "a", " \n "]
    texts = ["x <mask> y", "<s> \t<|a|>b<|a|><|a|>", *varied_texts(300, 3, found)]
    theirs = encode_with_llama_cpp(model, texts, special=special, add_bos=False)
    assert parted(open_tokenizer(model), texts, theirs, special=special, add_bos=False) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"add_bos_token": True, "bos_token_id": 5},
        {"add_bos_token": False, "bos_token_id": 5},
        {"add_bos_token": True, "add_eos_token": True, "bos_token_id": 7, "eos_token_id": 6},
        {"add_bos_token": True},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("pre", ["llama-bpe", "gpt-2"])
def test_bos_and_eos_go_where_llama_cpp_puts_them(any_llama_cpp, write_vocabulary, pre, fields):
    model = write_vocabulary(pre, n_merges=99, **fields)
    tokenizer = open_tokenizer(model)
    for add_bos, ours in ((True, tokenizer.encode("a b")), (False, tokenizer.encode("a b", add_bos=False))):
        assert encode_with_llama_cpp(model, ["a b"], add_bos=add_bos) == [ours]
