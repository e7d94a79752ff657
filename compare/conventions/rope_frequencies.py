"""The angles of the rotary position embedding: frequencies, their scaling, and the positions' offset."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ...graphs.decoder_config import DecoderConfig, RopeScaling
from .case import Array
from .evaluate import Run
from .fit import Fitted, Question, shortened, solve
from .registry import convention
from .rotation import PAIRINGS, as_complex, n_turning, rope_input, rotary_dim_of
from .settings import AS_CONFIGURED, Value

STAGES = ("q_rope", "k_rope", "v_proj", "attn_context")
COMMON_BASES = (1e4, 1e5, 5e5, 1e6)
LLAMA3, SHORT, LONG = "llama3", "longrope_short", "longrope_long"
MOST_OFFSET = 4096


def frequencies(run: Run, block: int | None, width: int, denominator: int) -> Array:
    """Radians per position of each pair: base ** (-2i / denominator), scaled: float64 [width / 2]."""
    measured = run.setting("rope.frequencies")
    if isinstance(measured, tuple):
        return np.resize(np.array(measured, np.float64), width // 2)
    exponents = 2.0 * np.arange(width // 2) / denominator
    is_local, number = _is_local(run, block), _base(run, block)
    speeds = number**-exponents
    scaled = speeds if is_local else _scaled(run, speeds, number, exponents)
    n = n_turning(run)
    return scaled if n is None else np.where(np.arange(len(scaled)) < n, scaled, 0.0)


def amplitude(run: Run, block: int | None) -> float:
    """What the cosines and sines are multiplied by; asked only of a decoder whose RoPE is scaled."""
    is_plain = run.config.rope_scaling is None or _is_local(run, block)
    return 1.0 if is_plain else run.number("rope.amplitude")


def _is_local(run: Run, block: int | None) -> bool:
    """Whether the block has the local table of angles, where a decoder has two."""
    if run.config.local_rope_base is None:
        return False
    chosen = run.setting("rope.table")
    return chosen == "local" or (chosen == "own" and run.config.window(block or 0) is not None)


def _base(run: Run, block: int | None) -> float:
    chosen, config = run.setting("rope.base"), run.config
    if chosen != AS_CONFIGURED:
        return float(chosen)  # type: ignore[arg-type]
    local = config.local_rope_base
    return local if local is not None and _is_local(run, block) else config.rope_base


def _scaled(run: Run, speeds: Array, base: float, exponents: Array) -> Array:
    """The frequencies as the settings scale them: every one of them, or as a kind of scaling has it."""
    scaling = run.setting("rope.scaling")
    if scaling in ("as_stored", "none"):
        return speeds / _listed(run, "rope_freqs.weight", speeds) if scaling == "as_stored" else speeds
    if str(scaling).startswith("longrope"):
        return speeds / _longrope(run, str(scaling), speeds)
    assert isinstance(scaling, tuple)
    kind, *numbers = scaling
    return SCALINGS[str(kind)](run, speeds, base, exponents, *numbers)


def _longrope(run: Run, chosen: str, speeds: Array) -> Array:
    """The divisors of the frequencies [R/2]: of the long list behind the original context, of the short one before."""
    scaling = run.config.rope_scaling
    assert scaling is not None
    is_long = run.case.end > (scaling.original_context or 0) if chosen == "longrope" else chosen == LONG
    listed = np.asarray(scaling.long_factors if is_long else scaling.short_factors)
    if not len(listed):
        return _listed(run, f"rope_factors_{'long' if is_long else 'short'}.weight", speeds)
    return _fitting(listed, speeds)


def _listed(run: Run, tensor: str, speeds: Array) -> Array:
    """A tensor of divisors; ones where there is none."""
    stored = run.case.weights[tensor] if tensor in run.case.weights else np.ones_like(speeds)
    return _fitting(np.asarray(stored, np.float64), speeds)


def _fitting(factors: Array, speeds: Array) -> Array:
    """The divisors; ones where they are not as many as there are frequencies."""
    return factors if factors.shape == speeds.shape else np.ones_like(speeds)


def _linear(run: Run, speeds: Array, base: float, exponents: Array, factor: float) -> Array:
    return speeds / factor


def _dynamic(run: Run, speeds: Array, base: float, exponents: Array, factor: float, context: float) -> Array:
    """The base grows with the tokens behind the original context. Source: _compute_dynamic_ntk_parameters in transformers."""
    beyond = max(run.case.end, context) / context
    dim = 2 * len(speeds)
    return np.asarray((base * (factor * beyond - (factor - 1)) ** (dim / (dim - 2))) ** -exponents)


def _llama3(
    run: Run, speeds: Array, base: float, exponents: Array, factor: float, low: float, high: float, context: float
) -> Array:
    """Slow frequencies divided by the factor, fast ones kept, those between blended.

    Source: _compute_llama3_parameters in transformers' modeling_rope_utils.py.
    """
    wavelengths = 2 * np.pi / speeds
    blend = np.clip((context / wavelengths - low) / (high - low), 0.0, 1.0)
    return np.asarray((1 - blend) * speeds / factor + blend * speeds)


def _yarn(
    run: Run,
    speeds: Array,
    base: float,
    exponents: Array,
    factor: float,
    fast: float,
    slow: float,
    context: float,
    truncated: bool = True,
) -> Array:
    """Low frequencies divided, high ones not, between them a ramp over the channels. Source: Peng et al. 2023."""
    dim = 2 * len(speeds)
    low, high = (dim * np.log(context / (turns * 2 * np.pi)) / (2 * np.log(base)) for turns in (fast, slow))
    low, high = (np.floor(low), np.ceil(high)) if truncated else (low, high)
    low, high = max(low, 0.0), min(high, dim - 1.0)
    divided = np.clip((np.arange(len(speeds)) - low) / max(high - low, 0.001), 0, 1)
    return np.asarray(speeds * (divided / factor + 1 - divided))


SCALINGS: dict[str, Callable[..., Array]] = {
    "linear": _linear,
    "dynamic": _dynamic,
    LLAMA3: _llama3,
    "yarn": _yarn,
}


def standard_scaling(config: DecoderConfig) -> Value:
    """A decoder's own scaling as a value of the convention."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind == "factors":
        return "as_stored"
    if scaling.kind == "longrope":
        return "longrope"
    context = scaling.original_context or config.context_length
    numbers: dict[str, tuple[Value, ...]] = {
        "linear": (scaling.factor,),
        "dynamic": (scaling.factor, context),
        "llama3": (scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor, context),
        "yarn": (scaling.factor, scaling.beta_fast, scaling.beta_slow, context, scaling.truncated),
    }
    return (scaling.kind, *numbers[scaling.kind])


def _standard_base(config: DecoderConfig) -> Value:
    return float(config.rope_base) if config.local_rope_base is None else AS_CONFIGURED


def _two_bases(config: DecoderConfig) -> str:
    return f"{config.rope_base:.7g}, {config.local_rope_base:.7g} in blocks with a window"


@convention("rope.base", STAGES, _standard_base, configured=_two_bases)
def base(question: Question) -> Iterator[Value]:
    """The base of the angles: position * base ** (-2i / D)."""
    config = question.case.config
    yield from (*COMMON_BASES, config.rope_base, *([] if config.local_rope_base is None else [config.local_rope_base]))


@convention("rope.table", STAGES, "own")
def table(question: Question) -> Iterator[Value]:
    """Of a decoder with two tables of angles, one for blocks with a window and one for the others: the block's own, or the
    global one, or the local one.
    """
    yield from ("global", "local")


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
    """By the angles of the first position."""
    n = offset_at(question, 0)
    if n is not None:
        yield Fitted((n,))


def offset_at(question: Question, row: int) -> int | None:
    """How far the position of one row is off: the whole number whose angles that row shows best; None where it shows none."""
    angles = measured_angles(question)
    if angles is None or question.run().setting("rope.direction") == "inverse":
        return None
    speeds = frequencies(question.run(), question.case.block, *rotary_dim_of(question.run()))
    candidates = np.arange(-len(angles), MOST_OFFSET)
    turned = (question.case.first_position + row + candidates)[:, None] * speeds
    return int(candidates[np.argmax(np.cos(turned - angles[row]).sum(axis=1))])


def _attention_factor(config: DecoderConfig) -> float:
    return 1.0 if config.rope_scaling is None else float(config.rope_scaling.attention_factor)


@convention("rope.amplitude", STAGES, _attention_factor, rank=1)
def turned_longer(question: Question) -> Iterator[Value]:
    """What the cosines and sines of a scaled RoPE are multiplied by: yarn's and longrope's attention factor."""
    own = _attention_factor(question.case.config)
    yield from (1.0, own**2, own**0.5)


@turned_longer.fitted
def solved_amplitude(question: Question) -> Iterator[Fitted]:
    """Solved: the rotated channels are linear in it."""
    yield from solve(question, "rope.amplitude", [1.0])


@convention("rope.scaling", STAGES, standard_scaling, rank=1)
def scaling(question: Question) -> Iterator[Value]:
    """How the frequencies are scaled for a longer context: as the checkpoint's rope_freqs say, not at all (none), linear
    (divided by a factor), dynamic (factor, original context), llama3 (factor, low and high frequency factor, original
    context), yarn (factor, fast and slow beta, original context, whether its bounds are whole channels), longrope by its two
    lists, or by the short or the long one alone.
    """
    own = question.case.config.rope_scaling
    if own is not None or "rope_freqs.weight" in question.case.weights:
        yield "none"
    if own is not None:
        yield from _near(own, question.case.config.context_length)
    yield from (("linear", factor) for factor in (2.0, 4.0, 8.0))
    yield from ((LLAMA3, factor, 1.0, 4.0, 8192) for factor in (8.0, 32.0))


@scaling.fitted
def solved_scaling(question: Question) -> Iterator[Fitted]:
    """The linear factor, the numbers of the decoder's own scaling, then llama3's factor for a few original contexts."""
    own = standard_scaling(question.case.config)
    if isinstance(own, tuple) and own[0] != "linear":
        for place, number in enumerate(own):
            if type(number) in (int, float):
                yield from solve(question, "rope.scaling", [float(number)], logarithmic=True, wrap=_with(own, place))  # type: ignore[arg-type]
    if _is_worth_solving(question):
        yield from solve(question, "rope.scaling", [2.0], logarithmic=True, wrap=lambda factor: ("linear", factor))
    speeds, run = measured_frequencies(question), question.run()
    if speeds is None:
        return
    plain = _base(run, question.case.block) ** (-np.arange(len(speeds)) / len(speeds))
    factor = float(plain[-1] / speeds[-1]) if speeds[-1] > 0 else 1.0
    for context in dict.fromkeys([8192, 4096, 2048, 16384, 32768, question.case.config.context_length]):
        yield shortened(factor, _with((LLAMA3, factor, 1.0, 4.0, context), 1))


def _with(scaling: tuple[Value, ...], place: int) -> Callable[[float], Value]:
    """The scaling with another number at this place."""
    return lambda number: (*scaling[:place], number, *scaling[place + 1 :])


def _near(own: RopeScaling, context_length: int) -> Iterator[Value]:
    """What a decoder's own scaling is mistaken for: another kind with its numbers, or one of its numbers left as it is by default."""
    factor, context = own.factor, own.original_context or context_length
    if own.kind == "longrope":
        yield from (SHORT, LONG)
        return
    yield ("linear", factor)
    yield ("dynamic", factor, context)
    yield (LLAMA3, factor, 1.0, 4.0, context)
    for fast, slow in dict.fromkeys([(own.beta_fast, own.beta_slow), (32.0, 1.0)]):
        for length in dict.fromkeys([context, context_length]):
            yield from (("yarn", factor, fast, slow, length, truncated) for truncated in (True, False))


@convention("rope.frequencies", STAGES, "from_base", rank=2, last_resort=True)
def measured(question: Question) -> Iterator[Value]:
    """The frequencies themselves, in radians per position, as measured: where no base and no scaling gives them."""
    return iter(())


@measured.fitted
def fitted_frequencies(question: Question) -> Iterator[Fitted]:
    """Measured from how far the pairs turn from one position to the next."""
    speeds = measured_frequencies(question)
    if speeds is not None:
        decimals = (tuple(float(f"{speed:.{digits}e}") for speed in speeds) for digits in range(2, 7))
        yield Fitted((*decimals, tuple(map(float, speeds))))


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
