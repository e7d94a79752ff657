"""The decoder that a graph shows which no file describes: its sizes, told by its stages, and its weights by their names.

The catalogue only needs where to begin: what a constant or a choice is, it finds out of A's own output, and says nothing where
that is not what it expects of such a decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ...graphs.adopt.flat import Flat
from ...graphs.decoder_config import DecoderConfig
from ...graphs.errors import InputError
from ...graphs.stages import LOGITS, split_tap_name, tap_name
from ..align.anchors import Anchor, anchors_of, root, with_bias
from ..conventions.linear import TENSORS
from ..conventions.norm import GAINS

_ROPE_BASE, _EPS, _CONTEXT = 10000.0, 1e-6, 1 << 20


@dataclass(frozen=True)
class Inferred:
    """A decoder's configuration, and its weights by the names that GGUF has for them, products' as [out, in]."""

    config: DecoderConfig
    weights: Mapping[str, np.ndarray]


def inferred_decoder(flat: Flat, stages: Mapping[str, str]) -> Inferred | None:
    """What a graph shows of its decoder; None where it shows none whose heads could be told.

    stages: for each tap, the value of the graph that it is.
    """
    weights = dict(_weights(flat, {root(flat, value)[0]: tap for tap, value in stages.items()}))
    shapes = {tap: flat.array(value).shape for tap, value in stages.items()}
    try:
        config = _config(shapes, weights)
    except InputError:  # sizes that are no decoder's
        return None
    return None if config is None else Inferred(config, weights)


def _config(shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, np.ndarray]) -> DecoderConfig | None:
    blocks = sorted({block for tap in shapes if (block := split_tap_name(tap)[0]) is not None})
    scores = next((shape for tap, shape in shapes.items() if split_tap_name(tap)[1] == "attn_scores"), ())
    if not blocks or len(scores) < 3 or LOGITS not in shapes:
        return None
    n_heads, n_tokens = scores[-3], scores[-2]

    def per_token(*names: str) -> int:
        """How many numbers the first of these stages that there is has for each token."""
        found = (shapes[tap] for block in blocks for stage in names if (tap := tap_name(stage, block)) in shapes)
        return int(np.prod(next(found, (0,)))) // n_tokens

    head_dim = per_token("q_proj", "q_norm", "q_rope") // n_heads
    if not head_dim:
        return None
    gain = next((array for name, array in weights.items() if name.endswith("attn_q_norm.weight")), None)
    return DecoderConfig(
        architecture="inferred",
        n_blocks=blocks[-1] + 1,
        width=per_token("attn_residual", "attn_norm", "o_proj"),
        n_heads=n_heads,
        n_kv_heads=per_token("k_proj", "k_norm", "k_rope") // head_dim,
        head_dim=head_dim,
        ffn_width=per_token("ffn_act", "ffn_up", "ffn_norm"),
        vocab_size=shapes[LOGITS][-1],
        context_length=_CONTEXT,
        rope_base=_ROPE_BASE,
        rms_norm_eps=_EPS,
        tied_head=False,
        qk_norm=gain is not None,
        attention_bias=any(name.endswith("attn_q.bias") for name in weights),
        qk_norm_over="head" if gain is None or gain.size == head_dim else "projection",
        gated=any(split_tap_name(tap)[1] == "ffn_gate" for tap in shapes),
    )


def _weights(flat: Flat, taps: Mapping[str, str]) -> Iterator[tuple[str, np.ndarray]]:
    """The weights of the steps that make a stage. taps: for values, before they are moved elsewhere, the stages that they are."""
    named: dict[str, Callable[[Anchor], str | None]] = {
        "product": lambda one: _named(taps.get(root(flat, with_bias(flat, one.y))[0]), TENSORS, "weight"),
        "bias": lambda one: _named(taps.get(root(flat, one.y)[0]), TENSORS, "bias"),
        "gain": lambda one: _named(taps.get(root(flat, one.y)[0]), GAINS, "weight"),
    }
    for anchor in anchors_of(flat):
        name = named[anchor.role](anchor) if anchor.role in named else None
        if name is not None:
            yield name, anchor.weight if anchor.role == "product" else anchor.weight.ravel()


def _named(tap: str | None, parts: Mapping[str, str], kind: str) -> str | None:
    """The tensor that makes a stage."""
    if tap is None:
        return None
    if tap == LOGITS:
        return f"output.{kind}" if parts is TENSORS else None
    block, stage = split_tap_name(tap)
    part = parts.get(stage)
    return None if part is None else f"{part}.{kind}" if block is None else f"blk.{block}.{part}.{kind}"
