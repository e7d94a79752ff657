"""The Python API: what the commands do, on paths or on objects, with typed results. Importing it loads neither torch nor onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compare.align.foreign import ForeignPair
    from .compare.result import Result
    from .compare.verdict.verdict import Verdict


def export(
    model: str | Path,
    *variants: str,
    out: str | Path,
    length: int | None = None,
    cache: bool = False,
    link: bool = True,
    positions: bool = False,
) -> list[Path]:
    """Write one .onnx for each variant of a model; the Python side of `opdiff export`.

    Args:
        model: the path of a .gguf file or of an HF folder, a model's id on the hub, `seed` or `smollm2`.
        variants: as for the command: `"legacy:converter=on"`, `"mine.py:port"`.
        out: the folder for the graphs and their weights.
        length: export for exactly so many tokens; None: for any number, where the variant can.
        cache: let the graphs take and give a KV cache.
        link: let the graphs read the checkpoint's own file through a hard link, where its tensors are plain.
        positions: let the graphs take the positions of the tokens.
    Returns:
        the graphs, in the order of the variants.
    Raises:
        InputError: the model, a variant or the folder cannot be used.
    """
    from .exporters.command import run_export

    return run_export(str(model), variants, Path(out), link, length, cache, positions)


def trace(
    model: str | Path,
    runtime: str,
    *,
    out: str | Path,
    tokens: Sequence[int] | None = None,
    prompt: str | None = None,
    schedule: str = "whole",
    cache: str | None = None,
    position_offset: int = 0,
) -> Path:
    """Run a real runtime once and write the values of its stages; the Python side of `opdiff trace`.

    Args:
        model: as for `export`.
        runtime: `hf` or `llama.cpp`.
        out: the .safetensors file.
        tokens, prompt: one of the two.
        schedule, cache: as for the command.
        position_offset: the position of the first token.
    Raises:
        InputError: what the runtime cannot do, or the command would refuse.
    """
    from .exporters.runtimes.command import run_trace

    return run_trace(str(model), runtime, prompt, _written(tokens), Path(out), schedule, cache, position_offset)


def compare(
    a: Any,
    b: Any,
    *,
    tokens: Sequence[int] | None = None,
    prompt: str | None = None,
    reference: Any = None,
    inputs: Mapping[str, Any] | None = None,
    schedule_a: str = "whole",
    schedule_b: str = "whole",
    values: str | Path | None = None,
    position_offset: int | None = None,
    optimization_a: str | None = None,
    optimization_b: str | None = None,
    provider_a: str | None = None,
    provider_b: str | None = None,
) -> Result:
    """Compare two runtimes; the Python side of `opdiff compare`.

    Args:
        a, b, reference: each the path of an .onnx file or of a trace, an `onnx.ModelProto`, a torch module with its example
            inputs `(module, inputs)`, or a recording: a dict of arrays by tap name.
        tokens, prompt: the input, as ids or as text; neither where a path is of a trace, which brings its own.
        inputs: for graphs without taps, further inputs by name.
        schedule_a, schedule_b: in which steps each side is fed.
        values: a folder in which every side's values of each tap are kept.
        position_offset: the position of the first token, for graphs that take positions; None: that of a trace, or 0.
        optimization_a, optimization_b: take a side as onnxruntime's optimiser leaves it: "none", "basic", "extended" or "all".
        provider_a, provider_b: run one of the sides whole on this execution provider, and take it as a trace.
    Returns:
        the result, which shows itself in a notebook.
    Raises:
        InputError: a side or a token that cannot be used.
    """
    import numpy as np

    from .compare.command import with_pieces
    from .compare.diagnose import compare as compared
    from .exporters.tokenizers.beside import pieces_of, tokens_of
    from .graphs.adopt.optimised import optimised
    from .graphs.leftovers import temporary_folder
    from .graphs.schedule.steps import parse_schedule

    with _files(a=a, b=b, reference=reference) as (paths, given), temporary_folder() as folder:
        if prompt is not None:
            tokens = tokens_of(prompt, paths.values())
        for side, level in (("a", optimization_a), ("b", optimization_b)):
            if level is not None:
                paths[side] = optimised(paths[side], level, folder)
        named = {name: np.asarray(value) for name, value in (inputs or {}).items()}
        result = compared(
            paths["a"],
            paths["b"],
            tokens,
            paths.get("reference"),
            inputs=({**given.get("a", {}), **named}, {**given.get("b", {}), **named}),
            schedules=(parse_schedule(schedule_a), parse_schedule(schedule_b)),
            values=None if values is None else Path(values),
            first_position=position_offset,
            providers=(provider_a, provider_b),
        )
        return with_pieces(result, pieces_of)


def align(
    a: Any, b: Any, *, tokens: Sequence[int] | None = None, inputs: Mapping[str, Any] | None = None
) -> ForeignPair:
    """Say which value of A is which of B, for two graphs that share no names; the Python side of `opdiff align`.

    Args:
        a, b, tokens, inputs: as for `compare`, but no recordings.
    Raises:
        InputError: a side that cannot be used.
    """
    import numpy as np

    from .compare.align.foreign import align_foreign
    from .compare.opening import graph_of
    from .graphs.run import Runner

    with _files(a=a, b=b) as (paths, given):
        named = {name: np.asarray(value) for name, value in (inputs or {}).items()}
        both = [{**given.get(side, {}), **named} for side in "ab"]
        return align_foreign(graph_of(paths["a"]), graph_of(paths["b"]), tokens, Runner(), both)


def verdict(
    model: str | Path,
    candidates: Sequence[str | Path],
    against: Sequence[str],
    *,
    prompts: str | Path | list[Any] | None = None,
    steps: int = 8,
    schedule: str = "whole",
    top_k: int = 5,
    with_q8_0: bool = True,
    out: str | Path | None = None,
) -> Verdict:
    """Say which candidates decode a model as the real runtimes do; the Python side of `opdiff verdict`.

    Args:
        model: as for `export`.
        candidates: variants, or paths of .onnx files from `export`.
        against: `hf`, `llama.cpp`; the first one's greedy continuation is the path.
        prompts: texts or `{"tokens": [1, 5, 3]}`, or the path of a JSON file with a list of them.
        steps: how many tokens to decode. schedule: `whole` or `each`. top_k: how many tokens to list.
        with_q8_0: also say what Q8_0 weights do to each candidate by themselves.
        out: a folder in which the graphs stay.
    Raises:
        InputError: what the command would refuse.
    """
    from .compare.verdict.verdict import decide
    from .exporters.verdict import ContestRequest, open_contest
    from .graphs.leftovers import temporary_folder
    from .graphs.schedule.steps import parse_schedule

    with temporary_folder() as folder:
        file = None if prompts is None else folder / "prompts.json"
        if isinstance(prompts, (str, Path)):
            file = Path(prompts)
        elif file is not None:
            file.write_text(json.dumps(prompts), encoding="utf-8")
        asked = ContestRequest(
            str(model),
            tuple(map(str, candidates)),
            tuple(against),
            file,
            steps,
            None if out is None else Path(out),
            with_q8_0,
            parse_schedule(schedule),
        )
        with open_contest(asked) as contest:
            return decide(contest, top_k)


def assert_parity(a: Any, b: Any, **how: Any) -> Result:
    """Compare, and fail with the diagnosis where the two are not the same.

    Args:
        a, b, how: as for `compare`.
    Raises:
        AssertionError: they part; its message says where, why, and at which lines.
        InputError: a side or a token that cannot be used.
    """
    from .graphs.errors import OpdiffError

    __tracebackhide__ = True
    try:
        result = compare(a, b, **how)
    except OpdiffError as e:
        raise e.with_traceback(None) from None  # what cannot be used is one line, not opdiff's own frames
    if not result.parity:
        from .compare.report.diagnosis import diagnosis

        raise AssertionError(diagnosis(result))
    return result


def _written(tokens: Sequence[int] | None) -> str | None:
    return None if tokens is None else ",".join(str(int(token)) for token in tokens)


@contextmanager
def _files(**sides: Any) -> Iterator[tuple[dict[str, Path], dict[str, Mapping[str, Any]]]]:
    """Each side as a file, and the example inputs that a module brings; files of objects go with the block."""
    from .graphs.leftovers import temporary_folder

    with temporary_folder() as folder:
        paths: dict[str, Path] = {}
        given: dict[str, Mapping[str, Any]] = {}
        for role, side in sides.items():
            if isinstance(side, (str, Path)):
                paths[role] = Path(side)
            elif side is not None or role != "reference":
                paths[role], given[role] = _as_file(role, side, folder)
        yield paths, given


def _as_file(role: str, side: Any, folder: Path) -> tuple[Path, Mapping[str, Any]]:
    from .graphs.errors import InputError
    from .graphs.objects import save_model, save_recording

    if isinstance(side, Mapping):
        return save_recording(folder / f"{role}.npz", side), {}
    if isinstance(side, (tuple, list)) and len(side) == 2:
        from .exporters.own_module import write_module
        from .graphs.tensor_files import read_tensors

        graph, inputs = write_module(side[0], side[1], folder / f"{role}.onnx")
        return graph, read_tensors(inputs).tensors
    if hasattr(side, "SerializeToString"):
        return save_model(folder / f"{role}.onnx", side), {}
    raise InputError(
        f"{role}: {type(side).__name__} is no side; give a path, an onnx.ModelProto, (module, example inputs), or a dict of arrays"
    )
