"""The same texts through the tokenizers of other runtimes: HF transformers and llama.cpp."""

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...graphs.errors import InputError
from .tokenizer import check_text

INSTALL_HF = "pip install 'transformers>=5.0'"
INSTALL_LLAMA_CPP = "pip install xllamacpp"
LLAMA_CPP_PACKAGES = ("llama_cpp", "xllamacpp")


def first_difference(ids_a: Sequence[int], ids_b: Sequence[int]) -> int | None:
    """The index at which two lists of ids part; where one begins the other, the shorter length; None: they are equal."""
    for index, (a, b) in enumerate(zip(ids_a, ids_b, strict=False)):
        if a != b:
            return index
    return None if len(ids_a) == len(ids_b) else min(len(ids_a), len(ids_b))


def encode_with_hf(tokenizer: Any, texts: Sequence[str], add_bos: bool = True) -> list[list[int]]:
    """The ids that HF transformers gives, special tokens' text parsed.

    Args:
        tokenizer: what `load_hf_tokenizer` gave.
        add_bos: False: neither BOS nor EOS. True: as the tokenizer's own rule says.
    """
    for text in texts:
        check_text(text)
    return [list(tokenizer(text, add_special_tokens=add_bos)["input_ids"]) for text in texts]


def load_hf_tokenizer(model: Path) -> Any:
    """HF's tokenizer of a GGUF file, which takes several seconds to load, or of an HF folder.

    Raises:
        InputError: transformers is not installed, or cannot load the tokenizer.
    """
    _check_exists(model)
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise InputError(f"transformers is not installed; {INSTALL_HF}") from error
    place = {} if model.is_dir() else {"gguf_file": model.name}
    folder = model if model.is_dir() else model.parent
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, **place)
    except Exception as error:  # whatever transformers raises for a file that it cannot use
        raise InputError(f"{model}: transformers cannot load its tokenizer ({_one_line(error)})") from error


def encode_with_llama_cpp(
    model: Path, texts: Sequence[str], special: bool = True, add_bos: bool = True, package: str | None = None
) -> list[list[int]]:
    """The ids that llama.cpp gives, in a process of its own, once for all texts.

    Args:
        model: a GGUF file: with its weights for xllamacpp, which loads them; llama-cpp-python reads the vocabulary alone.
        special: True: parse_special, the text of a special token becomes that token.
        add_bos: True: add_special, BOS and EOS as the file says. False: neither.
        package: `llama_cpp` or `xllamacpp`; None: the first of them that is installed.
    Raises:
        InputError: the package is not installed, or llama.cpp cannot load the file or breaks down on it.
    """
    _check_exists(model)
    for text in texts:
        check_text(text)
    package = package or next(filter(find_spec, LLAMA_CPP_PACKAGES), None)
    if package is None:
        raise InputError(f"llama.cpp is not installed; {INSTALL_LLAMA_CPP}")
    asked = {"model": str(model), "texts": list(texts), "add_special": add_bos, "parse_special": special}
    command = [sys.executable, "-P", str(Path(__file__).with_name("llama_cpp_child.py")), package]
    ran = subprocess.run(command, input=json.dumps(asked), capture_output=True, encoding="utf-8", errors="replace")
    if ran.returncode:
        raise InputError(f"{model}: llama.cpp cannot tokenize with it ({_why(ran)}); try another version or file")
    return [list(ids) for ids in json.loads(ran.stdout)]


def _why(ran: subprocess.CompletedProcess[str]) -> str:
    """The line of the log that tells most: llama.cpp's first error, a failed assertion, or else the last line."""
    lines = [line.strip() for line in ran.stderr.splitlines() if line.strip()]
    telling = [line for line in lines if "error loading" in line or "GGML_ASSERT" in line]
    return " ".join((telling or lines[-1:] or [f"exit status {ran.returncode}"])[0].split())[:200]


def _check_exists(model: Path) -> None:
    if not model.exists():
        raise InputError(f"{model}: no such file; give a GGUF file or an HF folder")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
