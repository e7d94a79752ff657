"""A result in sentences, for whatever shows them: the headline, each cause in three lines or in full, the effect, the coverage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...graphs.positions import positions_text
from ...graphs.printable import shortened
from ...graphs.stages import LOGITS
from ..result import Effect, Latent, Result, RootCause
from .words import agreement_text, places

_SHOWN_SHARES = 6
_LONGEST = 300  # characters of an edit beside a name
_LONGEST_LINE = 320  # characters of what differs, where causes are told in three lines
WITHOUT_EFFECT = "Differs without effect on this input, which is no fault"
_SHOWN_LATENT = 5


def headline(result: Result) -> str:
    """The answer in one line."""
    pair = f"{result.a.name} (A: {result.a.runtime}) and {result.b.name} (B: {result.b.runtime})"
    if result.parity:
        return f"same: {pair} compute the same{_reservations(result)}"
    n, first = len(result.root_causes), result.first_divergence
    if first is None:
        return f"differ: {pair} have other logits; {result.closed.text}"
    regions = f"{len(result.divergences)} region{'' if len(result.divergences) == 1 else 's'}"
    return f"differ: {pair} part at {first}; {n} root cause{'' if n == 1 else 's'} in {regions}"


def _reservations(result: Result) -> str:
    """What a reader of "same" should know before taking it for all."""
    text = "" if all(row.propagated.max_abs == 0 for row in result.rows) else "; what differs is rounding"
    far = max((position.max_abs or 0.0 for position in result.positions), default=0.0)
    text += f", which adds up to {far:.2g} at the logits" if text and far else ""
    if result.cancelling:
        taps = [tap for group in result.cancelling for tap in group.split(", ")]
        text = f"{text}, but for {places(taps)}, which differ and agree in what reads them"
    if not any(row.tap == LOGITS for row in result.rows):
        text += "; but the logits were not compared"
    n_alone = len(result.only_a) + len(result.only_b)
    return text + (f"; {len(result.rows)} taps compared, {n_alone} that only one side has were not" if n_alone else "")


def logits_text(result: Result) -> str | None:
    """How far the logits are apart, and at how many positions the likeliest token is another; None where they are equal."""
    apart = [(p.max_abs, p.position) for p in result.positions if p.max_abs]
    if not apart:
        return None
    far, place = max(apart)
    others = sum(p.a_top[0][0] != p.b_top[0][0] for p in result.positions if p.a_top and p.b_top)
    text = f"logits: up to {far:.3g} apart, at position {place}"
    return text + (f"; another likeliest token at {others} of {len(result.positions)} positions" if others else "")


def short_lines(cause: RootCause, result: Result) -> tuple[str, ...]:
    """A cause in three lines at most: what differs; where, with its source line; what it does, and who is right."""
    what = shortened(cause.what, _LONGEST_LINE)
    if cause.also_fits:
        n = len(cause.also_fits)
        what += f" (this input cannot tell it from {n} other{'' if n == 1 else 's'})"
    where = f"at {places(cause.taps)}"
    if cause.source:
        where += f", {from_here(cause.source)}"
    if cause.a_source:
        where += f" (A: {from_here(cause.a_source)})"
    agreed = agreement_text(result.a.name, result.b.name, cause.reference_agrees_with)
    last = [text for text in (effect_number(cause.effect), agreed) if text]
    return (what, where, "; ".join(last)) if last else (what, where)


def effect_number(effect: Effect | None) -> str:
    """What mending a cause does to the logits, as one number; nothing where it was not measured."""
    if effect is None:
        return ""
    if effect.finite != "kept":
        return f"mended alone: {_FINITE.get(effect.finite, effect.finite)}"
    if not effect.changes_logits:
        return "mending it leaves the logits as they are"
    return f"mending it moves the logits by up to {effect.max_change:.3g}"


def detail_lines(cause: RootCause, result: Result) -> Iterator[str]:
    """All that is known of a cause beside its text, a line each."""
    if cause.source:
        yield f"B's line: {from_here(cause.source)}"
    if cause.a_source:
        yield f"A's line: {from_here(cause.a_source)}"
    first = next(d for d in result.divergences if d.tap == cause.taps[0])
    if first.b_node and first.b_node.name:
        beside = f": {'; and '.join(cause.edit)}" if cause.edit and cause.kind == "convention" else ""
        yield f"node {first.b_node.name}{shortened(beside, _LONGEST)}"
    if cause.effect is not None:
        yield f"effect on the logits: {effect_text(cause.effect)}{_shared_with(cause, result)}"
    without = [d.tap for d in result.divergences if d.tap in cause.taps and d.effect and is_without(d.effect)]
    if without and len(without) < len(cause.taps):
        yield f"without effect on this input: {places(without)}"
    if cause.harmless_at:
        yield f"computed the same two ways, but equal with these weights: {places(cause.harmless_at)}"
    if cause.also_fits:
        yield f"this input cannot tell it from: {'; '.join(cause.also_fits)}"


def _shared_with(cause: RootCause, result: Result) -> str:
    """Regions are mended whole: which other causes go with this one."""
    taps = set(cause.taps)
    others = [str(n) for n, one in enumerate(result.root_causes, 1) if one is not cause and taps & set(one.taps)]
    return f" (regions are mended whole, and cause {', '.join(others)} is in some of these too)" if others else ""


def is_without(effect: Effect) -> bool:
    """Whether mending leaves the logits as they are."""
    return not effect.changes_logits and effect.finite == "kept"


def effect_text(effect: Effect) -> str:
    """The share of the logits' difference that goes when this is mended, by position."""
    if effect.finite != "kept" or effect.finite_in_order != "kept":
        return _finite_text(effect)
    if not effect.changes_logits:
        return "none: mending it leaves them as they are"
    text = f"mended alone, it moves them by up to {effect.max_change:.3g}, and {_shares(effect.alone)} of the difference goes"
    if effect.in_order == effect.alone:
        return f"{text} (by position)"
    moved = f"after those before it, by up to {effect.max_change_in_order:.2g}"
    return f"{text}; {moved}, and {_shares(effect.in_order)} is gone (by position)"


_FINITE = {
    "kept": "mending it leaves them finite",
    "made": "mending it makes the logits finite",
    "lost": "mending it makes logits NaN or Inf",
    "unlike_a": "A's own logits hold NaN or Inf, so no share can be told",
    "neither": "logits hold NaN or Inf before it is mended and after, so no share can be told",
}


def _finite_text(effect: Effect) -> str:
    """The same, where logits are not finite."""
    alone = f"mended alone: {_FINITE.get(effect.finite, effect.finite)}"
    if effect.finite == effect.finite_in_order:
        return alone
    return f"{alone}; after those before it: {_FINITE.get(effect.finite_in_order, effect.finite_in_order)}"


def _shares(shares: Sequence[float | None]) -> str:
    """Each position's share; of many positions the least, the middle and the most; where all are one, that one."""
    known = sorted(share for share in shares if share is not None)
    if not known:
        return "-"
    if len(shares) > 1 and _share(known[0]) == _share(known[-1]):
        return _share(known[0])
    if len(shares) <= _SHOWN_SHARES:
        return ", ".join(map(_share, shares))
    return f"{_share(known[0])} to {_share(known[-1])}, at half of the positions more than {_share(known[len(known) // 2])},"


def _share(share: float | None) -> str:
    if share is None:
        return "-"
    percent = 100 * share
    if abs(percent) >= 0.1 or percent == 0:
        return f"{percent:.1f} %"
    return f"{percent:.0e} %"


def latent_lines(result: Result) -> tuple[str, ...]:
    """What differs without effect, a line each; the rest are counted."""
    lines = [_latent_line(one) for one in result.latent[:_SHOWN_LATENT]]
    n_more = len(result.latent) - len(lines)
    return (*lines, f"and {n_more} more, in the JSON") if n_more > 0 else tuple(lines)


def _latent_line(one: Latent) -> str:
    where = f"at {places(one.taps)}"
    if one.source:
        where += f", {from_here(one.source)}"
    if one.a_source and one.a_source != one.source:
        where += f" (A: {from_here(one.a_source)})"
    shown = f"shown by {one.shown_by}" if one.shown_by else "no input was found that shows it"
    return f"{shortened(one.text, _LONGEST_LINE)}; {where}; {shown}"


def from_here(source: str) -> str:
    """A source line, its path from the current folder where it lies below that."""
    path = Path(source)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else source


def coverage(result: Result) -> str:
    """How many taps were compared, at which positions, how they were matched, and what only one side has."""
    at = f" at {positions_text(result.first_position, len(result.tokens))}" if result.first_position else ""
    text = f"{len(result.rows)} taps compared{at}, matched by {result.matched_by}"
    for side, names in ((result.a, result.only_a), (result.b, result.only_b)):
        if names:
            text += f"; only in {side.name}: {places(names)}"
    return text
