"""What an input is too short for: a window that it does not fill, a context behind which RoPE's scaling changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..result import BlindSpot

_SCALED_BEHIND = (
    "dynamic",
    "longrope",
)  # the kinds that turn otherwise where there are more tokens than the original context


def unreached(config: Mapping[str, object], n_tokens: int) -> Iterator[BlindSpot]:
    """Blind spots of a decoder's recorded configuration, which may be any.

    Args:
        n_tokens: how many tokens the input has.
    """
    windows = config.get("windows")
    sizes = [one for one in windows if type(one) is int] if isinstance(windows, list | tuple) else []
    if sizes and n_tokens <= min(sizes):
        yield _spot(("attn_scores", "attn_probs"), f"the window of {_these(sizes)} tokens", min(sizes), n_tokens)
    scaling = config.get("rope_scaling")
    if isinstance(scaling, Mapping) and scaling.get("kind") in _SCALED_BEHIND:
        context = scaling.get("original_context")
        if type(context) is int and n_tokens <= context:
            yield _spot(
                ("q_rope", "k_rope"), f"RoPE's {scaling['kind']} scaling behind {context} tokens", context, n_tokens
            )


def _spot(stages: tuple[str, ...], what: str, reach: int, n_tokens: int) -> BlindSpot:
    text = (
        f"{what}: the input has {n_tokens}, so a fault there cannot show. More than {reach} tokens would show it, or both sides "
        f"exported from a configuration with less than {n_tokens}."
    )
    return BlindSpot(stages, text, None)


def _these(sizes: Sequence[int]) -> str:
    return " or ".join(map(str, sorted(set(sizes))))
