"""llama.cpp's tokenizer as a program: a package's name as its argument, a question as JSON on stdin, the answer on stdout.

It is run by its path in a process of its own, for llama.cpp ends the whole process where a vocabulary breaks its
assumptions, and xllamacpp's server may wait for ever when it is stopped soon after its start. It imports nothing of
opdiff.

The question: {"model": path, "texts": [...], "add_special": bool, "parse_special": bool}; the answer: a list of lists.
"""

import json
import os
import sys
import urllib.request
from typing import Any

_SECONDS = 60  # for one text; one of a megabyte takes about a second


def in_process(question: dict[str, Any]) -> list[list[int]]:
    """Through llama-cpp-python, which can load a vocabulary without weights."""
    import llama_cpp

    llama = llama_cpp.Llama(question["model"], vocab_only=True, verbose=False)
    options = {"add_bos": question["add_special"], "special": question["parse_special"]}
    return [list(llama.tokenize(text.encode(), **options)) for text in question["texts"]]


def through_server(question: dict[str, Any]) -> list[list[int]]:
    """Through xllamacpp, which lets its tokenizer out only at its server's address, on this machine."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = question["model"]
    parameters.n_ctx, parameters.n_parallel = 64, 1
    parameters.warmup = parameters.fit_params = False
    server = xllamacpp.Server(parameters)
    address = server.listening_address + "/tokenize"
    options = {"add_special": question["add_special"], "parse_special": question["parse_special"]}
    answers = [_post(address, {"content": text, **options})["tokens"] for text in question["texts"]]
    _KEPT.append(server)  # its end would be waited for
    return answers


_KEPT: list[Any] = []


def _post(address: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy is set, the server is here
    with opener.open(request, timeout=_SECONDS) as answer:
        return dict(json.loads(answer.read()))


def main() -> None:
    """Answer one question, and end without any cleaning up."""
    answer_to = os.dup(1)
    os.dup2(2, 1)  # llama.cpp writes its log to stdout too
    question = json.load(sys.stdin)
    answer = {"llama_cpp": in_process, "xllamacpp": through_server}[sys.argv[1]](question)
    with os.fdopen(answer_to, "w") as out:
        json.dump(answer, out)
    os._exit(0)


if __name__ == "__main__":
    main()
