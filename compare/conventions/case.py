"""What one region offers to the catalogue: A's values, the weights, the configuration, the tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...graphs.decoder_config import DecoderConfig
from ...graphs.errors import ShapeError
from ...graphs.stages import CACHES, split_tap_name, tap_name

Array = NDArray[np.float64]
QUERY_STAGES = ("q_proj", "q_norm", "q_rope", "attn_context")
KEY_STAGES = ("k_proj", "k_norm", "k_rope", "v_proj")
MAP_STAGES = ("attn_scores", "attn_probs")


class Weights(Protocol):
    """The checkpoint's tensors by GGUF name, read when asked for: `blk.0.attn_q.weight` [out, in]."""

    def __contains__(self, name: object, /) -> bool: ...
    def __getitem__(self, name: str, /) -> NDArray[Any]: ...


Multiply = Callable[[Array, NDArray[Any]], Array]


def in_float64(x: Array, weight: NDArray[Any]) -> Array:
    """x [T, in] times a weight [out, in], which is promoted whole."""
    return x @ np.asarray(weight, np.float64).T


@dataclass(frozen=True, slots=True)
class Case:
    """One region: the tap at which it ends, and all that may be read to predict that tap's value.

    Args:
        stage, block: the target tap; block is None outside of the blocks.
        values: A's values by tap name, in canonical axes without the batch axis, or flattened; the target is not read.
        weights: the checkpoint's tensors by GGUF name; any float dtype, `[out, in]`.
        config: the decoder's configuration.
        tokens: int64 [T].
        first_position: that of the first token, for RoPE and a table of positions; elsewhere positions count the tokens from 0.
        spans: the positions of each step, (start, end), where the tokens are fed in several.
        ends: at which positions caches are looked at; with `spans`.
        n_others: how many columns that are no position stand behind the keys of scores and probabilities.
        has_cache: whether what attention reads of all steps is a stage.
        multiply: x [T, in] in float64 with a weight [out, in] of any float dtype: [T, out].
    """

    stage: str
    block: int | None
    values: Mapping[str, NDArray[Any]]
    weights: Weights
    config: DecoderConfig
    tokens: NDArray[np.int64]
    multiply: Multiply = in_float64
    spans: tuple[tuple[int, int], ...] = ()
    ends: tuple[int, ...] = ()
    has_cache: bool = False
    n_others: int = 0
    first_position: int = 0

    @property
    def steps(self) -> tuple[tuple[int, int], ...]:
        """The positions of each step, (start, end)."""
        return self.spans or ((0, len(self.tokens)),)

    @property
    def is_fed_whole(self) -> bool:
        """Whether all tokens are fed at once, and nothing is kept for a later step."""
        return not (self.spans or self.ends or self.has_cache or self.n_others)

    @property
    def end(self) -> int:
        """The position behind the last token: how many tokens there are, or seem to be, from position 0 on."""
        return self.first_position + len(self.tokens)

    @property
    def looked_at(self) -> tuple[int, ...]:
        """At which positions caches are looked at."""
        return self.ends or (len(self.tokens),)

    @property
    def target(self) -> str:
        """The name of the tap at which the region ends."""
        return tap_name(self.stage, self.block)

    def shape(self, stage: str) -> tuple[int, ...]:
        """The canonical shape of a stage's value."""
        config, length = self.config, len(self.tokens)
        if stage in QUERY_STAGES:
            return (length, config.n_heads, config.head_dim)
        if stage in KEY_STAGES:
            return (length, config.n_kv_heads, config.head_dim)
        if stage in CACHES:
            return (sum(self.looked_at), config.n_kv_heads, config.head_dim)
        if stage in MAP_STAGES:
            return (config.n_heads, length, length + self.n_others)
        if stage == "router_logits" and config.experts is not None:
            return (length, config.experts.count)
        if stage in ("expert_choice", "router_weights") and config.experts is not None:
            return (length, config.experts.chosen)
        if stage in ("ffn_gate", "ffn_up", "ffn_act"):
            return (length, config.ffn_width)
        return (length, config.vocab_size if stage == "logits" else config.width)

    def canonical(self, stage: str, value: NDArray[Any]) -> Array:
        """A stage's value in float64 and in its canonical shape.

        Raises:
            ShapeError: it has another number of elements.
        """
        return np.asarray(self._in_shape(stage, value), np.float64)

    def _in_shape(self, stage: str, value: NDArray[Any]) -> NDArray[Any]:
        shape = self.shape(stage)
        if value.size != np.prod(shape):
            raise ShapeError(f"{stage}: a value of shape {value.shape} cannot be read as {shape}; check the axes")
        return value.reshape(shape)

    def beginning(self, n: int) -> Case:
        """The same for the first `n` tokens, which are fed at once."""
        return replace(self, tokens=self.tokens[:n], values=_Beginning(self, n))

    def of_first(self, stage: str, value: NDArray[Any], n: int) -> NDArray[Any]:
        """What a stage's value has of the first `n` tokens, in its canonical shape.

        Raises:
            ShapeError: it has another number of elements.
        """
        value = self._in_shape(stage, value)
        return value[:, :n, :n] if stage in MAP_STAGES else value[:n]

    def others(self, part: str) -> Iterator[str]:
        """The names of the tensor `part` (`attn_q.weight`) in the other blocks that have it."""
        for block in range(self.config.n_blocks):
            name = f"blk.{block}.{part}"
            if block != self.block and name in self.weights:
                yield name


class _Beginning(Mapping[str, NDArray[Any]]):
    """What a case's values have of the first `n` tokens."""

    def __init__(self, case: Case, n: int) -> None:
        self._case, self._n = case, n

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._case.of_first(split_tap_name(name)[1], self._case.values[name], self._n)

    def __iter__(self) -> Iterator[str]:
        return iter(self._case.values)

    def __len__(self) -> int:
        return len(self._case.values)

    def __contains__(self, name: object) -> bool:
        return name in self._case.values
