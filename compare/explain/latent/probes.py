"""Other inputs of a region, on which a latent difference may show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from ...sides.graph_side import GraphSide
from ...sides.side import Values
from .difference import Difference
from .leaves import Leaves

_SIZES = (10.0, 1000.0, 1e-3, -1.0)
_MASKED = 1e4  # what is this far from 0 in scores is masked, and stays so
FEW = 64  # tokens, at which every difference of masks and positions is looked for
_LONGEST = 4200  # tokens, to which a mask is made; a window is often one of 4096
_WHOLE = 2.0**31 - 1  # a constant of no less is no number of tokens


@dataclass(frozen=True, slots=True)
class Probe:
    """Values of the taps that a region reads. `text` says what they are, behind "shown by"."""

    text: str
    values: Values


def probes(a: GraphSide, taps: Iterable[str]) -> Iterator[Probe]:
    """A's values of the taps that a region reads, larger, smaller and negated, and numbers of a normal distribution."""
    reads = {name: np.asarray(a.values[name]) for name in taps}
    floats = [name for name, value in reads.items() if value.dtype.kind == "f"]
    if not floats:
        return
    x = " and ".join(floats) if len(floats) <= 2 else "its inputs"
    for times in _SIZES:
        told = f"{x} negated" if times == -1 else f"{x} {_told(times)} as large"
        yield Probe(told, _changed(reads, floats, partial(np.multiply, times)))
    draw = np.random.default_rng(0).standard_normal
    yield Probe(f"standard normal {x}", _changed(reads, floats, lambda value: draw(value.shape)))


def _told(times: float) -> str:
    return f"{times:.0f} times" if times > 1 else "a thousandth"


def _changed(reads: Values, names: Sequence[str], change: Callable[[np.ndarray], np.ndarray]) -> Values:
    """The values with some of them changed where they are numbers, and no mask."""
    made = dict(reads)
    for name in names:
        value = reads[name]
        is_number = np.abs(value) < (_MASKED if name.endswith("attn_scores") else 1e30)
        made[name] = np.where(is_number, change(np.where(is_number, value, 0)), value).astype(value.dtype)
    return made


def lengths(past: Sequence[float], n_tokens: int) -> tuple[int, ...]:
    """Numbers of tokens at which a difference of masks or positions may show: a few, and those past each bound."""
    tried = {FEW, *chain(*((int(bound) + 1, int(bound) + 2, 2 * int(bound)) for bound in past))}
    return tuple(sorted(n for n in tried if n_tokens < n <= _LONGEST))


def bounds(difference: Difference, leaves: Sequence[Leaves], n_tokens: int) -> tuple[float, ...]:
    """The constants of a difference that may count tokens, and that this input does not reach.

    leaves: A's and B's.
    """
    found: list[float] = []
    for known, step, value in zip(
        leaves, (difference.ours, difference.theirs), (difference.a_value, difference.b_value), strict=True
    ):
        if difference.kind == "constant":
            found.extend(known.scalars(value))
        elif step is not None and (step is difference.step or not difference.is_of_one_side):
            for place, name in enumerate(step.operands):
                if not (difference.is_of_one_side and place == difference.operand):
                    found.extend(known.scalars(name))
            found.extend(float(x) for literal in step.literals.values() for x in literal.ravel())
    return tuple(abs(bound) for bound in found if n_tokens <= abs(bound) < _WHOLE)
