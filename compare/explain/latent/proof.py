"""What shows a latent difference: other inputs, on which both regions are run and judged as ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from ....graphs.errors import InputError, OpdiffError
from ....graphs.network import Network
from ....graphs.regions import Region
from ....graphs.stepping import StepRunner
from ...judge.locate import Local, judge_graphs
from ...sides.graph_side import GraphSide
from ...sides.side import Values
from ..edits.edit import WORK
from .difference import Difference
from .passing import hands_on
from .probes import FEW, Probe, bounds, lengths, probes
from .walk import HEAVY, Walk, are_same

_MOST_JUDGED = 256  # tokens: for more, a mask is made, but not what reads it
_MOST_PROBED = 12  # differences for which an input is looked for, and as many places that are written otherwise


class Proof:
    """Looks for inputs that show differences.

    Args:
        n_tokens: how many the two were compared on; the sides may have the first of them alone.
    """

    def __init__(self, a: GraphSide, b: GraphSide, stepper: StepRunner, n_tokens: int) -> None:
        self._a, self._b, self._stepper, self._n_tokens = a, b, stepper, n_tokens
        self._n_probed = Counter[bool]()  # of places that are written otherwise, and of others

    @property
    def is_spent(self) -> bool:
        """Whether no more may be run."""
        return self._stepper.work > WORK

    def networks(self, tap: str, values: Values) -> tuple[Network, Network]:
        """Both regions, on these values of what they read."""
        a, b = (side.network(tap, values, self._stepper) for side in (self._a, self._b))
        return a, b

    def tried(self, tap: str, a: Network, b: Network, walk: Walk, difference: Difference) -> tuple[str | None, bool]:
        """The first other input on which the two differ, run; and where none does, whether others still may show it.

        Of a mask or positions, which hang on nothing but the number of tokens, none does where it was run past every bound:
        then it is another way of writing.
        """
        is_rewriting = difference.kind == "written"
        if is_rewriting and not self._read_the_same(tap):
            return None, False  # what one side reads hangs on what the other does, and cannot be changed alone
        self._n_probed[is_rewriting] += 1
        is_spent = self._n_probed[is_rewriting] > _MOST_PROBED or self.is_spent
        if difference.is_of_data(a, b):
            tried = () if is_spent else probes(self._a, self._reads(tap))
            return next((probe.text for probe in tried if self._parts(tap, probe, difference)), None), not is_rewriting
        leaves, n_tokens = (walk.a_leaves, walk.b_leaves), self._n_tokens
        open_bounds, is_another = bounds(difference, leaves, n_tokens), False
        for n in () if is_spent else lengths(open_bounds, n_tokens):
            try:
                longer = self._parted_at(tap, n, difference)
                if longer is not None and n > _MOST_JUDGED:
                    return f"{n} tokens, for which it alone was run", True
                if longer is not None and _is_shown(judge_graphs(*longer, tap, longer[0].values)):
                    return f"{n} tokens", True
            except (OpdiffError, ValueError):  # a graph of a fixed length
                continue
            is_another |= longer is not None
            open_bounds = tuple(bound for bound in open_bounds if bound >= n)
        return None, is_another or bool(open_bounds)

    def _parts(self, tap: str, probe: Probe, difference: Difference) -> bool:
        """Whether the two regions give other numbers on other values, and this difference does."""
        try:
            if not _differs(*self.networks(tap, probe.values), difference):
                return False
            local = judge_graphs(self._a, self._b, tap, probe.values)
        except OpdiffError:
            return False
        return _is_shown(local)

    def _parted_at(self, tap: str, n: int, difference: Difference) -> tuple[GraphSide, GraphSide] | None:
        """The sides as if they had so many tokens, where what does not hang on data is another then: it alone is run.

        Raises:
            OpdiffError: it cannot be.
        """
        a, b = self._stretched(tap, n)
        wanted = _values_of(difference)
        ours, theirs = (
            Network(_small_part(side.regions[tap], names, n), side.feeds(side.regions[tap], a.values), self._stepper)
            for side, names in zip((a, b), wanted, strict=True)
        )
        return (a, b) if _differs(ours, theirs, difference) else None

    def parted(self, tap: str, past: Sequence[float]) -> Iterator[tuple[Local, GraphSide, GraphSide]]:
        """The verdicts on two regions for more tokens, with the sides as if they had so many, where they differ then.

        past: the bounds that this input does not reach.
        """
        for n in lengths(past, self._n_tokens):
            if n > _MOST_JUDGED or self.is_spent:
                return
            try:
                a, b = self._stretched(tap, n)
                local = judge_graphs(a, b, tap, a.values)
            except (OpdiffError, ValueError):  # a graph of a fixed length
                return
            if _is_shown(local):
                yield local, a, b

    def _stretched(self, tap: str, n: int) -> tuple[GraphSide, GraphSide]:
        reads = self._reads(tap)
        return self._a.stretched(n, reads), self._b.stretched(n, reads)

    def _read_the_same(self, tap: str) -> bool:
        return {*self._a.reads(tap)} == {*self._b.reads(tap)}

    def _reads(self, tap: str) -> tuple[str, ...]:
        """The taps that either region reads."""
        return tuple(dict.fromkeys((*self._a.reads(tap), *self._b.reads(tap))))


def _is_shown(local: Local) -> bool:
    """Whether two regions differ by more than rounding, and in numbers."""
    return local.verdict == "semantic" and bool(np.isfinite(local.error))


def _values_of(difference: Difference) -> tuple[list[str], list[str]]:
    """The values of A and of B by which a difference shows."""
    if difference.is_of_one_side:
        names = [difference.step.outputs[0], difference.step.operands[difference.operand]]
        return (names, []) if difference.kind == "left out" else ([], names)
    assert difference.ours is not None
    return [difference.ours.outputs[0]], [difference.step.outputs[0]]


def _differs(a: Network, b: Network, difference: Difference) -> bool:
    """Whether the two are not the same on the values of these networks."""
    if difference.is_of_one_side:
        return not hands_on(difference.network(a, b), difference.step, difference.operand)
    (ours,), (theirs,) = _values_of(difference)
    return not are_same(a, b, ours, theirs)


def _small_part(region: Region, names: Sequence[str], n_tokens: int) -> Region:
    """The part of a region that makes some values.

    Raises:
        InputError: that is too much for so many tokens.
    """
    part = region.up_to(names)
    if n_tokens > FEW and HEAVY.intersection(part.program.operators):
        raise InputError(f"a mask of {n_tokens} tokens takes products to make")
    return part
