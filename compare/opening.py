"""What a comparison reads: graphs and traces, the tokens that all of them are for, and the sides that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..graphs.adopt.opened import Foreign, open_foreign
from ..graphs.adopt.past import states_of
from ..graphs.artifact import Artifact, Maps, NoTaps, load_artifact, read_model
from ..graphs.cache import with_cache_stages
from ..graphs.cores import on_all_cores
from ..graphs.errors import InputError
from ..graphs.positions import POSITIONS, check_positions, check_table
from ..graphs.run import Runner
from ..graphs.schedule.steps import WHOLE, Schedule
from ..graphs.stages import CACHES
from ..graphs.trace import Trace, load_trace
from .align.by_name import Alignment
from .sides.graph_side import GraphSide
from .sides.scheduled_side import ScheduledSide
from .sides.side import Side
from .sides.trace_side import TraceSide

_SIZES = ("vocab_size", "n_blocks", "width", "n_heads", "n_kv_heads", "head_dim", "ffn_width")
TRACES = (".safetensors", ".npz", ".gguf")


Opened = Artifact | Trace | Foreign


def open_either(path: str | Path, names: str | Path | None, maps: Maps) -> Opened:
    """An artifact, a graph without taps, or, by the ending of its name, a trace, whose tensors the name map tells.

    Raises:
        InputError: a file that cannot be used.
    """
    if Path(path).suffix in TRACES or Path(path).is_dir():
        return load_trace(path, names)
    read = read_model(Path(path))
    try:
        artifact = load_artifact(path, maps, read)
    except NoTaps:
        return open_foreign(path, maps, read)
    is_whole = not artifact.has_table and not any(tap.block is not None for tap in artifact.taps)
    return open_foreign(path, maps, read) if is_whole else artifact


def graph_of(path: Path) -> Artifact | Foreign:
    """A graph, with taps or without.

    Raises:
        InputError: a trace, or a file that cannot be used.
    """
    found = open_either(path, None, {})
    if isinstance(found, Trace):
        raise InputError(f"{path}: a trace, which has no graph to align; give two .onnx files")
    return found


def are_foreign(opened: Sequence[Opened]) -> bool:
    """Whether graphs must be aligned by what is in them, for one has no taps.

    Raises:
        InputError: one of them is a trace.
    """
    foreign = [one for one in opened if isinstance(one, Foreign)]
    if not foreign:
        return False
    traces = [one for one in opened if isinstance(one, Trace)]
    if traces:
        raise InputError(
            f"{foreign[0].path}: has no taps, neither a table of them nor outputs that are named as stages, and can be "
            f"compared with other graphs only, where {traces[0].path} is a trace; export it with opdiff export, which exposes them"
        )
    return True


def keeps_cache(one: Opened) -> bool:
    """Whether a graph takes what a step before left."""
    return not isinstance(one, Trace) and bool(states_of(one) if isinstance(one, Foreign) else one.states)


def check_one_is_a_graph(a: Artifact | Trace, b: Artifact | Trace) -> None:
    """Raise where both are traces.

    Raises:
        InputError: they are.
    """
    if isinstance(a, Trace) and isinstance(b, Trace):
        raise InputError(
            f"{a.path} and {b.path}: both are traces, and nothing can be run on their values; compare each of them with "
            "a graph of the same checkpoint (opdiff export MODEL --variant reference)"
        )


def tokens_of(opened: Sequence[Artifact | Trace], asked: Sequence[int] | None) -> Sequence[int]:
    """The tokens that were asked for, or those of a trace, which must all be the same.

    Raises:
        InputError: they are not, there are none, or a side cannot have them.
    """
    known = {str(one.path): one.tokens for one in opened if isinstance(one, Trace) and one.tokens is not None}
    if asked is not None:
        known = {"--tokens": tuple(asked), **known}
    if not known:
        raise InputError("no tokens: give the input, as in --tokens 1,5,3")
    first, *others = known
    for other in others:
        if known[other] != known[first]:
            raise InputError(f"{other}: its tokens are {_some(known[other])}, where {first} has {_some(known[first])}")
    for one in opened:
        _check_tokens(one, known[first])
    return known[first]


def _some(tokens: Sequence[int]) -> str:
    return ",".join(map(str, tokens[:6])) + (f",... ({len(tokens)})" if len(tokens) > 6 else "")


def _check_tokens(one: Artifact | Trace, tokens: Sequence[int]) -> None:
    if isinstance(one, Trace):
        if one.n_tokens not in (None, len(tokens)):
            raise InputError(f"{one.path}: it is of {one.n_tokens} tokens, where {len(tokens)} are given; give its own")
        return
    one.check_tokens(tokens)


def first_position_of(opened: Sequence[Opened], asked: int | None) -> int:
    """The position of the first token: what was asked for, or that at which a trace was recorded; else 0.

    Raises:
        InputError: traces are of other positions, or a graph with taps takes none.
    """
    known = {
        str(one.path): one.first_position for one in opened if isinstance(one, Trace) and one.first_position is not None
    }
    if asked is not None:
        known = {"--position-offset": asked, **known}
    if not known:
        return 0
    first, *others = known
    check_positions(known[first], 1)
    for other in others:
        if known[other] != known[first]:
            begins = f"{first} is {asked}" if asked is not None else f"those of {first} begin with {known[first]}"
            raise InputError(
                f"{other}: recorded at positions from {known[other]} on, where {begins}; "
                "trace it again with --position-offset, or leave that out"
            )
    for one in opened:
        if known[first] and isinstance(one, Artifact) and not one.takes_positions:
            raise InputError(
                f"{one.path}: takes no positions ({POSITIONS}), and cannot be run at those from {known[first]} on"
                f"{'' if asked is not None else f', at which {first} was recorded'}; export it with opdiff export --positions"
            )
    return known[first]


def at_positions(opened: Sequence[Artifact | Trace], first: int, n_tokens: int) -> list[Artifact | Trace]:
    """The same, with graphs that are fed positions from `first` on.

    Raises:
        InputError: there are no such positions.
    """
    check_positions(first, n_tokens)
    placed: list[Artifact | Trace] = []
    for one in opened:
        if isinstance(one, Artifact):
            check_table(str(one.path), one.decoder, first, n_tokens)
            one = replace(one, first_position=first)
        placed.append(one)
    return placed


def check_sizes(opened: Sequence[Artifact | Trace]) -> None:
    """Raise where graphs are of models of other sizes.

    Raises:
        InputError: they are.
    """
    first, *others = [one for one in opened if isinstance(one, Artifact)]
    for other in others:
        for name in _SIZES:
            ours, theirs = first.config.get(name), other.config.get(name)
            if ours != theirs and ours is not None and theirs is not None:
                raise InputError(
                    f"{first.path} and {other.path}: of different models ({name} {ours} against {theirs}); export both "
                    "from one checkpoint"
                )


def with_caches(opened: Sequence[Artifact | Trace]) -> list[Artifact | Trace]:
    """The same; where one keeps a cache, every graph has stages for what attention reads of all steps."""
    if not any(one.states if isinstance(one, Artifact) else _has_cache(one) for one in opened):
        return list(opened)
    return [with_cache_stages(one) if isinstance(one, Artifact) else one for one in opened]


def _has_cache(trace: Trace) -> bool:
    return any(tap.stage in CACHES for tap in trace.taps.values())


def schedules_of(opened: Sequence[Artifact | Trace], asked: Sequence[Schedule]) -> list[Schedule]:
    """In which steps each side is fed: what was asked for of A and B, and what a trace was recorded on.

    Raises:
        InputError: another schedule is asked for than that of a trace.
    """
    schedules = [*asked, WHOLE][: len(opened)]
    for n, one in enumerate(opened):
        if not isinstance(one, Trace):
            continue
        if schedules[n].text not in (WHOLE.text, one.schedule.text):
            raise InputError(
                f"{one.path}: a trace, of the schedule {one.schedule.text}; leave --schedule-{'ab'[n]} out"
            )
        schedules[n] = one.schedule
    return schedules


def sides_of(
    opened: Sequence[Artifact | Trace],
    alignment: Alignment,
    tokens: Sequence[int],
    runner: Runner,
    schedules: Sequence[Schedule] = (),
) -> list[Side]:
    """All sides; whatever reads the same tensor under two names reads it as A does, or the first that is a graph.

    schedules: in which steps the sides are fed, where that is not all at once for each.
    """

    def made(n_one: tuple[int, Artifact]) -> GraphSide:
        n, one = n_one
        return graph_side(one, alignment, tokens, runner, schedules[n] if n < len(schedules) else WHOLE, schedules)

    artifacts = {n: one for n, one in enumerate(opened) if isinstance(one, Artifact)}
    graphs = dict(zip(artifacts, on_all_cores(made, artifacts.items()), strict=True))
    first, *others = graphs.values()
    for side in others:
        side.read_like(first)
    in_steps = [side for side in graphs.values() if isinstance(side, ScheduledSide)]
    n_others = max((side.n_others_seen() for side in in_steps), default=0)
    for scheduled in in_steps if n_others else ():
        scheduled.put_together(n_others)
    return [TraceSide(one, first) if isinstance(one, Trace) else graphs[n] for n, one in enumerate(opened)]


def graph_side(
    artifact: Artifact,
    alignment: Alignment,
    tokens: Sequence[int],
    runner: Runner,
    schedule: Schedule = WHOLE,
    beside: Sequence[Schedule] = (),
) -> GraphSide:
    """A graph, cut at those of the common taps that it has."""
    own = set(artifact.tap_names)
    at = [tap for tap in alignment.common if tap in own]
    if all(one.is_whole for one in beside):
        return GraphSide(artifact, at, tokens, runner)
    if artifact.given is not None:
        return GraphSide(artifact, at, tokens, runner).told_of_steps(schedule)
    return ScheduledSide(artifact, at, tokens, runner, schedule, beside)
