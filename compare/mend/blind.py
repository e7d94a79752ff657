"""What an input cannot show: stages whose values, changed at will, leave the logits as they were."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from ...graphs.errors import OpdiffError
from ...graphs.stages import LOGITS, split_tap_name
from ..judge.places import FEW
from ..result import BlindSpot
from ..sides.graph_side import GraphSide
from ..sides.side import Values
from .runs import Change, run_changed

_WORDS = {
    "q_proj": "q",
    "k_proj": "k",
    "q_norm": "the norm of q",
    "k_norm": "the norm of k",
    "q_rope": "RoPE on q",
    "k_rope": "RoPE on k",
    "attn_scores": "the scale and the mask",
}


def blind_stages(side: GraphSide) -> tuple[str, ...]:
    """Stages that do not reach the logits at any position, or what the logits are made of.

    Measured by changing each one in the last block that has it; what stands before the blocks is not asked about, for all
    of the blocks would have to be run. Of a long input, the first positions are asked first: what reaches there, reaches.
    """
    last: dict[str, str] = {}
    for tap in side.regions:
        last[split_tap_name(tap)[1]] = tap
    taps = [tap for tap in last.values() if tap != LOGITS and not _is_above_blocks(side, tap)]
    blind = [tap for tap in taps if not side.taps[tap].is_weight and np.asarray(side.values[tap]).dtype.kind == "f"]
    if len(side.tokens) > FEW:
        with suppress(OpdiffError):
            blind = _not_reaching(side.beginning(FEW), blind, is_as_run=False)
    blind = _not_reaching(side, blind, is_as_run=not side.is_run_whole)
    return tuple(split_tap_name(tap)[1] for tap in blind)


def _is_above_blocks(side: GraphSide, tap: str) -> bool:
    def has_block(name: str) -> bool:
        return split_tap_name(name)[0] is not None

    return not has_block(tap) and any(map(has_block, side.downstream(tap)))


def _not_reaching(side: GraphSide, taps: Sequence[str], is_as_run: bool) -> list[str]:
    """The taps of which noise as large as their values leaves what the logits are made of as it was.

    is_as_run: the side's values are bit for bit what it makes of its tokens.
    """
    by_ends: dict[tuple[str, ...], list[str]] = {}
    reads = side.reads(LOGITS)
    for tap in taps:
        by_ends.setdefault((LOGITS,) if tap in reads else reads or (LOGITS,), []).append(tap)
    found = set[str]()
    for ends, group in by_ends.items():
        noisy = _ends(side, {tap: _noisy(side.values[tap]) for tap in group}, ends)
        plain = [side.values] * len(group) if is_as_run else _ends(side, {tap: side.values[tap] for tap in group}, ends)
        for tap, before, after in zip(group, plain, noisy, strict=True):
            if all(np.array_equal(before[name], after[name]) for name in ends):
                found.add(tap)
    return [tap for tap in taps if tap in found]


def _ends(side: GraphSide, given: Values, ends: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """What the side makes of each of these values alone.

    Raises:
        OpdiffError: nothing, of one.
    """
    changes = [Change(given={tap: value}) for tap, value in given.items()]
    found = []
    for ran in run_changed(side, changes, ends, "float32", side.values)[1:]:
        if isinstance(ran, OpdiffError):
            raise ran
        found.append(ran)
    return found


def _noisy(value: np.ndarray) -> np.ndarray:
    finite = value[np.isfinite(value) & (np.abs(value) < 1e30)]
    spread = float(np.sqrt(np.mean(finite**2))) if finite.size else 1.0
    noise = np.random.default_rng(0).standard_normal(value.shape)
    return (value + (spread or 1.0) * noise).astype(value.dtype)


def blind_spots(side: GraphSide, tokens: Sequence[int], vocab_size: int) -> tuple[BlindSpot, ...]:
    """The stages that this input cannot show, with an input that was measured to show them."""
    stages = blind_stages(side)
    if not stages:
        return ()
    proposal = _proposal(tokens, vocab_size)
    still_blind = stages
    with suppress(OpdiffError):  # a graph of a fixed length
        still_blind = blind_stages(side.on(proposal)) if proposal else stages
    words = ", ".join(_WORDS.get(stage, stage) for stage in stages)
    text = f"{words}: changed at will, they leave the logits of this input as they are, so a fault there cannot show in them."
    if proposal and not still_blind:
        asked = ",".join(map(str, proposal))
        return (BlindSpot(stages, f"{text} With --tokens {asked} every stage reaches them (measured).", proposal),)
    return (BlindSpot(stages, text, None),)


def _proposal(tokens: Sequence[int], vocab_size: int) -> tuple[int, ...] | None:
    """The tokens, and others that they do not hold, three or more in all."""
    others = [token for token in range(vocab_size) if token not in tokens]
    longer = [*tokens, *others[: max(1, 3 - len(tokens))]]
    return tuple(longer) if len(longer) >= 2 and len(longer) > len(tokens) else None
