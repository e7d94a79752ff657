"""An edit of one line that runs many times, as in a loop over tokens: what that line computes on each side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from ....graphs.network import Network, Step
from ....graphs.sources import own_lines
from .alignment import Alignment
from .expression import Style, formula
from .pieces import Piece

_FEWEST = 3  # times that a line runs, from which on it is told once
# Pieces at the line for each one elsewhere: a loop's first time, which begins with zeros, is not as the others.
_PER_OTHER = 2
_LETTERS = "xyzuv"
_WHOLE = Style(depth=60)


def changed_line(
    alignment: Alignment, pieces: Sequence[Piece], replaced: Iterable[Step], brought: Iterable[Step]
) -> tuple[Step, Step] | None:
    """The last steps of the line of A and the line of B to which every piece belongs, as they run for the last time; None
    where there are no such lines, or they run seldom.

    replaced, brought: the steps that are taken out of A, and those that are put in.
    """
    at_a = [_line(alignment.a, alignment.partner[p.step.number]) for p in pieces if p.step is not None]
    at_b = [_line(alignment.b, p.step) for p in pieces if p.step is not None]
    if len(at_b) < max(_FEWEST, len(pieces)):
        return None
    lines = [_most(found) for found in (at_a, at_b)]
    counts = [found.count(line) for line, found in zip(lines, (at_a, at_b), strict=True)]
    changed = (
        *((alignment.a, step, lines[0]) for step in replaced),
        *((alignment.b, step, lines[1]) for step in brought),
    )
    n_others = sum(line != _line(network, step) for network, step, line in changed) + len(pieces) - min(counts)
    if None in lines or min(counts) < _FEWEST or _PER_OTHER * n_others > min(counts):
        return None
    ours, theirs = (_last(network, line) for network, line in zip((alignment.a, alignment.b), lines, strict=True))
    return None if ours is None or theirs is None else (ours, theirs)


def steps_of_line(network: Network, last: Step) -> int:
    """How many steps a line takes that ends at this one; moves are not counted."""
    line, stack, found = _line(network, last), [last], {last.number}
    while stack:
        for name in stack.pop().operands:
            maker = network.values[name].maker
            if maker is not None and maker.number not in found and (maker.is_move or _line(network, maker) == line):
                found |= set() if maker.is_move else {maker.number}
                stack.append(maker)
    return len(found)


def line_text(
    alignment: Alignment, ours: Step, theirs: Step, word: Callable[[str], str], name: Callable[[str], str]
) -> tuple[str, str]:
    """What a line computes on B's side and on A's, with letters for the values of other lines; and what these are.

    word: a value of A in a few words. name: a tap's or weight's name.
    """
    letters: dict[str, str] = {}
    right = _formula(alignment, alignment.b, theirs, letters, name)
    left = _formula(alignment, alignment.a, ours, letters, name)
    known = [(letter, key.partition(" ")[2]) for key, letter in letters.items() if key.startswith("a ")]
    told = "".join(f", {letter} = {word(value)}" for letter, value in known)
    return f"{right} where A has {left}", f", each time that the line runs{told}"


def _formula(
    alignment: Alignment, network: Network, step: Step, letters: dict[str, str], name: Callable[[str], str]
) -> str:
    line = _line(network, step)

    def leaf(value: str) -> str | None:
        base = network.base(value)
        made = network.values[base]
        if made.kind in ("input", "weight"):
            return name(made.label)
        if made.maker is None or _line(network, made.maker) == line:
            return None
        key = f"a {base}" if network is alignment.a else _of_a(alignment, base)
        if key not in letters and len(letters) < len(_LETTERS):
            letters[key] = _LETTERS[len(letters)]
        return letters.get(key, "...")

    return formula(network, step.outputs[0], leaf, _WHOLE)


def _of_a(alignment: Alignment, theirs: str) -> str:
    """What stands for a value of B: that of A which it is, or whose step is paired with its own."""
    match, maker = alignment.match(theirs), alignment.b.values[theirs].maker
    if match is not None:
        return f"a {alignment.a.base(match.name)}"
    partner = None if maker is None else alignment.partner.get(maker.number)
    return f"b {theirs}" if partner is None else f"a {partner.outputs[0]}"


def _line(network: Network, step: Step) -> str | None:
    """The innermost line of the user that runs a step."""
    return next((line.place for line in own_lines(network.region.nodes[step.index])), None)


def _most(found: Iterable[str | None]) -> str | None:
    counts = Counter(line for line in found if line is not None)
    return counts.most_common(1)[0][0] if counts else None


def _last(network: Network, line: str | None) -> Step | None:
    return next((s for s in reversed(network.steps) if not s.is_move and _line(network, s) == line), None)
