"""Two graphs of which one at least has no taps: adopted, aligned by weights and by values, and given common taps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...graphs.adopt.flat import Flat, flatten
from ...graphs.adopt.inputs import fed, takes_tokens
from ...graphs.adopt.opened import Foreign, open_foreign
from ...graphs.artifact import Artifact, Maps
from ...graphs.errors import InputError
from ...graphs.run import Runner
from ...graphs.stepping import StepRunner
from .anchors import Anchor
from .by_name import Alignment
from .lockstep import Aligned, lockstep
from .points import Named, adopted, named_points
from .stages import stages_of

Inputs = Mapping[str, np.ndarray]
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
    notes: tuple[str, ...]
    n_tokens: int | None

    def artifacts(self) -> tuple[Artifact, Artifact]:
        """Both with their points as taps."""
        return adopted(self.a, self.b, self.named, self.n_tokens)

    def alignment(self) -> Alignment:
        """The taps in the order in which A makes them."""
        return Alignment(tuple(one.tap for one in self.named), (), (), "weights and values")

    def share(self, side: str) -> float:
        """Of the values of a side that hang on the input, how many have a partner; single numbers are not counted."""
        flat, matched = (self.a, self.points("a")) if side == "a" else (self.b, self.points("b"))
        steps = [node for node in flat.nodes if any(flat.array(name).size > 1 for name in node.outputs)]
        return sum(not matched.isdisjoint(node.outputs) for node in steps) / max(1, len(steps))

    def points(self, side: str) -> set[str]:
        """The values of a side that have a partner."""
        return {point.a if side == "a" else point.b for point in self.aligned.points}


def align_foreign(
    a: Artifact | Foreign,
    b: Artifact | Foreign,
    tokens: Sequence[int] | None,
    runner: Runner,
    given: Sequence[Inputs] = ({}, {}),
) -> ForeignPair:
    """Run both on the same input, and find which value of one is which of the other.

    Args:
        tokens: for the input that takes them; None where there is none.
        given: further inputs by name, for A and for B.
    Raises:
        InputError: an input that is missing or does not fit, a node that cannot run, or two graphs that share nothing.
    """
    opened = [_without_taps(one) for one in (a, b)]
    wanted = [one.path for one in opened if takes_tokens(one)]
    if wanted and not tokens and not any(name for inputs in given for name in inputs):
        raise InputError(f"{wanted[0]}: no tokens: give the input, as in --tokens 1,5,3")
    asked = tokens or ()
    flats, notes = [], []
    for letter, one, inputs in zip("AB", opened, given, strict=True):
        feeds = fed(one, asked, inputs)
        flats.append(flatten(one, feeds.data, feeds.fixed, runner))
        if feeds.made:
            notes.append(f"{letter}'s inputs that were not given were made: {', '.join(feeds.made)}")
        notes += flats[-1].notes
    ours, theirs = flats
    aligned = lockstep(ours, theirs, StepRunner(runner))
    _check_they_share(opened[0], opened[1], aligned)
    names = _names(a, ours) or _names_of_b(b, theirs, aligned)
    told = {value: tap for value, tap in stages_of(ours).items() if tap not in names.values()}
    names = {**told, **names}
    named = named_points(ours, theirs, aligned, names)
    if not named:
        raise InputError(f"{a.path} and {b.path}: no value of one is one of the other on this input")
    pair = ForeignPair(ours, theirs, aligned, tuple(named), (), len(asked) or None)
    notes.append(_told(pair))
    return ForeignPair(ours, theirs, aligned, tuple(named), tuple(notes), len(asked) or None)


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


def _alone(alone: Sequence[Sequence[Anchor]]) -> str:
    said = [
        f"{len(anchors)} of {letter}'s weights have none ({', '.join(one.weight_name for one in anchors[:3])}"
        f"{', ...' if len(anchors) > 3 else ''})"
        for letter, anchors in zip("AB", alone, strict=True)
        if anchors
    ]
    return "; " + " and ".join(said) if said else ""
