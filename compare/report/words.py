"""What a cause is, in words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...graphs.stages import split_tap_name
from ..explain.causes import Cause
from ..listed import listed
from ..result import RootCause

_AGREES = {
    "neither": "the reference does neither",
    "both": "the reference does not tell the two apart",
    "unknown": "the reference does not show it",
}


def cause_text(a: str, b: str, cause: Cause, agrees: str | None) -> str:
    """One sentence: what differs, where, and whom the reference agrees with."""
    agreed = agreement_text(a, b, agrees)
    return f"{difference_text(a, b, cause)}; at {places(cause.taps)}{f'; {agreed}' if agreed else ''}"


def agreement_text(a: str, b: str, agrees: str | None) -> str:
    """Whom the reference agrees with; nothing where there is none."""
    if agrees in ("a", "b"):
        return f"the reference agrees with {a if agrees == 'a' else b}"
    return _AGREES[agrees] if agrees else ""


def difference_text(a: str, b: str, cause: Cause) -> str:
    """What differs."""
    if cause.choice is not None:
        ours, theirs = cause.written
        if ours == theirs:
            return f"{cause.choice[0]}: both have {theirs}, which other steps show otherwise"
        return f"{cause.choice[0]}: {b} has {theirs}, {a} has {ours}"
    if cause.kind == "edit":
        lines = "; and ".join(_named(line, a) for line in cause.lines)
        return f"{_sides_named(cause.relations[0], a, b)}: {lines}" if cause.relations else f"{b}: {lines}"
    if cause.kind == "rewrite":
        return f"rewritten: {b} computes this in other steps than {a} ({cause.n_steps} of them), and no smaller change explains it"
    related = [r if r.startswith("B ") else f"B is {r}" for r in cause.relations]
    return f"no explanation was found for {b}{''.join(f'; {_sides_named(r, a, b)}' for r in related)}"


def latent_text(a: str, b: str, line: str) -> str:
    """What differs without effect."""
    if line.startswith(("A ", "B ")):
        return _sides_named(line, a, b)
    return f"{b}: {_named(line, a)}"


def _sides_named(text: str, a: str, b: str) -> str:
    """A sentence about A and B with their names."""
    return re.sub(r"\b([AB])\b(?!')", lambda found: a if found[1] == "A" else b, text).replace("A's", f"{a}'s")


def _named(line: str, a: str) -> str:
    """A line with A's own name in it."""
    return line.replace(" where A ", f" where {a} ").replace(" is A's", f" is {a}'s")


def verdict_text(a: str, b: str, causes: Sequence[RootCause]) -> str | None:
    """Which side is right as it stands, by the reference; None where there is no reference, or nothing to judge."""
    agreed = {cause.reference_agrees_with for cause in causes}
    if not agreed or None in agreed:
        return None
    if agreed <= {"a", "b"}:
        if len(agreed) == 1:
            right, wrong = (a, b) if agreed == {"a"} else (b, a)
            return f"by the reference, {right} is right and {wrong} is not"
        return f"by the reference, neither {a} nor {b} is right as it stands"
    return "the reference does not settle which side is right: see each cause"


def places(taps: Sequence[str]) -> str:
    """Taps by stage, with their blocks: `q_proj and o_proj in blocks 0 to 29`."""
    blocks: dict[str, list[int | None]] = {}
    for tap in taps:
        block, stage = split_tap_name(tap)
        blocks.setdefault(stage, []).append(block)
    groups: dict[tuple[int | None, ...], list[str]] = {}
    for stage, where in blocks.items():
        groups.setdefault(tuple(where), []).append(stage)
    return "; ".join(f"{listed(stages)}{_in_blocks(where)}" for where, stages in groups.items())


def _in_blocks(blocks: Sequence[int | None]) -> str:
    numbers = [block for block in blocks if block is not None]
    if not numbers:
        return ""
    if len(numbers) == 1:
        return f" in block {numbers[0]}"
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f" in blocks {numbers[0]} to {numbers[-1]}"
    return f" in blocks {listed([str(n) for n in numbers])}"
