"""What an input cannot show: stages whose values, changed at will, leave the logits as they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..graphs.errors import OpdiffError
from ..graphs.stages import LOGITS, split_tap_name
from .result import BlindSpot
from .runs import Change, run_changed
from .side import GraphSide, Values

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
    of the blocks would have to be run.
    """
    last: dict[str, str] = {}
    for tap in side.regions:
        last[split_tap_name(tap)[1]] = tap
    asked = {tap: stage for stage, tap in last.items() if tap != LOGITS and not side.taps[tap].is_weight}
    changed = {
        tap: value for tap in asked if not _is_above_blocks(side, tap) and (value := _changed(side, tap)) is not None
    }
    by_ends: dict[tuple[str, ...], list[str]] = {}
    for tap in changed:
        by_ends.setdefault(tuple(name for name in side.reads(LOGITS) if name != tap) or (LOGITS,), []).append(tap)
    blind = {tap for ends, taps in by_ends.items() for tap in _not_reaching(side, {t: changed[t] for t in taps}, ends)}
    return tuple(stage for tap, stage in asked.items() if tap in blind)


def _is_above_blocks(side: GraphSide, tap: str) -> bool:
    def has_block(name: str) -> bool:
        return split_tap_name(name)[0] is not None

    return not has_block(tap) and any(map(has_block, side.downstream(tap)))


def _changed(side: GraphSide, tap: str) -> np.ndarray | None:
    """The tap's value, with noise as large as it is; None where it has no numbers."""
    value = np.asarray(side.values[tap])
    if value.dtype.kind != "f":
        return None
    finite = value[np.isfinite(value) & (np.abs(value) < 1e30)]
    spread = float(np.sqrt(np.mean(finite**2))) if finite.size else 1.0
    noise = np.random.default_rng(0).standard_normal(value.shape)
    return (value + (spread or 1.0) * noise).astype(value.dtype)


def _not_reaching(side: GraphSide, changed: Values, ends: Sequence[str]) -> Iterator[str]:
    """The taps whose change, of each alone, leaves the ends as they were."""
    changes = [Change(given={tap: value}) for tap, value in changed.items()]
    _, *found = run_changed(side, changes, ends, "float32", side.values)
    for tap, after in zip(changed, found, strict=True):
        if isinstance(after, OpdiffError):
            raise after
        if all(np.array_equal(after[name], side.values[name]) for name in ends):
            yield tap


def blind_spots(side: GraphSide, tokens: Sequence[int], vocab_size: int) -> tuple[BlindSpot, ...]:
    """The stages that this input cannot show, with an input that was measured to show them."""
    stages = blind_stages(side)
    if not stages:
        return ()
    proposal = _proposal(tokens, vocab_size)
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
