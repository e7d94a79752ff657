"""The angles of the rotary position embedding: frequencies, their scaling, and the positions' offset."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .case import Array
from .evaluate import Run
from .fit import Fitted, Question, shortened, solve
from .registry import convention
from .rotation import PAIRINGS, as_complex, n_turning, rope_input, rotary_dim_of
from .settings import Value

STAGES = ("q_rope", "k_rope", "v_proj", "attn_context")
COMMON_BASES = (1e4, 1e5, 5e5, 1e6)
LLAMA3 = "llama3"
MOST_OFFSET = 4096


def frequencies(run: Run, width: int, denominator: int) -> Array:
    """Radians per position of each pair: base ** (-2i / denominator), scaled: float64 [width / 2]."""
    measured = run.setting("rope.frequencies")
    if isinstance(measured, tuple):
        return np.resize(np.array(measured, np.float64), width // 2)
    speeds = run.number("rope.base") ** (-2.0 * np.arange(width // 2) / denominator)
    scaled = _scaled(run, np.asarray(speeds, np.float64))
    n = n_turning(run)
    return scaled if n is None else np.where(np.arange(len(scaled)) < n, scaled, 0.0)


def _scaled(run: Run, speeds: Array) -> Array:
    scaling = run.setting("rope.scaling")
    if scaling == "as_stored":
        name = "rope_freqs.weight"
        if name not in run.case.weights:
            return speeds
        factors = np.asarray(run.tensor(name), np.float64)
        return speeds / factors if factors.shape == speeds.shape else speeds
    if not isinstance(scaling, tuple):
        return speeds
    numbers = [float(part) for part in scaling[1:] if isinstance(part, (int, float))]
    return speeds / numbers[0] if scaling[0] == "linear" else llama3_scaled(speeds, *numbers)


def llama3_scaled(speeds: Array, factor: float, low: float, high: float, context: float) -> Array:
    """Slow frequencies divided by the factor, fast ones kept, those between blended.

    Source: _compute_llama3_parameters in transformers' modeling_rope_utils.py.
    """
    wavelengths = 2 * np.pi / speeds
    blend = np.clip((context / wavelengths - low) / (high - low), 0.0, 1.0)
    return np.asarray((1 - blend) * speeds / factor + blend * speeds)


@convention("rope.base", STAGES, lambda config: float(config.rope_base))
def base(question: Question) -> Iterator[Value]:
    """The base of the angles: position * base ** (-2i / D)."""
    yield from COMMON_BASES


@base.fitted
def solved_base(question: Question) -> Iterator[Fitted]:
    """Solved from the angles where the region ends at a rotation, otherwise through the region."""
    if _is_worth_solving(question):
        yield from solve(question, "rope.base", _measured_bases(question) or COMMON_BASES[::2], logarithmic=True)


def _is_worth_solving(question: Question) -> bool:
    """Not where it is v that is rotated: two odd things at once that would cost seconds in every block."""
    return question.run().setting("rope.on_v") == "no"


def _measured_bases(question: Question) -> list[float]:
    speeds = measured_frequencies(question)
    if speeds is None:
        return []
    denominator = rotary_dim_of(question.run())[1]
    steps = np.arange(len(speeds))
    known = (speeds > 1e-12) & (speeds < 1) & (steps > 0)
    if not known.any():
        return []
    weights = (speeds[known] * steps[known]) ** 2
    logarithm = -np.log(speeds[known]) * denominator / (2 * steps[known])
    return [float(np.exp((weights * logarithm).sum() / weights.sum()))]


@convention("rope.offset", STAGES, 0, rank=1)
def offset(question: Question) -> Iterator[Value]:
    """What is added to every position."""
    yield from (1, -1)


@offset.fitted
def measured_offset(question: Question) -> Iterator[Fitted]:
    """The whole number whose angles the first position shows best."""
    angles = measured_angles(question)
    if angles is None or question.run().setting("rope.direction") == "inverse":
        return
    speeds = frequencies(question.run(), *rotary_dim_of(question.run()))
    candidates = np.arange(-len(angles), MOST_OFFSET)
    agreement = np.cos(candidates[:, None] * speeds - angles[0]).sum(axis=1)
    yield Fitted((int(candidates[np.argmax(agreement)]),))


@convention("rope.scaling", STAGES, "as_stored", rank=1)
def scaling(question: Question) -> Iterator[Value]:
    """How the frequencies are scaled for a longer context: as the checkpoint's rope_freqs say, not at all (none),
    linear (divided by a factor), or llama3 (factor, low and high frequency factor, original context).
    """
    if "rope_freqs.weight" in question.case.weights:
        yield "none"
    yield from (("linear", factor) for factor in (2.0, 4.0, 8.0))
    yield from ((LLAMA3, factor, 1.0, 4.0, 8192) for factor in (8.0, 32.0))


@scaling.fitted
def solved_scaling(question: Question) -> Iterator[Fitted]:
    """The linear factor, then llama3's factor for a few original contexts."""
    if _is_worth_solving(question):
        yield from solve(question, "rope.scaling", [2.0], logarithmic=True, wrap=lambda factor: ("linear", factor))
    speeds, run = measured_frequencies(question), question.run()
    if speeds is None:
        return
    plain = run.number("rope.base") ** (-np.arange(len(speeds)) / len(speeds))
    factor = float(plain[-1] / speeds[-1]) if speeds[-1] > 0 else 1.0
    for context in dict.fromkeys([8192, 4096, 2048, 16384, 32768, question.case.config.context_length]):
        yield _llama3(factor, context)


def _llama3(factor: float, context: int) -> Fitted:
    return shortened(factor, lambda number: (LLAMA3, number, 1.0, 4.0, context))


@convention("rope.frequencies", STAGES, "from_base", rank=2, last_resort=True)
def measured(question: Question) -> Iterator[Value]:
    """The frequencies themselves, in radians per position, as measured: where no base and no scaling gives them."""
    return iter(())


@measured.fitted
def fitted_frequencies(question: Question) -> Iterator[Fitted]:
    """Measured from how far the pairs turn from one position to the next."""
    speeds = measured_frequencies(question)
    if speeds is not None:
        yield Fitted((tuple(float(f"{speed:.6e}") for speed in speeds), tuple(map(float, speeds))))


def measured_frequencies(question: Question) -> Array | None:
    """Radians per position of each pair [R/2], unwrapped over all positions; None where the region shows none."""
    angles = measured_angles(question)
    if angles is None or len(angles) < 2:
        return None
    sign = -1.0 if question.run().setting("rope.direction") == "inverse" else 1.0
    turned = sign * (angles - angles[0])
    speeds = np.mod(turned[1] + np.pi, 2 * np.pi) - np.pi
    for position in range(2, len(angles)):
        turns = np.round((speeds * position - turned[position]) / (2 * np.pi))
        speeds = (turned[position] + 2 * np.pi * turns) / position
    return np.asarray(speeds)


def measured_angles(question: Question) -> Array | None:
    """By how much each pair is turned at each position [T, R/2]; None where the region ends at no rotation."""
    case, run = question.case, question.run()
    pairs, table = PAIRINGS[str(run.setting("rope.pairing"))]
    if case.stage not in ("q_rope", "k_rope") or pairs != table or not np.isfinite(question.output).all():
        return None
    width = rotary_dim_of(run)[0]
    before = as_complex(rope_input(run, case.stage[0], case.block)[..., :width], pairs)
    after = as_complex(question.output[..., :width], pairs)
    return np.asarray(np.angle((np.conj(before) * after).sum(axis=1)))
