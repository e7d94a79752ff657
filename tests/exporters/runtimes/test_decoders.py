"""Real runtimes as decoders: HF and llama.cpp by either package give the same logits, and a failure is one line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from corpus import models
from corpus.models import CONTEXT_LENGTH, loadable_gguf, tiny_model
from corpus.vocabulary import N_TOKENS

from opdiff.compare.verdict.judgement import kl_divergence, log_probabilities
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.runtimes.decoders import open_decoder
from opdiff.exporters.runtimes.llama_cpp_decoder import llama_cpp_decoder
from opdiff.graphs.errors import InputError

PACKAGES = ["llama_cpp", "xllamacpp"]
QUESTIONS = [(1, 5, 3), (7,), tuple(range(CONTEXT_LENGTH - 1)), (1, 5, 3)]


def tiny(folder: Path, quantisation: str = "F32") -> Path:
    return loadable_gguf(tiny_model("qwen3_in_32s", vocab_size=N_TOKENS), folder / "model.gguf", quantisation)


@pytest.mark.parametrize("package", PACKAGES)
def test_llama_cpp_and_hf_give_the_same_probabilities_whatever_was_asked_before(package, tmp_path):
    pytest.importorskip(package)
    checkpoint = open_checkpoint(str(tiny(tmp_path)))
    with open_decoder("hf", checkpoint, CONTEXT_LENGTH) as hf:
        expected = [hf.logits(tokens) for tokens in QUESTIONS]
    with llama_cpp_decoder(checkpoint, CONTEXT_LENGTH, package) as decoder:
        found = [decoder.logits(tokens) for tokens in QUESTIONS]
    for a, b in zip(expected, found, strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_allclose(log_probabilities(b), log_probabilities(a), atol=2e-4)
    np.testing.assert_array_equal(found[0], found[-1])


def test_both_packages_run_llama_cpp_on_the_stored_weights_and_hf_does_not(tmp_path):
    """In Q8_0 llama.cpp rounds the activations: the two packages agree as they do in F32, and HF is far from both."""
    for package in PACKAGES:
        pytest.importorskip(package)
    checkpoint = open_checkpoint(str(tiny(tmp_path, "Q8_0")))
    values = {}
    for package in PACKAGES:
        with llama_cpp_decoder(checkpoint, CONTEXT_LENGTH, package) as decoder:
            values[package] = log_probabilities(decoder.logits(QUESTIONS[0]))
    with open_decoder("hf", checkpoint, CONTEXT_LENGTH) as hf:
        theirs = log_probabilities(hf.logits(QUESTIONS[0]))
    assert kl_divergence(*values.values()) < 1e-4 < kl_divergence(values["llama_cpp"], theirs)


def test_names_and_versions_are_told(tmp_path):
    pytest.importorskip("llama_cpp")
    checkpoint = open_checkpoint(str(tiny(tmp_path)))
    with open_decoder("llama.cpp", checkpoint, 8) as decoder:
        assert decoder.name == "llama.cpp"
        assert decoder.runtime.startswith("llama.cpp (llama-cpp-python 0.")
    with open_decoder("hf", checkpoint, 8) as hf:
        assert hf.name == "hf"
        assert hf.runtime.startswith("hf transformers 5.")


@pytest.mark.parametrize("package", PACKAGES)
def test_likeliest_token_that_is_half_a_character_is_no_hindrance(package, tmp_path):
    """Tokens 126 to 176 are the bytes 0xC2 to 0xF4, each the first of a longer character; the model is sure of one."""
    pytest.importorskip(package)
    model = tiny_model("qwen3_in_32s", vocab_size=N_TOKENS)
    model.lm_head.weight[126:177] *= 100
    checkpoint = open_checkpoint(str(loadable_gguf(model, tmp_path / "model.gguf")))
    with llama_cpp_decoder(checkpoint, 8, package) as decoder:
        assert 126 <= decoder.logits((1, 5, 3)).argmax() < 177


@pytest.mark.parametrize("package", PACKAGES)
def test_process_ends_with_the_block_whatever_ended_it(package, tmp_path):
    pytest.importorskip(package)
    with pytest.raises(ZeroDivisionError), llama_cpp_decoder(open_checkpoint(str(tiny(tmp_path))), 8, package) as d:
        pid = d._child.pid
        os.kill(pid, 0)
        raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_llama_cpp_cannot_load_is_one_line(package, tmp_path, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.setattr(models, "write_vocabulary", lambda writer, n: writer.add_tokenizer_model("nonsense"))
    checkpoint = open_checkpoint(str(tiny(tmp_path)))
    refused = pytest.raises(InputError, match=r"model\.gguf: .*try another version of llama\.cpp, or --against hf")
    with refused as e, llama_cpp_decoder(checkpoint, 8, package):
        pass
    assert "\n" not in str(e.value)


def test_question_that_is_too_long_is_refused(tmp_path):
    pytest.importorskip("llama_cpp")
    checkpoint, refused = open_checkpoint(str(tiny(tmp_path))), pytest.raises(InputError, match=r"model\.gguf: ")
    with llama_cpp_decoder(checkpoint, 4, "llama_cpp") as decoder, refused:
        decoder.logits(tuple(range(1000)))


def test_folder_and_unknown_runtime_are_refused(tmp_path):
    pytest.importorskip("llama_cpp")
    tiny_model("qwen3").save_pretrained(tmp_path / "hf")
    checkpoint = open_checkpoint(str(tmp_path / "hf"))
    refused = pytest.raises(InputError, match=r"llama\.cpp reads GGUF files only")
    with refused, open_decoder("llama.cpp", checkpoint, 8):
        pass
    refused = pytest.raises(InputError, match=r"runtime vllm: unknown; there are hf and llama\.cpp")
    with refused, open_decoder("vllm", checkpoint, 8):
        pass
