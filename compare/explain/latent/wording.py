"""What a latent difference is, in words: as an edit of B is told, but with all that it stands in."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ....graphs.network import Network, Step
from ....graphs.stages import split_tap_name
from ....graphs.stream import Stream
from ..arrays import compare_arrays, told_apart
from ..edits.expression import MASKED, Style, formula, is_mask, step_formula
from ..edits.keys import key_of, short_name
from ..edits.words import attributes_text
from ..masks import mask_law
from .difference import Difference
from .leaves import Leaves
from .passing import is_identity

_INSIDE, _READ = Style(depth=4), 3  # steps deep: what is told, and what it reads
_POSITIONS = "positions"


def text_of(a: Network, b: Network, difference: Difference) -> str:
    """A difference in words."""
    if difference.is_of_one_side:
        return _of_one_side(difference.network(a, b), difference)
    assert difference.ours is not None
    assert difference.theirs is not None
    if difference.kind == "attributes":
        return attributes_text(difference.ours, difference.theirs)
    if difference.kind in ("settings", "written"):
        left, right = (_consumer(one, step) for one, step in ((a, difference.ours), (b, difference.theirs)))
        return f"{right} where A has {left}"
    return _of_constants(a, b, difference)


def with_positions(text: str) -> str:
    """A text in which the positions of so many tokens are called that."""
    return re.sub(r"range\(0, \d+, 1\)", _POSITIONS, text)


def key(text: str, a: Network, b: Network, stream: Stream) -> str:
    """The same for the same difference in another block, or on another weight."""
    return key_of(text, a.region.tap, (a.region, b.region), stream)


def _of_one_side(network: Network, difference: Difference) -> str:
    """A step that one side has more: `clip(x, max=50) is extra, x = q_proj`."""
    step, block = difference.step, _block(network)
    read = network.base(step.operands[difference.operand])
    inside = formula(network, step.outputs[0], _leaf(network, block, read), _INSIDE)
    x = formula(network, read, _leaf(network, block), _INSIDE, _READ)
    return f"{inside} is {difference.kind}{_nothing(network, step, difference.operand)}, x = {x}"


def _nothing(network: Network, step: Step, operand: int) -> str:
    """That a weight or constant holds nothing but the number that changes nothing."""
    others = [name for place, name in enumerate(step.operands) if place != operand]
    if step.operator not in ("Add", "Sub", "Mul", "Div") or not Leaves(network).is_fixed(network.base(others[0])):
        return ""
    if not is_identity(network, step, others[0]):
        return ""
    return f" (all {'zeros' if step.operator in ('Add', 'Sub') else 'ones'})"


def _of_constants(a: Network, b: Network, difference: Difference) -> str:
    """A constant or weight for another: `4096 where A has 8192, in less(x, 4096)`."""
    assert difference.theirs is not None
    ours, theirs = a.array(difference.a_value), b.array(difference.b_value)
    assert ours is not None
    assert theirs is not None
    inside = _consumer(b, difference.theirs)
    bases = a.array(a.base(difference.a_value)), b.array(b.base(difference.b_value))
    if all(base is not None and base.size == 1 for base in bases):
        left, right = told_apart(ours.reshape(-1)[0], theirs.reshape(-1)[0])
        return f"{right} where A has {left}, in {inside}"
    if is_mask(ours) and is_mask(theirs) and np.array_equal(ours <= MASKED, theirs <= MASKED):
        left, right = told_apart(float(ours.min()), float(theirs.min()))
        return f"masks {mask_law(theirs <= MASKED)} by {right} where A has {left}"
    label = b.values[b.base(difference.b_value)].label
    named = f" {short_name(label, _block(b))}" if label else ""
    what = "the weight" if label else "the constant"
    return f"{what}{named} is {compare_arrays(ours, theirs).text}, in {inside}"


def _consumer(network: Network, step: Step) -> str:
    return step_formula(network, step, _leaf(network, _block(network)), _INSIDE, _READ)


def _block(network: Network) -> int | None:
    return split_tap_name(network.region.tap)[0]


def _leaf(network: Network, block: int | None, hole: str | None = None) -> Callable[[str], str | None]:
    """Names for what a region reads; x for one value of it."""

    def leaf(name: str) -> str | None:
        value = network.values[network.base(name)]
        if value.name == hole:
            return "x"
        if value.maker is not None and value.maker.operator == "Range":
            return _POSITIONS
        return short_name(value.label, block) if value.kind in ("input", "weight") else None

    return leaf
