"""Two graphs of which one at least has no taps: adopted, aligned by weights and by values, and given common taps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...graphs.adopt.flat import Flat
from ...graphs.adopt.folded import with_norms_folded
from ...graphs.adopt.in_steps import Course, ran, ran_again, run_as_it_is
from ...graphs.adopt.inputs import SIZES, Fed, fed, takes_tokens
from ...graphs.adopt.last_position import cut_to_last_position
from ...graphs.adopt.opened import Foreign, open_foreign
from ...graphs.adopt.past import growing, states_of, steps_of
from ...graphs.artifact import Artifact, Maps
from ...graphs.cores import on_all_cores, side_by_side
from ...graphs.errors import InputError
from ...graphs.run import Runner, run_file
from ...graphs.schedule.steps import WHOLE, Schedule, Step
from ...graphs.stages import split_tap_name
from ...graphs.stepping import StepRunner
from .anchors import Anchor, folded_elsewhere
from .arrangement import squeezed
from .by_name import Alignment
from .lockstep import Aligned, lockstep
from .map_file import Mapped
from .points import Named, adopted, adopted_beside, named_points
from .stages import stages_of
from .storage import computed_alike, in_one_storage, rounded_alike, with_weights_of
from .values import is_move

Inputs = Mapping[str, np.ndarray]
_ROUNDED = 1e-6  # of its size: what a weight may be off for float32's rounding
_HEAD_AXES = 3
_FEWEST = 0.1  # of the weights of the smaller graph that must be in the other one


@dataclass(frozen=True)
class ForeignPair:
    """Two graphs that ran on one input, and what they share.

    named: their points, with the names that they get.
    notes: what a reader should know of how they were run and aligned.
    """

    a: Flat = field(repr=False)
    b: Flat = field(repr=False)
    aligned: Aligned
    named: tuple[Named, ...]
    notes: tuple[str, ...] = ()
    n_tokens: int | None = None

    def artifacts(self) -> tuple[Artifact, Artifact]:
        """Both with their points as taps."""
        return adopted(self.a, self.b, self.named, self.n_tokens)

    def beside(self, other: ForeignPair) -> tuple[Artifact, str]:
        """B of another pair, whose A is this one's, with those of this pair's taps that it has; and how many these are."""
        artifact = adopted_beside(self.a, other.b, self.named, other.aligned.points, self.n_tokens)
        n_cut = sum(one.is_cut for one in self.named)
        return artifact, f"the reference has {len(artifact.taps)} of the {n_cut} values that A and B are cut at"

    def alignment(self) -> Alignment:
        """The taps in the order in which A makes them."""
        return Alignment(tuple(one.tap for one in self.named if one.is_cut), (), (), "weights and values")

    def share(self, side: str) -> float:
        """Of the values of a side that hang on the input, how many have a partner; single numbers are not counted."""
        flat, matched = self._side(side)
        steps = [node for node in flat.nodes if any(flat.array(name).size > 1 for name in node.outputs)]
        return sum(not matched.isdisjoint(node.outputs) for node in steps) / max(1, len(steps))

    def entries(self) -> tuple[Mapped, ...]:
        """The map, in A's order."""
        return tuple(Mapped(one.tap, one.point.a, one.point.b) for one in self.named)

    def left(self, side: str) -> tuple[str, ...]:
        """The values of a side that have no partner, in order; single numbers are not counted."""
        flat, matched = self._side(side)
        return tuple(
            name for node in flat.nodes for name in node.outputs if name not in matched and flat.array(name).size > 1
        )

    def _side(self, side: str) -> tuple[Flat, set[str]]:
        """A side, and its values that have a partner."""
        if side == "a":
            return self.a, {point.a for point in self.aligned.points}
        return self.b, {point.b for point in self.aligned.points}


def align_foreign(
    a: Artifact | Foreign,
    b: Artifact | Foreign,
    tokens: Sequence[int] | None,
    runner: Runner,
    given: Sequence[Inputs] = ({}, {}),
    mapped: Sequence[Mapped] = (),
    first_position: int = 0,
    schedules: Sequence[Schedule] = (WHOLE, WHOLE),
) -> ForeignPair:
    """Run both on the same input, and find which value of one is which of the other.

    Args:
        tokens: for the input that takes them; None where there is none.
        given: further inputs by name, for A and for B.
        mapped: values that stand for each other, as a user says.
        first_position: that of the first token, for inputs that take positions.
        schedules: in which steps A and B are fed their tokens; their values are put together by position, and then aligned.
    Raises:
        InputError: an input that is missing or does not fit, a schedule that a graph cannot take, a node that cannot run, or
            two graphs that share nothing.
    """
    opened = [_without_taps(one) for one in (a, b)]
    opened[1] = with_weights_of(opened[1], opened[0])
    wanted = [one.path for one in opened if takes_tokens(one)]
    if wanted and not tokens and not any(name for inputs in given for name in inputs):
        raise InputError(f"{wanted[0]}: no tokens: give the input, as in --tokens 1,5,3")
    asked = tokens or ()
    steps = [steps_of(one, schedule, asked) for one, schedule in zip(opened, schedules, strict=True)]
    courses, (ours, theirs) = _first_that_runs(
        opened, _courses(opened, asked, given, runner, first_position, steps), runner
    )
    cut = [cut_to_last_position(*pair) for pair in ((ours, theirs), (theirs, ours))]
    ours, theirs = _ran_as(cut, (ours, theirs), courses, runner)
    folded = [
        with_norms_folded(flat.foreign, kernels) if kernels else None
        for flat, kernels in zip((ours, theirs), folded_elsewhere(ours, theirs), strict=True)
    ]
    ours, theirs = _ran_as(folded, (ours, theirs), courses, runner)
    as_run = list(zip("AB", (ours, theirs), courses, strict=True))
    pair, run_notes = side_by_side(
        lambda: _aligned(a, b, ours, theirs, courses, runner, mapped),
        lambda: [note for one in as_run for note in _run_notes(*one, runner)],
    )
    notes = [
        f"{'AB'[n]}'s logits are compared at the last position: {'BA'[n]} gives no others" for n in (0, 1) if cut[n]
    ]
    return replace(pair, notes=(*run_notes, *notes, *pair.notes), n_tokens=len(asked) or None)


def _aligned(
    a: Artifact | Foreign,
    b: Artifact | Foreign,
    ours: Flat,
    theirs: Flat,
    courses: Sequence[Course],
    runner: Runner,
    mapped: Sequence[Mapped],
) -> ForeignPair:
    """What two graphs share that ran on one input; the notes are those of how they were aligned.

    Raises:
        InputError: a map that does not fit, or two graphs that share nothing.
    """
    notes = list[str]()
    finer = in_one_storage(ours, theirs)
    rounded = rounded_alike(theirs, ours)
    alike = [{**computed_alike(ours, theirs), **finer[0]}, {**computed_alike(theirs, ours), **rounded, **finer[1]}]
    if any(alike):
        before = ours, theirs
        again = [
            ran_again(flat, course, instead, runner) if instead else flat
            for flat, course, instead in zip(before, courses, alike, strict=True)
        ]
        notes += _storage_notes(before, again, finer)
        notes += [
            f"{len(rounded)} of B's constants are A's in all but float32's last digits ({_some(rounded)}), and were compared as the same"
        ] * bool(rounded)
        ours, theirs = again
    _check_map(mapped, ours, theirs)
    stages = stages_of(ours), stages_of(theirs)
    scores = [frozenset(value for value, tap in told.items() if tap.endswith("attn_scores")) for told in stages]
    rotated = list(_rotated(ours, theirs, *stages))
    aligned = lockstep(ours, theirs, StepRunner(runner), [(one.a, one.b) for one in mapped], scores, rotated)
    _check_they_share(ours.foreign, theirs.foreign, aligned)
    names = _names(a, ours) or _names_of_b(b, theirs, aligned)
    told = {value: tap for value, tap in _stages(*stages, aligned).items() if tap not in names.values()}
    names = {**told, **names, **{one.a: one.tap for one in mapped}}
    named = named_points(ours, theirs, aligned, names)
    if not named:
        raise InputError(f"{a.path} and {b.path}: no value of one is one of the other on this input")
    pair = ForeignPair(ours, theirs, aligned, tuple(named))
    return replace(pair, notes=(*notes, *_other_weights(pair), _told(pair)))


def _ran_as(
    written: Sequence[Foreign | None], flats: Sequence[Flat], courses: Sequence[Course], runner: Runner
) -> list[Flat]:
    """Both run again as they are written now; as they are where they are not written anew."""
    return [
        flat if one is None else ran(one, course, runner)
        for one, flat, course in zip(written, flats, courses, strict=True)
    ]


def _courses(
    opened: Sequence[Foreign],
    tokens: Sequence[int],
    given: Sequence[Inputs],
    runner: Runner,
    first_position: int,
    steps: Sequence[Sequence[Step]],
) -> Iterator[list[Course]]:
    """What both may be fed: where a file leaves sizes open and nobody tells them, those with which onnxruntime runs it."""

    def with_sizes(sizes: tuple[int, int]) -> list[Course]:
        return [
            _course(one, tokens, inputs, sizes, first_position, its)
            for one, inputs, its in zip(opened, given, steps, strict=True)
        ]

    first, second = with_sizes(SIZES[0]), with_sizes(SIZES[1])
    are_open = [one.whole.made != other.whole.made for one, other in zip(first, second, strict=True)]

    def run(courses: list[Course]) -> bool:
        asked = zip(opened, courses, are_open, strict=True)
        return all(_runs(one, course.whole, runner) for one, course, is_open in asked if is_open)

    any_runs = False
    for courses in filter(run, map(with_sizes, SIZES if any(are_open) else ())):
        any_runs = True
        yield courses
    if not any_runs:
        yield first


def _first_that_runs(
    opened: Sequence[Foreign], courses: Iterable[list[Course]], runner: Runner
) -> tuple[list[Course], list[Flat]]:
    """The first of these with which both run node by node: a pool that is larger than a picture may run in the whole alone."""
    failed: InputError | None = None
    for one in courses:
        try:
            both = [(foreign, course, runner) for foreign, course in zip(opened, one, strict=True)]
            return one, list(on_all_cores(lambda asked: ran(*asked), both))
        except InputError as e:
            failed = failed or e
    assert failed is not None
    raise failed


def _course(
    one: Foreign,
    tokens: Sequence[int],
    given: Inputs,
    sizes: tuple[int, int],
    first_position: int,
    steps: Sequence[Step],
) -> Course:
    if steps and given:
        raise InputError(
            f"{one.path}: {next(iter(given))} is given for all tokens at once, where it is fed in {len(steps)} steps; leave "
            "--inputs out, and what each step takes is made"
        )
    whole = fed(one, tokens, given, sizes, first_position)
    in_steps = (fed(one, tokens[step.start : step.end], {}, sizes, first_position, step.start) for step in steps)
    return Course(whole, tuple(steps), tuple(in_steps), states_of(one))


def _runs(one: Foreign, its: Fed, runner: Runner) -> bool:
    """Whether onnxruntime runs a file on this, and leaves a cache of the sizes of the one that it took: it joins an empty one
    with anything.
    """
    feeds, states = {**its.data, **its.fixed}, states_of(one)
    outputs = [one.model.graph.output[0].name, *states.values()]
    try:
        made = run_file(one.path, one.model, feeds, [*dict.fromkeys(outputs)], runner.settings)
    except InputError:
        return False
    grows = growing(one)
    return all(
        before == after
        for name, output in states.items()
        for axis, (before, after) in enumerate(zip(feeds[name].shape, made[output].shape, strict=True))
        if axis not in grows[name]
    )


def _run_notes(letter: str, flat: Flat, course: Course, runner: Runner) -> Iterator[str]:
    """What a reader should know of how a graph was run."""
    if course.whole.made:
        in_steps = ", and cut into steps" if course.steps else ""
        yield f"{letter}'s inputs that were not given were made: {', '.join(course.whole.made)}{in_steps}"
    if flat.foreign.half:
        yield f"{letter} computes in {flat.foreign.half}, and was compared as if in float32"
    yield from flat.notes
    yield _checked(letter, flat, course, runner)


def _storage_notes(before: Sequence[Flat], after: Sequence[Flat], finer: Sequence[Inputs]) -> Iterator[str]:
    """Which weights are the other side's in fewer bits, and what that does."""
    for n, (flat, other, names) in enumerate(zip(before, after, finer, strict=True)):
        if names:
            far = [
                _far(flat.array(value), other.array(other.outputs[name]))
                for name, value in flat.outputs.items()
                if _is_float(flat, value)
            ]
            yield (
                f"storage: {len(names)} of {'AB'[n]}'s constants are {'BA'[n]}'s in fewer bits ({_some(names)}), and were compared "
                f"as the same; so stored, they move its outputs by {max(far, default=0.0):.1e} of their size"
            )


def _some(names: Iterable[str]) -> str:
    """The first few names."""
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")


def _is_float(flat: Flat, value: str) -> bool:
    return flat.array(value).dtype.kind == "f"


def _checked(letter: str, flat: Flat, course: Course, runner: Runner) -> str:
    """How far what is compared is from the file as onnxruntime runs it."""
    try:
        made = run_as_it_is(flat, course, runner)
    except InputError as e:
        return f"{letter} could not be run in onnxruntime as it is ({e}), so how it is run here is not checked against that"
    far = [_far(flat.array(value), made[name]) for name, value in flat.outputs.items() if _is_float(flat, value)]
    return (
        f"{letter}'s outputs, as they are compared, are those of its file in onnxruntime to {max(far, default=0.0):.1e}"
    )


def _far(ours: np.ndarray, theirs: np.ndarray) -> float:
    theirs = np.asarray(theirs, np.float64)
    if ours.ndim > 1 and ours.shape[-2] == 1:
        theirs = theirs[..., -1:, :]  # compared at the last position alone
    if ours.shape != theirs.shape:
        return float("inf")
    size = float(np.linalg.norm(ours))
    return float(np.linalg.norm(ours - theirs)) / size if size else 0.0


def _without_taps(one: Artifact | Foreign) -> Foreign:
    maps: Maps = {}
    return one if isinstance(one, Foreign) else open_foreign(one.path, maps)


def _names(one: Artifact | Foreign, flat: Flat) -> dict[str, str]:
    """The names that a graph's own taps give its values."""
    if isinstance(one, Foreign):
        return {}
    return {flat.outputs[name]: name for name in one.tap_names if name in flat.outputs}


def _names_of_b(one: Artifact | Foreign, flat: Flat, aligned: Aligned) -> dict[str, str]:
    own = _names(one, flat)
    return {point.a: own[point.b] for point in aligned.points if point.b in own}


def _rotated(a: Flat, b: Flat, ours: Mapping[str, str], theirs: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What queries and keys are when they meet, on both sides: no step with a weight of its own gives it."""
    of_b = {tap: value for value, tap in theirs.items()}
    for value, tap in ours.items():
        if split_tap_name(tap)[1] in ("q_rope", "k_rope") and tap in of_b:
            left, right = _in_heads(a, value), _in_heads(b, of_b[tap])
            if left is not None and right is not None:
                yield left, right


def _in_heads(flat: Flat, value: str) -> str | None:
    """A value of queries or keys where it is seen by token, head and channel; None where it never is."""
    while len(squeezed(flat.array(value).shape)) != _HEAD_AXES:
        moved_to = next((node for node in flat.readers.get(value, ()) if is_move(node)), None)
        if moved_to is None:
            return None
        value = moved_to.outputs[0]
    return value


def _stages(ours: dict[str, str], theirs: Mapping[str, str], aligned: Aligned) -> dict[str, str]:
    """Which of A's values are stages: as A shows them, or by their partners, where B shows more."""
    of_b = {point.a: theirs[point.b] for point in aligned.points if point.b in theirs}
    return of_b if len(of_b) > len(ours) else ours


def _check_map(mapped: Sequence[Mapped], a: Flat, b: Flat) -> None:
    """Raise where a map names what is not there, or what cannot stand for each other."""
    for one in mapped:
        for letter, flat, name in (("A", a, one.a), ("B", b, one.b)):
            if name not in flat.values:
                raise InputError(
                    f"the map names {name} as a value of {letter}, and {flat.foreign.path} has none of that name"
                )
        sizes = a.array(one.a).shape, b.array(one.b).shape
        if a.array(one.a).size != b.array(one.b).size:
            raise InputError(
                f"the map lets {one.a} {list(sizes[0])} be {one.b} {list(sizes[1])}, which hold other numbers of entries"
            )


def _check_they_share(a: Foreign, b: Foreign, aligned: Aligned) -> None:
    """Raise where two graphs are of different models."""
    n_paired = len(aligned.pairs)
    n_alone = [len(anchors) for anchors in aligned.alone]
    fewest = n_paired + min(n_alone)
    if fewest and n_paired < _FEWEST * fewest:
        raise InputError(
            f"{a.path} and {b.path}: of different models: of {n_paired + n_alone[0]} and {n_paired + n_alone[1]} steps with "
            f"weights, {n_paired} have a weight in common"
        )


def _told(pair: ForeignPair) -> str:
    """How much was aligned, in words."""
    shares = [f"{100 * pair.share(side):.0f} % of {side.upper()}'s values" for side in "ab"]
    return f"aligned by weights and values: {len(pair.named)} points, {' and '.join(shares)} have a partner" + _alone(
        pair.aligned.alone
    )


def _other_weights(pair: ForeignPair) -> Iterator[str]:
    """The weights of steps that read the same on both sides, and have weights of their own."""
    told = []
    for ours, theirs in pair.aligned.replaced:
        both = zip(pair.a.nodes[ours.place].reads, pair.b.nodes[theirs.place].reads, strict=False)
        for name, other in both:
            if name in pair.a.constants and other in pair.b.constants and name != ours.x:
                x, y = pair.a.array(name), pair.b.array(other)
                if x.dtype.kind == "f" and x.shape == y.shape and (far := _far(x, y)) > _ROUNDED:
                    told.append(f"{other} for {name} ({far:.2g} of its size away)")
    if told:
        yield f"{len(told)} of B's weights are other numbers than A's at the same place: {', '.join(told)}"


def _alone(alone: Sequence[Sequence[Anchor]]) -> str:
    said = [
        f"{len(anchors)} of {letter}'s weights have none ({_some(one.weight_name for one in anchors)})"
        for letter, anchors in zip("AB", alone, strict=True)
        if anchors
    ]
    return "; " + " and ".join(said) if said else ""
