"""The comparison, from paths to one result: run, align, replay, explain, judge, close."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from ..graphs.adopt.opened import Foreign
from ..graphs.artifact import Artifact, Maps
from ..graphs.cores import side_by_side
from ..graphs.errors import InputError, OpdiffError
from ..graphs.kernels import CPU
from ..graphs.positions import check_positions
from ..graphs.progress import uncounted
from ..graphs.provenance import versions
from ..graphs.recorded import check_provider, recorded_on
from ..graphs.run import Runner
from ..graphs.run import Settings as RunSettings
from ..graphs.schedule.steps import WHOLE, Schedule
from ..graphs.stages import CACHES, LOGITS, split_tap_name
from ..graphs.trace import Trace
from .align.by_name import Alignment, align
from .align.foreign import align_foreign
from .align.map_file import Mapped
from .explain.catalogue import Explainer
from .explain.causes import Cause
from .explain.faults import Faults, faults, harmless_places
from .explain.inferred import Inferred, inferred_decoder
from .explain.latent.search import Dormant, latent_differences
from .explain.reference import Judge
from .judge.channel_order import in_one_order
from .judge.locate import OTHER_KERNELS, Local, is_scores, locate
from .judge.nonfinite import first_nonfinite, not_judged, parts_when_whole
from .judge.places import first_step
from .look.next_capture import next_capture
from .look.pictures import along_positions
from .look.rows import positions, rows
from .look.values import write_values
from .measure import Deviation
from .mend.blind import blind_spots
from .mend.choices import flipped_choices
from .mend.close import close, close_recorded, close_without_fault, not_known
from .mend.early import early_effects
from .mend.effect import Mending, sets_of
from .mend.unreached import unreached
from .opening import (
    Opened,
    are_foreign,
    at_positions,
    check_one_is_a_graph,
    check_sizes,
    first_position_of,
    keeps_cache,
    open_either,
    schedules_of,
    sides_of,
    tokens_of,
    with_caches,
)
from .report.words import cause_text, difference_text, latent_text, places, verdict_text
from .result import BlindSpot, Closed, Divergence, Effect, Latent, Result, RootCause, Row
from .sides.graph_side import GraphSide
from .sides.side import Side
from .sides.trace_side import TraceSide, replayed, runnable

Progress = Callable[[str], None]
Providers = Sequence[str | None]
MEASURED_SINGLY = 8  # regions at fault; of more, only one of each stage and cause is mended alone


@np.errstate(over="ignore", invalid="ignore")  # NaN and Inf are values to be told of, wherever they come in
def compare(
    a_path: str | Path,
    b_path: str | Path,
    tokens: Sequence[int] | None = None,
    reference_path: str | Path | None = None,
    progress: Progress = lambda step: None,
    names: str | Path | None = None,
    inputs: Sequence[Mapping[str, np.ndarray]] = ({}, {}),
    mapped: Sequence[Mapped] = (),
    schedules: Sequence[Schedule] = (WHOLE, WHOLE),
    values: Path | None = None,
    first_position: int | None = None,
    with_pictures: bool = True,
    providers: Providers = (None, None),
    settings: RunSettings | None = None,
) -> Result:
    """Compare two runtimes on the same tokens.

    Args:
        a_path, b_path: .onnx files, or one of them and a trace (.safetensors, .npz, .gguf), with taps in common.
        tokens: ids within the vocabulary, one or more; None: those of a trace.
        reference_path: a third one, .onnx or trace, which says who is right.
        progress: told each step when it begins.
        names: a name map for traces whose tensors are not named as stages.
        inputs: for graphs without taps, further inputs by name: A's and B's.
        mapped: for graphs without taps, values that stand for each other, as the user says.
        schedules: in which steps A and B are fed their tokens.
        values: a folder in which every side's values of the common taps are kept whole.
        first_position: that of the first token, for graphs that take positions; None: that of a trace, or 0.
        providers: on which execution provider A or B is run whole, and taken as a trace; None: as a graph, on the CPU.
        settings: how onnxruntime runs all graphs.
    Raises:
        InputError: a file or a token that cannot be used, or two traces, which nothing could be run on.
    """
    progress("load")
    maps: Maps = {}
    _check_providers(providers, schedules)
    runner = Runner(settings)
    found_files = [open_either(path, names, maps) for path in (a_path, b_path, reference_path) if path is not None]
    start = first_position_of(found_files, first_position)
    opened, alignment, tokens, told, inferred = _aligned(
        found_files, tokens, runner, progress, inputs, mapped, start, schedules, providers
    )
    progress("run")
    schedules = schedules_of(opened, schedules)
    sides = sides_of(opened, alignment, tokens, runner, schedules)
    if values is not None:
        write_values(values, sides, tokens, start)
    a, b, reference = sides[0], sides[1], sides[2] if len(sides) > 2 else None
    if a.name == b.name:
        a.info, b.info = (replace(side.info, name=f"{side.name} {n}") for side, n in ((a, "A"), (b, "B")))
    progress("replay")
    ordered = in_one_order(a, b, locate(a, b))
    a, b, found = ordered.a, ordered.b, ordered.found
    if isinstance(reference, TraceSide):
        graph = runnable(a, b)
        reference = in_one_order(graph, reference, locate(graph, reference)).b
    progress("explain")
    explainer = Explainer(replayed(a, b), sides, tokens, inferred)
    at_fault, (table, blind) = side_by_side(
        partial(faults, a, b, found, explainer),
        partial(_rows_and_blind_spots, a, b, alignment.common, found, with_pictures, tokens),
    )
    judge = None
    if reference is not None:
        by_trace = isinstance(reference, TraceSide)
        judge = Judge(reference, a, b, Explainer(reference, sides, tokens) if by_trace else explainer)
    progress("effects")
    causes, divergences, closed = _weighed(a, b, judge, at_fault, {row.tap: row.propagated for row in table}, tokens)
    graphs = [side for side in sides if isinstance(side, GraphSide)]
    by_side = [(side, first) for side in graphs if (first := first_nonfinite(side)) is not None]
    nonfinite, judged_on = tuple(first for _, first in by_side), replayed(a, b)
    artifact = runnable(a, b).artifact
    blind = (
        *blind,
        *_blind_to_steps(found_files[:2], schedules[:2]),
        *unreached(artifact.config, len(tokens), artifact.first_position, artifact.takes_positions),
    )
    only_a, only_b = alignment.only_a, alignment.only_b
    return Result(
        a=a.info,
        b=b.info,
        reference=None if reference is None else reference.info,
        tokens=tuple(int(token) for token in tokens),
        parity=not at_fault.taps and closed.complete is not False,
        first_divergence=at_fault.taps[0] if at_fault.taps else None,
        positions=positions(a, b, tokens),
        rows=table,
        only_a=only_a,
        only_b=only_b,
        matched_by=alignment.matched_by,
        divergences=divergences,
        root_causes=causes,
        cancelling=tuple(", ".join(group) for group in at_fault.cancelled),
        blind_spots=blind,
        closed=closed,
        verdict=verdict_text(a.name, b.name, causes),
        provenance={**versions(), "provider": _provider(providers), "optimisation": runner.settings.optimisation},
        notes=(
            *told,
            *(one.text for one in nonfinite),
            *chain(*(not_judged(*one) for one in by_side if one[0].info is judged_on.info)),
            *chain(*map(parts_when_whole, graphs)),
            *flipped_choices(a, b, at_fault.taps),
            *_other_checkpoints(sides),
            *_in_single(sides),
            *_recorded(opened, at_fault),
            *_notes(at_fault, ordered.taps, divergences, any(isinstance(one, Trace) for one in opened[:2])),
            *_early(causes, tokens),
        ),
        nonfinite=nonfinite,
        schedules=(schedules[0].text, schedules[1].text),
        first_step=first_step(a, b, at_fault.taps, found),
        next_capture=next_capture(alignment.common, only_a, only_b, causes, closed, blind, reference is not None),
        first_position=start,
        latent=tuple(_latent(a, b, one) for one in latent_differences(a, b, found)),
    )


def _aligned(
    found: Sequence[Opened],
    tokens: Sequence[int] | None,
    runner: Runner,
    progress: Progress,
    inputs: Sequence[Mapping[str, np.ndarray]],
    mapped: Sequence[Mapped],
    first_position: int,
    schedules: Sequence[Schedule],
    providers: Providers,
) -> tuple[list[Artifact | Trace], Alignment, Sequence[int], tuple[str, ...], Inferred | None]:
    """What is compared, its common taps, the tokens, what a reader should know of how they were aligned, and the decoder that
    A shows, where no file describes it.

    Args:
        first_position: that of the first token.
        schedules: in which steps A and B are fed.
        providers: on which execution provider A or B is run.
    Raises:
        InputError: they cannot be compared.
    """
    if are_foreign(found):
        progress("align")
        a, b, *others = (one for one in found if not isinstance(one, Trace))
        check_positions(first_position, len(tokens or ()))
        pair = align_foreign(a, b, tokens, runner, inputs, mapped, first_position, schedules)
        artifacts: list[Artifact | Trace] = [*pair.artifacts()]
        notes = pair.notes
        for reference in others:
            whole = schedules[0], WHOLE
            beside = align_foreign(a, reference, tokens, runner, (inputs[0], {}), (), first_position, whole)
            artifact, note = pair.beside(beside)
            artifacts, notes = [*artifacts, artifact], (*notes, note)
        inferred = inferred_decoder(pair.a, {one.tap: one.point.a for one in pair.named})
        opened, alignment, told = _on_providers(artifacts, pair.alignment(), providers, tokens or ())
        return opened, alignment, tokens or (), (*notes, *told), inferred
    if mapped or any(inputs):
        raise InputError("--inputs and --map are for graphs without taps, and both of these have taps; leave them out")
    opened = with_caches([one for one in found if not isinstance(one, Foreign)])
    check_one_is_a_graph(opened[0], opened[1])
    check_sizes(opened)
    tokens = tokens_of(opened, tokens)
    opened = at_positions(opened, first_position, len(tokens))
    opened, alignment, told = _on_providers(opened, align(opened[0], opened[1]), providers, tokens)
    return opened, alignment, tokens, told, None


def _check_providers(providers: Providers, schedules: Sequence[Schedule]) -> None:
    """See to it that a side can be run on the provider that is asked for.

    Raises:
        InputError: there is no such provider, both sides have one, or one is to be run in steps.
    """
    for side, name, schedule in zip("ab", providers, schedules, strict=True):
        if name is None:
            continue
        check_provider(name)
        if all(providers):
            raise InputError(
                "--provider-a and --provider-b: give one of them; what a provider gives is taken as a trace, and the other side "
                "is run on it, region by region, on the CPU"
            )
        if not schedule.is_whole:
            raise InputError(f"--provider-{side}: runs the whole prompt at once; leave --schedule-{side} out")


def _on_providers(
    opened: Sequence[Artifact | Trace], alignment: Alignment, providers: Providers, tokens: Sequence[int]
) -> tuple[list[Artifact | Trace], Alignment, tuple[str, ...]]:
    """The same, with a trace in the place of a graph that is run on a provider; the taps that it gives; and what a reader
    should know.
    """
    done, notes = list(opened), list[str]()
    for n, name in enumerate(providers):
        one = opened[n]
        if name is None:
            continue
        if isinstance(one, Trace):
            raise InputError(f"{one.path}: a trace, which was recorded already; leave --provider-{'ab'[n]} out")
        recorded = recorded_on(name, one, tokens)
        done[n] = recorded.trace
        lacking = [tap for tap in recorded.lacking if tap in alignment.common]
        common = tuple(tap for tap in alignment.common if tap not in lacking)
        only_a, only_b = alignment.only_a, alignment.only_b
        only_a, only_b = ((*only_a, *lacking), only_b) if n else (only_a, (*only_b, *lacking))
        alignment = replace(alignment, common=common, only_a=only_a, only_b=only_b)
        notes.append(recorded.note)
    return done, alignment, tuple(notes)


def _provider(providers: Providers) -> str:
    """Where everything ran, but for a side that was run on a provider of its own."""
    own = [f"{side} on {name}" for side, name in zip("AB", providers, strict=True) if name is not None]
    return "; ".join((*own, CPU))


def _weighed(
    a: Side,
    b: Side,
    judge: Judge | None,
    at_fault: Faults,
    propagated: Mapping[str, Deviation],
    tokens: Sequence[int],
) -> tuple[tuple[RootCause, ...], tuple[Divergence, ...], Closed]:
    """Causes and divergences with their effects, and whether they are all."""
    groups = [cause.taps for cause in at_fault.causes]
    if not at_fault.taps:
        return (), (), close_without_fault(a, b)
    effects: Sequence[Effect | None] = [None] * len(groups)
    by_tap: Mapping[str, Effect | None] = {}
    if not (isinstance(a, GraphSide) and isinstance(b, GraphSide)):
        closed = close_recorded(at_fault, LOGITS in at_fault.found)
    elif LOGITS not in at_fault.found:
        closed = not_known("the logits are no common tap, so nothing could be followed to them")
    else:
        try:
            in_turn = [(group, frozenset(chain(*groups[:n]))) for n, group in enumerate(groups)]
            singly = _singly(at_fault.taps, groups)
            sets = [*chain(*(sets_of(*mending) for mending in (*in_turn, *singly.values()))), frozenset(at_fault.taps)]
            measured = early_effects(a, b, len(tokens), [at_fault.found[tap] for tap in at_fault.taps], sets)
            effects = [measured.after(*mending) for mending in in_turn]
            by_tap = {tap: measured.after(*mending) for tap, mending in singly.items()}
            closed = close(at_fault, measured)
        except OpdiffError as e:
            closed = not_known(f"the logits of the two sides cannot be compared ({e})")
    causes = [
        _root_cause(a, b, judge, at_fault, cause, effect)
        for cause, effect in zip(at_fault.causes, effects, strict=True)
    ]
    numbers = {tap: n for n, group in reversed(list(enumerate(groups, 1))) for tap in group}
    divergences = [
        _divergence(a, at_fault, tap, propagated[tap], by_tap.get(tap), numbers.get(tap)) for tap in at_fault.taps
    ]
    return tuple(causes), tuple(divergences), closed


def _singly(taps: Sequence[str], groups: Sequence[Sequence[str]]) -> dict[str, Mending]:
    """How single regions are mended: each alone and in the order of the graph; of many, the last of each stage and cause,
    alone, below which there is least to run.
    """
    if len(taps) <= MEASURED_SINGLY:
        return {tap: ((tap,), frozenset(taps[:n])) for n, tap in enumerate(taps)}
    last = {(n, split_tap_name(tap)[1]): tap for n, group in enumerate(groups) for tap in group}
    return {tap: ((tap,), frozenset()) for tap in last.values()}


def _root_cause(
    a: Side, b: Side, judge: Judge | None, at_fault: Faults, cause: Cause, effect: Effect | None
) -> RootCause:
    name, ours, theirs = cause.choice or (None, None, None)
    start = next((s for tap in cause.taps if (s := at_fault.explained[tap].a_settings) is not None), None)
    agrees = (
        None if judge is None else judge.agreement([at_fault.found[tap] for tap in cause.taps], cause.choice, start)
    )
    residual = cause.residual
    if cause.n_values > 1:
        ours, theirs = cause.written
    if cause.choice is not None:
        residual = max((at_fault.explained[tap].residual or 0.0 for tap in cause.taps), default=None)
    return RootCause(
        kind=cause.kind,
        convention=name,
        a_value=None if cause.choice is None else str(ours),
        b_value=None if cause.choice is None else str(theirs),
        edit=cause.lines,
        steps=cause.n_steps,
        taps=cause.taps,
        harmless_at=harmless_places(a, b, cause, at_fault.found) if cause.choice is not None else (),
        residual=residual,
        also_fits=cause.also_fits,
        reference_agrees_with=agrees,
        effect=effect,
        source=None if cause.nodes[1] is None else cause.nodes[1].source,
        a_source=None if cause.nodes[0] is None else cause.nodes[0].source,
        what=difference_text(a.name, b.name, cause),
        text=cause_text(a.name, b.name, cause, agrees),
    )


def _divergence(
    a: Side, at_fault: Faults, tap: str, propagated: Deviation, effect: Effect | None, cause: int | None
) -> Divergence:
    local, nodes, edit = at_fault.found[tap], at_fault.nodes[tap], at_fault.edits.get(tap)
    nothing = Deviation(local.reason, None, None, None, None)
    named = at_fault.explained.get(tap)
    is_named = named is not None and bool(named.candidates)
    values = local.a64, local.b64
    return Divergence(
        tap=tap,
        stage=a.taps[tap].stage,
        block=a.taps[tap].block,
        kind=local.verdict,
        propagated=propagated,
        local=local.local or nothing,
        error=local.error,
        floor=local.floor,
        threshold=local.reach,
        effect=effect,
        a_node=nodes[0],
        b_node=nodes[1],
        difference="" if edit is None else "; ".join(line.text for line in edit.lines),
        relations=at_fault.relations.get(tap, ()),
        by_position=()
        if values[0] is None or values[1] is None
        else along_positions(values[0], values[1], a.taps[tap].axes, is_scores(tap)),
        cause=cause,
        residual=named.residual if named is not None and is_named else None if edit is None else edit.residual,
    )


def _latent(a: Side, b: Side, one: Dormant) -> Latent:
    ours, theirs = (None if node is None else node.source for node in one.nodes)
    return Latent(one.taps, latent_text(a.name, b.name, one.text), theirs, ours, one.shown_by)


def _rows_and_blind_spots(
    a: Side, b: Side, common: Sequence[str], found: Mapping[str, Local], with_pictures: bool, tokens: Sequence[int]
) -> tuple[tuple[Row, ...], tuple[BlindSpot, ...]]:
    """What needs no cause to be known."""
    with uncounted():
        return tuple(rows(a, b, common, found, with_pictures)), _blind_spots(runnable(a, b), tokens)


def _blind_spots(side: GraphSide, tokens: Sequence[int]) -> tuple[BlindSpot, ...]:
    if LOGITS not in side.regions:
        return ()
    size = min(side.artifact.vocab_size, 1 << 20)
    return blind_spots(side, tokens, size)


def _blind_to_steps(opened: Sequence[Opened], schedules: Sequence[Schedule]) -> Iterator[BlindSpot]:
    """What one step cannot show of a graph that keeps a cache."""
    if any(map(keeps_cache, opened)) and all(one.is_whole for one in schedules):
        text = (
            "what later steps do: where they write the cache and what they read of it, their positions, their masks; all tokens "
            "were fed at once. With --schedule-b each every token is a step."
        )
        yield BlindSpot(tuple(CACHES), text, None, "each")


def _other_checkpoints(sides: Sequence[Side]) -> Iterator[str]:
    known = {side.name: side.info.checkpoint[:8] for side in sides if side.info.checkpoint is not None}
    if len(set(known.values())) > 1:
        yield f"the sides are of different checkpoints: {', '.join(f'{n} {c}' for n, c in known.items())}"


def _in_single(sides: Sequence[Side]) -> Iterator[str]:
    """The operators that are in float32 where double precision is meant."""
    for side in sides:
        kept = {tap: side.kept_in_single(tap) for tap in side.regions} if isinstance(side, GraphSide) else {}
        taps = [tap for tap, operators in kept.items() if operators]
        if taps:
            names = ", ".join(dict.fromkeys(name for operators in kept.values() for name in operators))
            yield f"{side.name}: onnxruntime has {names} in float32 only, so these regions were judged in float32: {places(taps)}"


def _recorded(opened: Sequence[Artifact | Trace], at_fault: Faults) -> Iterator[str]:
    """What a reader should know where a side is a trace."""
    for name, one in zip("AB", opened, strict=False):
        if isinstance(one, Trace):
            yield (
                f"{name} is a trace: every region of the other side was run on its values, in float64, and what it recorded "
                f"may differ by {OTHER_KERNELS} times float32's rounding there, as other kernels' sums do"
                + (
                    "; what single faults do to the logits is not known, for a trace cannot run on"
                    if at_fault.taps
                    else ""
                )
            )
            if one.unknown:
                listed = ", ".join(one.unknown[:4]) + (", ..." if len(one.unknown) > 4 else "")
                yield f"{len(one.unknown)} tensors of {name} are no stages, and were left out: {listed}"


def _early(causes: Sequence[RootCause], tokens: Sequence[int]) -> Iterator[str]:
    n = min((len(cause.effect.alone) for cause in causes if cause.effect is not None), default=len(tokens))
    if n < len(tokens):
        yield (
            f"every region was judged at all {len(tokens)} positions; what faults do to the logits, and that they are all, "
            f"was measured at the first {n}, where each of them shows and which later tokens do not change"
        )


def _notes(
    at_fault: Faults, permuted: Sequence[str], divergences: Sequence[Divergence], with_trace: bool
) -> Iterator[str]:
    n_measured = sum(one.effect is not None for one in divergences)
    if 0 < n_measured < len(divergences):
        yield (
            f"of {len(divergences)} regions at fault, {n_measured} were mended one by one: "
            "the last of each stage of each root cause, alone; the root causes themselves were mended everywhere"
        )
    if permuted:
        yield f"A and B keep the channels of each head in other orders, which is no fault: at {places(permuted)}"
    if at_fault.below:
        yield (
            f"{len(at_fault.below)} regions differ in double precision by less than float32 resolves there, and nothing "
            f"names the difference: {', '.join(at_fault.below[:4])}; taken for rounding"
        )
    cancelled = [tap for group in at_fault.cancelled for tap in group if tap not in at_fault.unread]
    if cancelled:
        yield (
            f"differ on their own, but not together with what reads them, so no fault: {places(cancelled)}"
            + ("; or what the trace holds there is not what its runtime went on with" if with_trace else "")
        )
    if at_fault.unread:
        yield (
            "differ where nothing reads it on this input (an expert that no token chose, an entry that is masked), so that "
            f"a fault cannot show there: {places(at_fault.unread)}; other tokens may show it"
        )
