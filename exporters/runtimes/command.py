"""The command `opdiff trace`."""

from __future__ import annotations

from pathlib import Path

from ...graphs.errors import InputError
from ...graphs.positions import check_positions, check_table
from ...graphs.progress import steps_shown
from ...graphs.schedule.steps import WHOLE, Schedule, parse_schedule
from ..checkpoints import Checkpoint, open_checkpoint


def run_trace(
    model: str,
    runtime: str,
    prompt: str | None,
    tokens: str | None,
    out: Path,
    schedule: str = WHOLE.text,
    cache: str | None = None,
    position_offset: int = 0,
) -> Path:
    """Trace one pass of a runtime over a prompt or over token ids, with its progress on stderr.

    Args:
        position_offset: the position of the first token.
    Raises:
        InputError: neither or both of prompt and tokens, a token that the model has not, another ending than
            .safetensors; and what the runtime cannot do.
    """
    if (prompt is None) == (tokens is None):
        raise InputError("opdiff trace: give either --prompt or --tokens")
    steps = parse_schedule(schedule)
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: a trace is a .safetensors file; name it so")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{out.parent}: cannot be made ({e.strerror}); choose another place for --out") from e
    with steps_shown() as shown:
        shown.enter(f"reading {model}")
        checkpoint = open_checkpoint(model, out.parent)
        ids = _encoded(checkpoint, prompt) if prompt is not None else _parsed(tokens or "")
        _check_tokens(ids, checkpoint)
        steps.steps(len(ids))
        check_positions(position_offset, len(ids))
        check_table(model, checkpoint.config, position_offset, len(ids))
        shown.enter(f"running {runtime}")
        _run(runtime, checkpoint, ids, out, steps, cache, position_offset)
    return out


def _run(
    runtime: str,
    checkpoint: Checkpoint,
    tokens: list[int],
    out: Path,
    schedule: Schedule,
    cache: str | None,
    first_position: int,
) -> None:
    if runtime == "hf":
        from . import hf

        hf.write_trace(checkpoint, tokens, out, schedule, _cache(runtime, cache, hf.CACHES), first_position)
    else:
        from . import llama_cpp

        llama_cpp.write_trace(
            checkpoint, tokens, out, schedule, _cache(runtime, cache, llama_cpp.CACHES), first_position
        )


def _cache(runtime: str, asked: str | None, known: tuple[str, ...]) -> str:
    """The KV cache that is asked for, or the first that the runtime has."""
    if asked is not None and asked not in known:
        raise InputError(f"--cache {asked}: {runtime} has {', '.join(known)}")
    return asked or known[0]


def _encoded(checkpoint: Checkpoint, prompt: str) -> list[int]:
    from ..tokenizers.opening import open_tokenizer

    return open_tokenizer(checkpoint).encode(prompt)


def _parsed(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as e:
        raise InputError(f"--tokens {text!r}: not a list of token ids; write it as 1,5,3") from e


def _check_tokens(tokens: list[int], checkpoint: Checkpoint) -> None:
    if not tokens:
        raise InputError("--prompt: it has no tokens; give at least one character")
    vocab_size = checkpoint.config.vocab_size
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise InputError(f"token {token}: {checkpoint.path} has the tokens 0 to {vocab_size - 1}; correct --tokens")
