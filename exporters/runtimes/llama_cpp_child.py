"""llama.cpp's forward pass as a program: a question as JSON on stdin, a trace as a file.

It runs in a process of its own, for llama.cpp ends the whole process where an assumption of its breaks.
The question: {"model": path, "tokens": [...], "steps": text, "first_position": int, "n_context": int, "cache": text,
"n_threads": int, "out": path, "runtime": text, "facts": {...}, "renamed": {...}}.
What goes wrong is one line on stderr that begins with `opdiff: `.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from ...graphs.errors import InputError
from ...graphs.inputs import fed
from ...graphs.schedule.placing import by_position
from ...graphs.schedule.steps import Step, parse_schedule, side_by_side
from ...graphs.stages import split_tap_name, tap_name
from ...graphs.taps import Source, Tap
from ...graphs.trace import save_trace
from .ggml import Node
from .names import axes_of, tap_of

F32 = "f32"
FLAT, BY_HEAD = ("token", "channel"), ("token", "head", "channel")
_GATED = ("SWIGLU", "GEGLU")
HOLDS_VALUES = (F32, "f16")


class Recorder:
    """An eval callback that keeps the value of every node that is a stage.

    `attn_scores` is what softmax reads: llama.cpp scales and masks inside of SOFT_MAX, so the raw product `kq` is
    multiplied by that node's scale, and its mask added, in float32, as it does itself. Keys beyond the tokens so far (the KV
    cache is padded) are cut off, from the probabilities too. Tokens and keys are those of all rows of a batch.
    """

    def __init__(self, n_tokens: int, n_keys: int, renamed: Mapping[str, str]) -> None:
        self.n_tokens, self.n_keys, self.renamed = n_tokens, n_keys, renamed
        self.taps: dict[str, tuple[Tap, np.ndarray]] = {}
        self.error: Exception | None = None
        self._products: dict[str, np.ndarray] = {}
        self._masks: dict[str, np.ndarray] = {}

    def __call__(self, address: int, ask: bool, _: Any) -> bool:
        try:
            return self._answer(Node(address), ask)
        except Exception as e:  # ctypes would drop it
            self.error = e
            return False

    def _answer(self, node: Node, ask: bool) -> bool:
        """Asked: whether the node is wanted. Not asked: it is computed; whether to go on."""
        name = tap_of(node.op, node.name, [operand.name for operand in node.operands], self.renamed)
        if name is None:
            return not ask
        if ask and node.op == "SOFT_MAX":
            self._masks[name] = self._mask(node)  # once it has run, its memory may be another's
        if not ask:
            self._record(name, node)
        return True

    def _record(self, name: str, node: Node) -> None:
        block, stage = split_tap_name(name)
        axes = self._axes(stage, node)
        value = self._value(stage, node, len(axes))
        scores = tap_name("attn_scores", block)
        if stage == "attn_scores":
            self._products[scores] = value
            return
        if stage == "attn_probs" and scores in self._products:
            scale, _ = node.float_parameters(2)
            self._keep(scores, axes, self._products.pop(scores) * np.float32(scale) + self._masks.pop(name), node)
        if stage == "ffn_act":
            if tap_name("router_logits", block) in self.taps:
                return  # that of the shared experts
            if len(node.operands) == 1 and node.op in _GATED:
                self._split(block)
        self._keep(name, axes, value, node)

    def _axes(self, stage: str, node: Node) -> tuple[str, ...]:
        """Those of the stage, or with its heads split or merged as the node has them."""
        _, slow, middle, _ = node.sizes
        is_flat = slow == 1 and (self.n_tokens > 1 or middle == 1)
        if stage in ("q_proj", "k_proj", "v_proj", "q_norm", "k_norm"):
            return FLAT if is_flat else BY_HEAD
        return axes_of(stage)

    def _value(self, stage: str, node: Node, n_dimensions: int) -> np.ndarray:
        if stage == "router_weights":
            return node.values(4).reshape(self.n_tokens, -1)
        value = node.values(n_dimensions)
        if stage in ("attn_scores", "attn_probs"):
            value = np.ascontiguousarray(value[..., : self.n_keys])
        return value

    def _split(self, block: int | None) -> None:
        """Gate and up of one product, which has gate first."""
        tap, both = self.taps[tap_name("ffn_up", block)]
        for stage, half in zip(("ffn_gate", "ffn_up"), np.split(both, 2, axis=-1), strict=True):
            name = tap_name(stage, block)
            self.taps[name] = replace(tap, name=name), np.ascontiguousarray(half)

    def _keep(self, name: str, axes: tuple[str, ...], value: np.ndarray, node: Node) -> None:
        self.taps[name] = Tap(name, axes, Source(node.name, node.op, None, None)), value

    def _mask(self, node: Node) -> np.ndarray:
        """What SOFT_MAX adds to the scores, float32 [token, key]."""
        operands, (_, max_bias) = node.operands, node.float_parameters(2)
        if len(operands) not in (2, 3) or operands[1].op != "NONE" or max_bias:  # a third are sinks
            raise InputError(f"llama.cpp: {node.name} masks in a way that is not known here")
        mask = operands[1].values(2)[: self.n_tokens]
        if not np.isneginf(mask[:, self.n_keys :]).all():
            raise InputError(f"llama.cpp: {node.name} sees keys beyond the {self.n_keys} tokens")
        return mask[:, : self.n_keys]


@contextmanager
def opened(
    model: str,
    n_tokens: int,
    n_threads: int,
    callback: Any = None,
    cache: str = F32,
    n_context: int | None = None,
    n_rows: int = 1,
) -> Iterator[Any]:
    """A context for passes over at most so many tokens: no flash attention, everything on the CPU.

    n_rows: of how many prompts these tokens are; one buffer holds the keys and values of all.
    n_context: of how many tokens the context is, where that is more.
    cache: the type of the KV cache; of a quantised one, that of the keys, for llama.cpp quantises values with flash attention
        only.
    """
    llama_cpp.llama_backend_init()
    model_options = llama_cpp.llama_model_default_params()
    model_options.n_gpu_layers = 0
    model_options.use_extra_bufts = False  # weights as they are stored, in the same kernels on every processor
    loaded = llama_cpp.llama_model_load_from_file(model.encode(), model_options)
    if not loaded:
        raise InputError("llama.cpp cannot load it")
    options = llama_cpp.llama_context_default_params()
    options.n_batch = options.n_ubatch = n_tokens
    options.n_ctx = n_context or n_tokens
    options.n_seq_max, options.kv_unified = n_rows, n_rows > 1
    options.n_threads = options.n_threads_batch = n_threads
    options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    options.type_k = getattr(llama_cpp, f"GGML_TYPE_{cache.upper()}")
    options.type_v = options.type_k if cache in HOLDS_VALUES else llama_cpp.GGML_TYPE_F32
    options.offload_kqv = options.op_offload = False
    if callback is not None:
        options.cb_eval = callback
    context = llama_cpp.llama_init_from_model(loaded, options)
    if not context:
        raise InputError("llama.cpp cannot make a context of it")
    yield context
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(loaded)


def decode(context: Any, rows: Sequence[Sequence[int]], all_logits: bool, start: int = 0) -> int:
    """Run the tokens of some prompts, each prompt a sequence of its own whose first token here is at position `start`, with the
    logits of every position or of the last; its status, of which 0 is good.
    """
    tokens = [(row, start + i, token) for row, ids in enumerate(rows) for i, token in enumerate(ids)]
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, (row, position, token) in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, all_logits
        batch.seq_id[i][0] = row
    batch.logits[len(tokens) - 1] = 1
    status = llama_cpp.llama_decode(context, batch)
    llama_cpp.llama_batch_free(batch)
    return int(status)


def record(
    model: str,
    tokens: Sequence[int],
    n_threads: int,
    steps: Sequence[Step],
    cache: str,
    renamed: Mapping[str, str],
    first_position: int,
    n_context: int,
) -> list[tuple[Tap, np.ndarray]]:
    """The taps of the model's pass over the tokens in these steps, with the logits of all positions.

    renamed: as for `tap_of`. first_position: that of the first token. n_context: as for `opened`.

    Raises:
        InputError: llama.cpp cannot load or run it, or lays its graph out in a way that is not known here.
    """
    placed, n_rows = side_by_side(steps), steps[0].n_rows
    recorders = [Recorder(step.n_columns, step.n_keys, renamed) for step in placed]
    running = iter(recorders)
    now = next(running)

    def answer(address: int, ask: bool, data: Any) -> bool:
        return now(address, ask, data)

    callback = llama_cpp.ggml_backend_sched_eval_callback(answer)  # kept: the library does not
    with opened(model, n_rows * len(tokens), n_threads, callback, cache, n_context, n_rows) as context:
        for step in steps:
            rows = fed(tokens, step)["tokens"].tolist()
            status = decode(context, rows, all_logits=True, start=first_position + step.start)
            if now.error is not None:
                raise now.error
            if status or "logits" not in now.taps:
                raise InputError(f"llama.cpp does not run it to its logits (status {status})")
            now = next(running, now)
    first = recorders[0].taps
    values = [{name: (tap.axes, value) for name, (tap, value) in one.taps.items()} for one in recorders]
    made = by_position(values, placed)
    return [(replace(first[name][0], axes=axes), value) for name, (axes, value) in made.items()]


def main() -> None:
    question = json.load(sys.stdin)
    try:
        tokens = question["tokens"]
        steps = parse_schedule(question["steps"]).steps(len(tokens))
        how = (question[name] for name in ("cache", "renamed", "first_position", "n_context"))
        pairs = record(question["model"], tokens, question["n_threads"], steps, *how)
        save_trace(Path(question["out"]), question["runtime"], tokens, pairs, question["facts"])
    except InputError as e:
        print(f"opdiff: {e}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
