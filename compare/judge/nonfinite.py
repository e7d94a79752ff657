"""The first place at which a side makes NaN or Inf of finite numbers, followed to the node.

A mask's -inf, and what a constant brings in, is no such place; a NaN that comes of it, as in a row that is masked whole, is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from ...graphs.axes import canonical_axes
from ...graphs.constants import constant_arrays
from ...graphs.errors import OpdiffError
from ...graphs.half_steps import EXACT, half_type
from ...graphs.programs import Step, steps
from ..result import NonFinite
from ..sides.graph_side import GraphSide
from ..sides.scheduled_side import ScheduledSide, StepSide
from .locate import is_scores

_LARGEST = {"float16": "65504", "bfloat16": "3.39e38", "float32": "3.40e38"}
_WORDS = {
    "attn_residual": "the residual",
    "ffn_residual": "the residual",
    "attn_scores": "a score",
    "logits": "a logit",
}
_HALF_UNIT = 2.0**-14  # relative; more than flips of half precision's rounding make of a region, less than its rounding


@dataclass(frozen=True, slots=True)
class _Made:
    """A node that makes what is not finite: its output's values, as they are and in double precision before rounding."""

    step: Step
    value: np.ndarray
    exact: np.ndarray


def first_nonfinite(side: GraphSide) -> NonFinite | None:
    """Where the side's regions, on its values, first make NaN or Inf; None where they do not. Steps are asked in turn."""
    suspects = [tap for tap in side.regions if _is_suspect(tap, side.by_region[tap])]
    if isinstance(side, ScheduledSide):
        steps = (StepSide(side, n, side.values) for n in range(len(side.steps) if suspects else 0))
        return next((found for step in steps if (found := first_nonfinite(step)) is not None), None)
    tainted: set[str] = set()
    for tap in suspects:
        if not tainted.isdisjoint(side.reads(tap)):
            tainted.add(tap)
            continue
        made = _made(side, tap)
        if made is not None:
            return _record(side, tap, made)
    return None


def _is_suspect(tap: str, value: np.ndarray) -> bool:
    """Whether a tap holds NaN or Inf other than a mask's."""
    return not (_is_finite(value) or (is_scores(tap) and _is_only_masked(value)))


def not_judged(side: GraphSide, found: NonFinite) -> Iterator[str]:
    """What the replay on a side's values cannot tell, where these are not finite from `found` on."""
    if _is_finite(side.values[found.tap]):
        return
    bad = {tap for tap in side.downstream(found.tap) if not _is_finite(side.values[tap])}
    blind = [tap for tap in side.regions if not bad.isdisjoint(side.reads(tap))]
    if blind:
        n = f"1 region ({blind[0]}) reads" if len(blind) == 1 else f"{len(blind)} regions, from {blind[0]} on, read"
        yield (
            f"{n} NaN or Inf of {side.name}, on whose values regions are judged: what is done there with finite numbers is "
            "not known; compare the other way round"
        )


def parts_when_whole(side: GraphSide) -> Iterator[str]:
    """What onnxruntime makes other of the graph as a whole than of its regions, in words: the first tap, and how many."""
    if side.not_whole is not None:
        yield f"{side.name}: onnxruntime cannot run the graph as it is ({side.not_whole}); its values are those of its regions, run one after the other"
    if not side.is_run_whole:
        return
    parting = [tap for tap in side.regions if _parts(side.values[tap], side.by_region[tap])]
    if parting:
        first = parting[0]
        whole, alone = (_magnitude(values[first]) for values in (side.values, side.by_region))
        more = f", and at {len(parting) - 1} more taps" if len(parting) > 1 else ""
        yield (
            f"{side.name}: onnxruntime, running the graph as a whole, leaves out what it says in half precision or rounds "
            f"otherwise: at {first} its values go up to {whole}, where that region by itself makes {alone} of the same "
            f"inputs{more}; the values and logits shown are the whole graph's, verdicts and effects those of the regions as written"
        )


def _parts(whole: np.ndarray, alone: np.ndarray) -> bool:
    """Whether two values of a tap differ by more than rounding, and flips of roundings."""
    if whole.dtype.kind != "f":
        return not np.array_equal(whole, alone)
    finite = np.isfinite(whole)
    if not np.array_equal(finite, np.isfinite(alone)):
        return True
    ours, theirs = whole[finite].astype(np.float64), alone[finite].astype(np.float64)
    return bool(np.linalg.norm(ours - theirs) > _HALF_UNIT * np.linalg.norm(ours))


def _magnitude(value: np.ndarray) -> str:
    if np.isnan(value).any():
        return "NaN"
    return f"{float(np.max(np.abs(value), initial=0.0)):.6g}"


def _is_finite(value: np.ndarray) -> bool:
    return value.dtype.kind != "f" or bool(np.isfinite(np.sum(value)) or np.isfinite(value).all())


def _is_only_masked(scores: np.ndarray) -> bool:
    """Whether -inf is all that is not finite."""
    return bool((np.isfinite(scores) | np.isneginf(scores)).all())


def _made(side: GraphSide, tap: str) -> _Made | None:
    """The first node of the region that makes what is not finite of what is, or NaN of what is none."""
    region = side.regions[tap]
    inside = side.run_all(tap, side.values, "float32")
    reads = dict(zip((f"i{n}" for n in range(len(region.inputs))), side.feeds(region, side.values), strict=True))
    weights = {f"w{n}": weight.array for n, weight in enumerate(region.weights)}
    known = {**constant_arrays(region.program), **weights, **reads, **inside}
    for step in steps(region.program):
        for name in step.outputs:
            if step.operator != "Constant" and name in inside and _makes(inside[name], step.inputs, known):
                exact = side.run_all(tap, side.values, "float64")
                return _Made(step, inside[name], exact.get(name + EXACT, exact[name]))
    return None


def _makes(value: np.ndarray, inputs: Sequence[str], known: Mapping[str, np.ndarray]) -> bool:
    """Whether a node makes NaN where it reads none, or Inf where all that it reads is finite."""
    if _is_finite(value):
        return False
    floats = [known[name] for name in inputs if name in known and known[name].dtype.kind not in "biu"]
    if all(np.isfinite(np.asarray(read, np.float64)).all() for read in floats):
        return bool(floats)
    return bool(np.isnan(value).any()) and not any(np.isnan(np.asarray(read, np.float64)).any() for read in floats)


def _record(side: GraphSide, tap: str, made: _Made) -> NonFinite:
    region, value = side.regions[tap], side.by_region[tap]
    bad = ~np.isfinite(made.value)
    exact = np.where(bad, made.exact, 0.0)
    kind = "NaN" if np.isnan(made.value).any() else "Inf"
    place = _place(side, tap, made)
    largest = float(exact.ravel()[np.argmax(np.abs(np.nan_to_num(exact)))])
    would_be = largest if kind == "Inf" and np.isfinite(largest) else None
    inputs = [np.abs(side.values[name][np.isfinite(side.values[name])]) for name in side.reads(tap)]
    reach = max((float(np.max(one, initial=0.0)) for one in inputs), default=0.0)
    element_type = half_type(region.program.model, made.step.outputs[0]) or "float32"
    node = region.source(made.step.index)
    text = _text(side, tap, kind, place, would_be, element_type, node.name or node.op_type)
    n = int(np.count_nonzero(~np.isfinite(value)))
    return NonFinite(side.name, tap, node, kind, place, n, reach, would_be, element_type, text)


def _place(side: GraphSide, tap: str, made: _Made) -> tuple[tuple[str, int], ...]:
    """Where the largest is, where the node's output is laid out as the tap is; else the first that is not finite there."""
    value = side.by_region[tap]
    weight = (~np.isfinite(value)).astype(np.float64)
    own = np.where(np.isfinite(made.value), 0.0, 1.0 + np.abs(np.nan_to_num(made.exact)))
    with suppress(OpdiffError, ValueError):  # another layout than the tap's
        weight = weight * side.canonical(tap, own)
    axes = canonical_axes(side.taps[tap].axes)
    words, found = axes[len(axes) - value.ndim :], np.unravel_index(np.argmax(weight), value.shape)
    first = {"token": side.first_position}
    return tuple((word, int(place) + first.get(word, 0)) for word, place in zip(words, found, strict=True))


def _text(
    side: GraphSide, tap: str, kind: str, place: Sequence[tuple[str, int]], exact: float | None, kind_of: str, node: str
) -> str:
    what = _WORDS.get(side.taps[tap].stage, side.taps[tap].stage)
    at = ", ".join(f"{word} {index}" for word, index in place)
    became = f"passes {_LARGEST[kind_of]} in {kind_of}" if kind == "Inf" else "becomes NaN"
    would_be = f" ({exact:.6g} in double precision)" if exact is not None else ""
    return f"{side.name}: {what} {became} at {at}{would_be}, at node {node}, {tap}; {_below(side, tap)}"


def _below(side: GraphSide, tap: str) -> str:
    """What the taps below hold, in the values that are shown."""
    if _is_finite(side.values[tap]):
        return f"onnxruntime, running the whole graph, leaves the rounding out: there it is finite ({_magnitude(side.values[tap])})"
    below = [name for name in side.downstream(tap) if name != tap and side.values[name].dtype.kind == "f"]
    hit = [name for name in below if not _is_finite(side.values[name]) and not _is_only_masked(side.values[name])]
    if hit and len(hit) == len(below):
        return "everything below holds NaN or Inf"
    return f"{len(hit)} of the {len(below)} taps below hold NaN or Inf" if below else "nothing reads it"
