"""What an input is too short for: a window that it does not fill, a context behind which RoPE's scaling changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..result import BlindSpot

_SCALED_BEHIND = (
    "dynamic",
    "longrope",
)  # the kinds that turn otherwise where positions reach behind the original context


def unreached(
    config: Mapping[str, object], n_tokens: int, first_position: int = 0, takes_positions: bool = False
) -> Iterator[BlindSpot]:
    """Blind spots of a decoder's recorded configuration, which may be any.

    Args:
        n_tokens: how many tokens the input has.
        first_position: that of the first of them.
        takes_positions: whether the graph could be fed others.
    """
    windows, scaling = config.get("windows"), config.get("rope_scaling")
    sizes = [one for one in windows if type(one) is int] if isinstance(windows, list | tuple) else []
    if sizes and n_tokens <= min(sizes):
        yield _window(sizes, n_tokens)
    if isinstance(scaling, Mapping) and scaling.get("kind") in _SCALED_BEHIND:
        context, end = scaling.get("original_context"), first_position + n_tokens
        if type(context) is int and end <= context:
            yield _scaling(str(scaling["kind"]), context, end, takes_positions)


def _window(sizes: Sequence[int], n_tokens: int) -> BlindSpot:
    """A window counts tokens, so that no offset reaches it."""
    these = " or ".join(map(str, sorted(set(sizes))))
    text = (
        f"the window of {these} tokens: the input has {n_tokens}, so a fault there cannot show. More than {min(sizes)} tokens "
        f"would show it, or both sides exported from a configuration with less than {n_tokens}; --position-offset would not, "
        "for a window counts tokens."
    )
    return BlindSpot(("attn_scores", "attn_probs"), text, None)


def _scaling(kind: str, context: int, end: int, takes_positions: bool) -> BlindSpot:
    graphs = "" if takes_positions else ", with graphs of opdiff export --positions"
    text = (
        f"RoPE's {kind} scaling behind {context} tokens: the input ends at position {end - 1}, so a fault there cannot show. "
        f"--position-offset {context} would show it{graphs}."
    )
    return BlindSpot(("q_rope", "k_rope"), text, None)
