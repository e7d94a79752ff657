"""One step of decoding judged: a runtime's logits against a reference's, in the same context.

Everything is in nats, and in float64. A constant added to all of a side's logits changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...graphs.errors import InputError

Outcome = Literal["agree", "near_tie", "flip", "not_finite"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A side against one reference at one step.

    Args:
        outcome: `agree`, the side's likeliest token is the reference's; `near_tie`, it is another one, but neither the
            reference nor the side prefers its own to the other's by more than the references disagree; `flip`, it is
            another one; `not_finite`, one of the two has none, for a NaN or +Inf is among its logits.
        token: the side's likeliest.
        rank: the reference's of that token, from 1.
        margin: how much the reference prefers its own likeliest to the side's.
        side_margin: how much the side prefers its own.
        disagreement: of the references, as `disagreement` has it; None where they agree, or there is no other reference.
        kl: of the side from the reference, over the whole vocabulary; None where not finite.
    """

    side: str
    reference: str
    outcome: Outcome
    token: int | None
    rank: int | None
    margin: float | None
    side_margin: float | None
    disagreement: float | None
    kl: float | None


def judged(
    side: str, values: np.ndarray, reference: str, logits: np.ndarray, others: Sequence[np.ndarray] = ()
) -> Judgement:
    """Judge a side's log-probabilities by a reference's.

    Where several tokens share the largest value, the side's likeliest is the one among them that the reference prefers,
    so that an exact tie is never a difference.

    Args:
        values, logits: [vocabulary], from `log_probabilities`.
        others: the same of the other references.
    """
    if np.isnan(values).any() or np.isnan(logits).any():
        return Judgement(side, reference, "not_finite", None, None, None, None, None, None)
    largest = np.flatnonzero(values == values.max())
    token, first = int(largest[np.argmax(logits[largest])]), int(np.argmax(logits))
    margin, side_margin = float(logits[first] - logits[token]), float(values[token] - values[first])
    rank, kl = 1 + int(np.count_nonzero(logits > logits[token])), kl_divergence(logits, values)
    if margin == 0:
        return Judgement(side, reference, "agree", token, rank, margin, side_margin, None, kl)
    noise = max((disagreement(logits, other, first, token) for other in others), default=None)
    excused = noise is not None and max(margin, side_margin) <= noise
    return Judgement(side, reference, "near_tie" if excused else "flip", token, rank, margin, side_margin, noise, kl)


def disagreement(reference: np.ndarray, other: np.ndarray, a: int, b: int) -> float:
    """How far two references differ, at this step, on how much one token is preferred to another.

    It is the root mean square over all pairs of tokens. Only where the other reference's own likeliest token is b, so
    that the references part on a and b themselves, it is their difference on this pair, if that is larger. On any other
    pair one that is far off would excuse whatever it happens to rank higher.

    Args:
        a: the reference's likeliest token. b: the side's.
    """
    both = np.isfinite(reference) & np.isfinite(other)
    typical = float(np.sqrt(2) * np.std((reference - other)[both]))
    if other[b] < other.max():
        return typical
    return max(typical, float(reference[a] - reference[b] + other[b] - other[a]))


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Log-softmax, float64 [vocabulary]; all NaN where one is NaN or +Inf, or all are -Inf. -Inf is a probability of 0."""
    values = logits.astype(np.float64)
    if np.isnan(values).any() or not np.isfinite(values.max()):
        return np.full(values.shape, np.nan)
    values -= values.max()
    return np.asarray(values - np.log(np.exp(values).sum()))


def reference_log_probabilities(name: str, logits: np.ndarray, where: str) -> np.ndarray:
    """The same of a reference, by which nothing can be judged where it is not finite.

    Raises:
        InputError: NaN or +Inf among them.
    """
    values = log_probabilities(logits)
    if np.isnan(values).any():
        raise InputError(f"{name}: its logits are not finite ({where}), so it can judge nothing; leave it out")
    return values


def kl_divergence(reference: np.ndarray, side: np.ndarray) -> float:
    """Sum of p (log p - log q) with p the reference's, over tokens that have a probability in float32.

    Inf where such a token has none in the side. Both are log-probabilities.
    """
    possible = np.exp(reference.astype(np.float32)) > 0
    p, q = reference[possible], side[possible]
    return max(0.0, float(np.sum(np.exp(p) * (p - q))))


@dataclass(frozen=True, slots=True)
class Tally:
    """A side against one reference over all steps. kl_mean and kl_max are over the finite steps; None: there are none."""

    side: str
    reference: str
    n_steps: int
    n_agree: int
    n_near_ties: int
    n_flips: int
    n_not_finite: int
    kl_mean: float | None
    kl_max: float | None

    @property
    def passes(self) -> bool:
        """Whether every step agrees or is a near-tie."""
        return self.n_agree + self.n_near_ties == self.n_steps


def tallied(judgements: Sequence[Judgement]) -> tuple[Tally, ...]:
    """One tally for each side and reference, in the order in which they first come."""
    groups: dict[tuple[str, str], list[Judgement]] = {}
    for judgement in judgements:
        groups.setdefault((judgement.side, judgement.reference), []).append(judgement)
    return tuple(_tally(*key, group) for key, group in groups.items())


def _tally(side: str, reference: str, judgements: Sequence[Judgement]) -> Tally:
    outcomes = [one.outcome for one in judgements]
    kls = [one.kl for one in judgements if one.kl is not None]
    return Tally(
        side=side,
        reference=reference,
        n_steps=len(judgements),
        n_agree=outcomes.count("agree"),
        n_near_ties=outcomes.count("near_tie"),
        n_flips=outcomes.count("flip"),
        n_not_finite=outcomes.count("not_finite"),
        kl_mean=float(np.mean(kls)) if kls else None,
        kl_max=max(kls, default=None),
    )
