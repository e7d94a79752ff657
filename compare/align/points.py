"""Two graphs that share no names as two artifacts with common taps: their points, each with a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...graphs.adopt.flat import Flat
from ...graphs.adopt.tapped import Exposed, artifact_of
from ...graphs.artifact import Artifact
from ...graphs.stages import LOGITS, STEP, default_axes, split_tap_name
from .anchors import landmarks, root
from .arrangement import Plan, arrangement, plain
from .lockstep import Aligned, Point

_SAME = 1e-12  # relative: one value that is moved is the same to the last bit


@dataclass(frozen=True)
class Named:
    """A point with its tap's name; `is_cut` where regions begin and end there: in a decoder at stages and landmarks only."""

    tap: str
    point: Point
    is_cut: bool


def adopted(a: Flat, b: Flat, named: Sequence[Named], n_tokens: int | None) -> tuple[Artifact, Artifact]:
    """Both graphs with their points as taps, B's in A's layout."""
    ours, theirs = [], []
    for one in (one for one in named if one.is_cut):
        point, shape = one.point, a.array(one.point.a).shape
        axes = _axes(one.tap, shape, n_tokens)
        ours.append(Exposed(one.tap, point.a, axes, shape))
        theirs.append(Exposed(one.tap, point.b, axes, shape, point.plan))
    return artifact_of(a, ours, n_tokens), artifact_of(b, theirs, n_tokens)


def adopted_beside(
    a: Flat, other: Flat, named: Sequence[Named], points: Sequence[Point], n_tokens: int | None
) -> Artifact:
    """A third graph with those of two others' taps that it has, in A's layout.

    points: which values of A it has.
    """
    known = {root(a, point.a)[0]: point for point in points}
    exposed, taken = [], set[str]()
    for one in (one for one in named if one.is_cut):
        point = known.get(root(a, one.point.a)[0])
        plan = None if point is None or point.b in taken else _plan_from(a, one.point.a, point)
        if point is not None and plan is not None:
            shape = a.array(one.point.a).shape
            exposed.append(Exposed(one.tap, point.b, _axes(one.tap, shape, n_tokens), shape, plan))
            taken.add(point.b)
    return artifact_of(other, exposed, n_tokens)


def _plan_from(a: Flat, value: str, point: Point) -> Plan | None:
    """How a value of A is laid out as a point's other side, where the point is that value moved elsewhere."""
    if value == point.a:
        return point.plan
    between = arrangement(plain(a.array(value)), plain(a.array(point.a)), _SAME)
    return None if between is None else (*between, *point.plan)


def named_points(a: Flat, b: Flat, aligned: Aligned, names: Mapping[str, str]) -> list[Named]:
    """The points that become taps, one for each value, moved or not; by stage, and on the way to a stage by operator.

    names: those of A's values that are stages.
    """
    stages = {root(a, value)[0]: tap for value, tap in names.items()}
    if LOGITS not in stages.values():
        stages |= _end(a)
    points = list(_distinct(a, b, aligned.points))
    places = {point.a: a.maker[point.a].place for point in points}
    order = sorted(points, key=lambda point: places[point.a])
    ends = sorted((a.maker[value].place, tap) for value, tap in stages.items() if value in a.maker)
    counts: Counter[str] = Counter()
    named = {}
    for point in order:
        base = root(a, point.a)[0]
        named[point.b] = stages.get(base) or _on_the_way(a, point.a, places[point.a], ends, counts)
    is_decoder = len(stages) > 1
    cuts = {*stages, *landmarks(a)}
    return [
        Named(named[point.b], point, not is_decoder or point.kind == "map" or root(a, point.a)[0] in cuts)
        for point in order
    ]


def _end(flat: Flat) -> dict[str, str]:
    """The first output of numbers, to which all that differs is followed, under the name of what a decoder ends with."""
    for value in flat.outputs.values():
        if flat.is_data(value) and flat.array(value).dtype.kind == "f" and flat.array(value).ndim > 1:
            return {root(flat, value)[0]: LOGITS}
    return {}


def _distinct(a: Flat, b: Flat, points: Sequence[Point]) -> Iterator[Point]:
    """One point for each value of either side: of an output of both, that; else the first, or the one that a step with a weight
    gave. What a single step of a schedule has is none: it is a part of a value by position, or a cache that the next step
    goes on with.
    """
    used_a, used_b = set[str](), set[str]()
    ends_a, ends_b = ({root(flat, name)[0] for name in flat.outputs.values()} for flat in (a, b))
    ends = [one for one in points if root(a, one.a)[0] in ends_a and root(b, one.b)[0] in ends_b]
    for point in (*ends, *points):
        if point.a in a.origin or point.b in b.origin:
            continue
        ours, theirs = root(a, point.a)[0], root(b, point.b)[0]
        if ours not in used_a and theirs not in used_b and point.a in a.maker and point.b in b.maker:
            used_a.add(ours)
            used_b.add(theirs)
            yield point


def _on_the_way(flat: Flat, value: str, place: int, ends: Sequence[tuple[int, str]], counts: Counter[str]) -> str:
    """A name for what is no stage: the next stage that comes, a number and the operator."""
    is_decoder = len(ends) > 1
    stem = next((tap for end, tap in ends if end >= place), "end") if is_decoder else STEP
    counts[stem] += 1
    return f"{stem}.{counts[stem]:02}.{flat.maker[value].operator}"


def _axes(tap: str, shape: tuple[int, ...], n_tokens: int | None) -> tuple[str, ...]:
    """A word for each dimension: those of its stage where they fit, else where the tokens stand, and places."""
    is_last = tap == LOGITS and n_tokens is not None  # the logits may be those of the last position alone
    lengths = (n_tokens, 1) if is_last else (n_tokens,)
    told = default_axes(split_tap_name(tap)[1], len(shape))
    turned = [_with_heads_first(words) for words in told if "head" in words and "key" not in words]
    for words in (*told, *turned):
        sizes = dict(zip(words, shape, strict=True))
        if sizes.get("batch", 1) == 1 and sizes.get("token", n_tokens) in lengths:
            return words
    is_token = [size == n_tokens for size in shape]
    return tuple("token" if one and is_token.count(True) == 1 else f"dim{n}" for n, one in enumerate(is_token))


def _with_heads_first(words: Sequence[str]) -> tuple[str, ...]:
    """The same axes, heads before tokens, as they stand where attention reads them."""
    swapped = {"token": "head", "head": "token"}
    return tuple(swapped.get(word, word) for word in words)
