"""What the dimensions of a tensor are, by its shape in a pass over a known number of tokens."""

from __future__ import annotations

from collections.abc import Sequence

BY_STAGE = {
    "router_logits": "token expert",
    "router_weights": "token choice",
    "expert_choice": "token choice",
    "logits": "token vocab",
    "attn_scores": "head token key",
    "attn_probs": "head token key",
}
_LONGEST_KERNEL = 8


def axes_of(stage: str, shape: Sequence[int], n_tokens: int, n_rows: int = 1) -> str:
    """One word for each dimension; a dimension that is neither plain nor known is called after its place.

    n_rows: how many prompts the pass ran beside each other.
    """
    words = BY_STAGE.get(stage, "").split()
    if len(words) == len(shape):
        return " ".join(words)
    if shape and len(words) + 1 == len(shape) and shape[0] == n_rows:
        return " ".join(["batch", *words])
    has_batch = len(shape) > 2 and shape[0] == n_rows
    rest = _rest(shape[has_batch:], n_tokens)
    return " ".join(["batch", *rest] if has_batch else rest)


def _rest(shape: Sequence[int], n_tokens: int) -> list[str]:
    """The words without the batch's: the tokens, channels at the end, heads between."""
    words = [f"axis{i}" for i in range(len(shape))]
    if words:
        words[-1] = "channel"
    if n_tokens in shape:
        words[list(shape).index(n_tokens)] = "token"
    if (
        len(words) == 2 and n_tokens != shape[0] and n_tokens <= shape[-1] < n_tokens + _LONGEST_KERNEL
    ):  # of a convolution
        words = ["channel", "token" if shape[-1] == n_tokens else "position"]
    if len(shape) == 3 and "token" in words[:2] and words[2] == "channel":
        words = ["head" if word.startswith("axis") else word for word in words]
    return words
