"""llama.cpp as a decoder: a model loaded once in a process of its own, and its logits for any tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from tempfile import TemporaryFile
from typing import IO

import numpy as np

from ...graphs.cores import n_usable_cores
from ...graphs.errors import InputError
from ..checkpoints import Checkpoint
from .llama_cpp import is_gguf, reason

PACKAGES = {"llama_cpp": "llama-cpp-python", "xllamacpp": "xllamacpp"}


class LlamaCppDecoder:
    """llama.cpp on the CPU with the file's own weights, no flash attention, a float32 KV cache."""

    name = "llama.cpp"

    def __init__(self, package: str, checkpoint: Checkpoint, child: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self.runtime = f"llama.cpp ({PACKAGES[package]} {version(PACKAGES[package])})"
        self._checkpoint, self._child, self._log = checkpoint, child, log

    def ask(self, line: object, n_values: int) -> np.ndarray:
        """Send a line of JSON and read the answer, float32 [n_values].

        Raises:
            InputError: the process has ended.
        """
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps(line).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; its log says why
        data = self._child.stdout.read(4 * n_values)
        if len(data) < 4 * n_values:
            raise InputError(self._why())
        return np.frombuffer(data, np.float32)

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """The logits that follow the tokens, float32 [vocabulary]; through xllamacpp less a constant.

        Raises:
            InputError: llama.cpp cannot run on these tokens.
        """
        return self.ask(list(tokens), self._checkpoint.config.vocab_size)

    def _why(self) -> str:
        status = self._child.wait()
        self._log.seek(0)
        log = self._log.read().decode("utf-8", "replace")
        return f"{self._checkpoint.path}: {reason(status, log)}; try another version of llama.cpp, or --against hf"


@contextmanager
def llama_cpp_decoder(checkpoint: Checkpoint, n_tokens: int, package: str | None = None) -> Iterator[LlamaCppDecoder]:
    """llama.cpp with the checkpoint loaded; the process ends with the block.

    Args:
        n_tokens: the most in one question; less than the model's context.
        package: `llama_cpp` or `xllamacpp`; None: the first of them that is installed.
    Raises:
        InputError: neither is installed, the checkpoint is no GGUF file, or llama.cpp cannot load it.
    """
    package = package or next(filter(find_spec, PACKAGES), None)
    if package is None:
        raise InputError("llama.cpp is not installed; pip install xllamacpp (or llama-cpp-python, which is compiled)")
    if not is_gguf(checkpoint.path):
        raise InputError(f"{checkpoint.path}: llama.cpp reads GGUF files only; convert it, or use --against hf")
    command = [sys.executable, "-P", "-m", f"{__package__}.llama_cpp_logits", package]
    question = {"model": str(checkpoint.path.resolve()), "n_tokens": n_tokens, "n_threads": n_usable_cores()}
    with TemporaryFile() as log:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        try:
            decoder = LlamaCppDecoder(package, checkpoint, child, log)
            decoder.ask({**question, "vocab_size": checkpoint.config.vocab_size}, 1)
            yield decoder
        finally:
            child.kill()
            child.communicate()
