"""llama.cpp's next-token logits as a program: token ids in, one line of JSON each; logits out, as they are in memory.

It is run in a process of its own, for llama.cpp ends the whole process where an assumption of its breaks.
Its argument: the package, `llama_cpp` or `xllamacpp`. The first line on stdin:
{"model": path, "n_tokens": the most in one question, "vocab_size": int, "n_threads": int}; each later one is a list of
token ids. Each answer is float32 [vocab_size]; the first, on loading, is one zero. What goes wrong is one line on
stderr that begins with `opdiff: `.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...graphs.errors import InputError

Answer = Callable[[Sequence[int]], np.ndarray]


@contextmanager
def in_process(options: Mapping[str, Any]) -> Iterator[Answer]:
    """Through llama-cpp-python: the logits themselves. Of a question that goes on where the one before ended, only what is new
    is run, through llama.cpp's own KV cache, as when it generates text.
    """
    import llama_cpp

    from .llama_cpp_child import decode, opened

    with opened(options["model"], options["n_tokens"], options["n_threads"]) as context:
        vocabulary = llama_cpp.llama_model_get_vocab(llama_cpp.llama_get_model(context))
        if (n := llama_cpp.llama_vocab_n_tokens(vocabulary)) != options["vocab_size"]:
            raise InputError(f"llama.cpp counts {n} tokens where the checkpoint has {options['vocab_size']}")

        held: list[int] = []

        def answer(tokens: Sequence[int]) -> np.ndarray:
            start = len(held) if held == list(tokens[: len(held)]) and len(tokens) > len(held) else 0
            if not start:
                llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
            held[:] = tokens
            if status := decode(context, [tokens[start:]], all_logits=False, start=start):
                raise InputError(f"llama.cpp does not run it to its logits (status {status})")
            return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (options["vocab_size"],))

        yield answer


@contextmanager
def through_server(options: Mapping[str, Any]) -> Iterator[Answer]:
    """Through xllamacpp, whose server gives log-probabilities: the logits but for a constant.

    All of the vocabulary is asked for; a probability that is 0 in float32 has -inf.
    """
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = options["model"]
    parameters.n_ctx, parameters.n_parallel = options["n_tokens"] + 1, 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = options["n_threads"]
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.warmup = parameters.fit_params = False
    parameters.n_gpu_layers = 0
    server = xllamacpp.Server(parameters)
    question = {"n_predict": 1, "n_probs": options["vocab_size"], "temperature": 0, "cache_prompt": False}
    # A token that ends within a character would come without probabilities; they are from before this bias.
    question["logit_bias"] = [["a", 1e4]]

    def answer(tokens: Sequence[int]) -> np.ndarray:
        got = server.handle_completions({**question, "prompt": list(tokens)})
        try:
            listed = got["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        except (KeyError, IndexError, TypeError) as e:
            raise InputError(f"llama.cpp's server gives no probabilities ({str(got)[:160]})") from e
        return _by_token(listed, options["vocab_size"])

    yield answer


def _by_token(listed: Sequence[Mapping[str, Any]], vocab_size: int) -> np.ndarray:
    """The server's list, which is by probability, as an array by token id."""
    if len(listed) != vocab_size:
        raise InputError(f"llama.cpp's server gives {len(listed)} of the {vocab_size} probabilities")
    values = np.full(vocab_size, -np.inf, np.float32)
    ids = np.array([one["id"] for one in listed])
    values[ids] = [one["logprob"] for one in listed]
    return np.where(values <= np.finfo(np.float32).min, -np.inf, values).astype(np.float32)


def main() -> None:
    """Answer until stdin ends, and end without any cleaning up: xllamacpp's server may wait for ever for its own end."""
    answer_to = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # llama.cpp writes its log to stdout too
    options = json.loads(sys.stdin.readline())
    try:
        with {"llama_cpp": in_process, "xllamacpp": through_server}[sys.argv[1]](options) as answer:
            _write(answer_to, np.zeros(1, np.float32))
            for line in sys.stdin:
                _write(answer_to, answer(json.loads(line)))
            os._exit(0)
    except Exception as e:  # whatever the library raises is said in one line
        print(f"opdiff: {' '.join(str(e).split())}", file=sys.stderr, flush=True)
        os._exit(2)


def _write(file: Any, values: np.ndarray) -> None:
    file.write(values.tobytes())
    file.flush()


if __name__ == "__main__":
    main()
