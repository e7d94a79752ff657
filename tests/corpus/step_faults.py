"""Mistakes that only steps show, put into one block of an HF model: its cache, its positions in later steps, its masks.

Each fault wraps what transformers itself calls: the cache layer's `update`, or the attention's `forward`. Nothing of it is shared with
the catalogue of conventions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from corpus.models import N_BLOCKS
from opdiff import past, tap

N_SLOTS = 16  # of a cache of a fixed size
STEPS = {"first": 0, "middle": 6, "last": 9}  # at which position they begin, of single tokens or of three
STORE = "batch head place channel"


class Layer(DynamicLayer):
    """transformers' growing cache; a fault changes what is stored, or what is read."""

    block = 0

    def update(self, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys, self.values = self.grown("k", self.keys, k), self.grown("v", self.values, v)
        return self.keys, self.values

    def grown(self, what: str, before: Tensor, new: Tensor) -> Tensor:
        """The rows of all steps [B, KV, K, D]."""
        return torch.cat((before, new), -2)


class Slots(Layer):
    """A cache of a fixed size, whose rows are written at slots."""

    def grown(self, what: str, before: Tensor, new: Tensor) -> Tensor:
        n_before, n = before.shape[-2], new.shape[-2]
        rows, heads, dim = new.shape[0], new.shape[1], new.shape[3]
        name = f"blk.{self.block}.{what}_store"
        store = past(name, torch.zeros(rows, heads, N_SLOTS, dim))
        places = self.slots(torch.arange(n_before, n_before + n), n_before)
        store = tap(name, store.index_copy(2, places, new), STORE)
        return store[:, :, : n_before + n]

    def slots(self, positions: Tensor, n_before: int) -> Tensor:
        """Where rows of these positions go."""
        return positions


@dataclass(frozen=True)
class StepFault:
    """One mistake. `stages` is every region whose local error is real; `schedule` shows it.

    layer: the cache layer of the block; attend: wraps the attention's forward.
    """

    name: str
    stages: frozenset[str]
    schedule: str
    convention: str | None
    layer: type[Layer] = Layer
    attend: Callable[[Any, int], None] | None = field(default=None, repr=False)

    def put_into(self, model: Any, block: int) -> Callable[[Any], Any]:
        """Patch the model; what makes its cache."""
        if self.attend is not None:
            self.attend(model, block)
        layer = type(self.layer.__name__, (self.layer,), {"block": block})

        def make(config: Any) -> Any:
            layers = [layer() if n == block else DynamicLayer() for n in range(N_BLOCKS)]
            return transformers.cache_utils.Cache(layers=layers)

        return make


STEP_FAULTS: dict[str, StepFault] = {}


def of_layer(
    name: str, stages: str, schedule: str, convention: str | None = None
) -> Callable[[type[Layer]], type[Layer]]:
    """Register a cache layer as a fault."""

    def register(layer: type[Layer]) -> type[Layer]:
        STEP_FAULTS[name] = StepFault(name, frozenset(stages.split()), schedule, convention, layer)
        return layer

    return register


def of_attention(
    name: str, stages: str, schedule: str, convention: str | None = None, layer: type[Layer] = Layer
) -> Any:
    """Register a function of what the attention is given as a fault: it gets and gives the keyword arguments."""

    def register(change: Callable[..., dict[str, Any]]) -> Any:
        def attend(model: Any, block: int) -> None:
            attention = model.model.layers[block].self_attn
            forward = attention.forward

            def faulty(hidden_states: Tensor, **given: Any) -> Any:
                n_before = given["past_key_values"].layers[block].keys.shape[-2]
                return forward(
                    hidden_states=hidden_states, **{**given, **change(model, hidden_states, n_before, given)}
                )

            attention.forward = faulty

        STEP_FAULTS[name] = StepFault(name, frozenset(stages.split()), schedule, convention, layer, attend)
        return change

    return register


def at_positions(model: Any, hidden: Tensor, positions: Tensor) -> dict[str, Any]:
    """The rotary tables of other positions."""
    return {"position_embeddings": model.model.rotary_emb(hidden, positions.expand(hidden.shape[0], -1))}


def is_later(n_before: int) -> Tensor:
    """Whether this is a later step, as a tensor: [1]."""
    return torch.arange(n_before, n_before + 1) > 0


def is_step_at(n_before: int, position: int) -> Tensor:
    """Whether this step begins at a position: [1]."""
    return torch.arange(n_before, n_before + 1) == position


# Positions


@of_attention("positions_from_0_in_each_step", "q_rope k_rope", "chunks:4", "rope.positions")
def _(model: Any, hidden: Tensor, n_before: int, given: dict) -> dict:
    return at_positions(model, hidden, torch.arange(hidden.shape[1])[None])


@of_attention("positions_one_behind_in_later_steps", "q_rope k_rope", "each", "rope.positions")
def _(model: Any, hidden: Tensor, n_before: int, given: dict) -> dict:
    return at_positions(model, hidden, given["position_ids"] - is_later(n_before).long())


@of_attention("positions_two_ahead_in_later_steps", "q_rope k_rope", "4+1+1+4", "rope.positions")
def _(model: Any, hidden: Tensor, n_before: int, given: dict) -> dict:
    return at_positions(model, hidden, given["position_ids"] + 2 * is_later(n_before).long())


@of_attention("all_tokens_of_a_step_at_one_position", "q_rope k_rope", "chunks:3", "rope.positions")
def _(model: Any, hidden: Tensor, n_before: int, given: dict) -> dict:
    return at_positions(model, hidden, given["position_ids"][:, :1].expand(-1, hidden.shape[1]))


for _which, _at in STEPS.items():

    @of_attention(f"position_wrong_in_the_{_which}_step", "q_rope k_rope", "each")
    def _(model: Any, hidden: Tensor, n_before: int, given: dict, at: int = _at) -> dict:
        return at_positions(model, hidden, given["position_ids"] + 3 * is_step_at(n_before, at).long())


@of_attention("positions_count_padding", "q_rope k_rope", "pad-left:3,chunks:4", "rope.offset")
def _(model: Any, hidden: Tensor, n_before: int, given: dict) -> dict:
    return at_positions(model, hidden, torch.arange(n_before, n_before + hidden.shape[1])[None])


@of_attention("positions_count_padding_in_later_steps", "q_rope k_rope", "pad-left:3,chunks:5", "rope.positions")
def _(model: Any, hidden: Tensor, n_before: int, given: dict) -> dict:
    counted = torch.arange(n_before, n_before + hidden.shape[1])[None]
    return at_positions(model, hidden, torch.where(is_later(n_before), counted, given["position_ids"]))


# What is stored


@of_layer("written_one_slot_early", "k_cache v_cache", "each", "cache.slot")
class _(Slots):
    def slots(self, positions: Tensor, n_before: int) -> Tensor:
        return positions - is_later(n_before).long()


@of_layer("written_one_slot_late", "k_cache v_cache", "3+1+1+1+4", "cache.slot")
class _(Slots):
    def slots(self, positions: Tensor, n_before: int) -> Tensor:
        return positions + is_later(n_before).long()


@of_layer("written_to_the_first_slots", "k_cache v_cache", "chunks:2", "cache.slot")
class _(Slots):
    def slots(self, positions: Tensor, n_before: int) -> Tensor:
        return positions - n_before


@of_layer("ring_wraps_too_early", "k_cache v_cache", "each", "cache.ring")
class _(Slots):
    def slots(self, positions: Tensor, n_before: int) -> Tensor:
        return positions % 7


@of_layer("ring_wraps_too_early_in_chunks", "k_cache v_cache", "chunks:3", "cache.ring")
class _(Slots):
    def slots(self, positions: Tensor, n_before: int) -> Tensor:
        return positions % 8


@of_layer("keys_alone_one_slot_early", "k_cache", "5+1+1+1+1+1", "cache.slot")
class _(Slots):
    def grown(self, what: str, before: Tensor, new: Tensor) -> Tensor:
        return super().grown(what, before, new) if what == "k" else Layer.grown(self, what, before, new)

    def slots(self, positions: Tensor, n_before: int) -> Tensor:
        return positions - is_later(n_before).long()


@of_layer("a_cache_of_a_fixed_size", "", "each")
class _(Slots):
    """No fault."""


for _which, _at in STEPS.items():

    @of_layer(f"the_{_which}_step_is_not_stored", "k_cache v_cache", "each")
    class _(Layer):
        at = _at

        def grown(self, what: str, before: Tensor, new: Tensor) -> Tensor:
            return torch.cat((before, torch.where(is_step_at(before.shape[-2], self.at), 0.0, new)), -2)


@of_layer("the_first_step_is_stored_in_float16", "k_cache v_cache", "4+1+1+4")
class _(Layer):
    def grown(self, what: str, before: Tensor, new: Tensor) -> Tensor:
        first = is_step_at(before.shape[-2], 0)
        return torch.cat((before, torch.where(first, new.half().float(), new)), -2)


@of_layer("heads_swapped_in_later_steps", "k_cache v_cache", "each")
class _(Layer):
    def grown(self, what: str, before: Tensor, new: Tensor) -> Tensor:
        return torch.cat((before, torch.where(is_later(before.shape[-2]), new.flip(1), new)), -2)


def _in_type(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda x: x.to(dtype).float()


def _q8_0(x: Tensor) -> Tensor:
    """Rows [B, KV, T, D] in blocks of 32 along a token's heads."""
    rows = x.transpose(1, 2)
    blocks = rows.reshape(rows.shape[0], -1, 32)
    step = blocks.abs().amax(-1, keepdim=True) / 127
    whole = blocks / step.clamp(min=1e-30)
    quants = torch.sign(whole) * torch.floor(whole.abs() + 0.5)
    return (quants * step.half().float()).reshape(rows.shape).transpose(1, 2)


for _name, _round, _what in (
    ("float16", _in_type(torch.float16), "kv"),
    ("bfloat16", _in_type(torch.bfloat16), "kv"),
    ("q8_0", _q8_0, "kv"),
    ("bfloat16_values", _in_type(torch.bfloat16), "v"),
):

    class _Rounded(Layer):
        rounding, kept = staticmethod(_round), _what

        def grown(self, what: str, before: Tensor, new: Tensor) -> Tensor:
            return torch.cat((before, self.rounding(new) if what in self.kept else new), -2)

    of_layer(f"cache_in_{_name}", " ".join(f"{what}_cache" for what in _what), "chunks:3", "cache.precision")(_Rounded)


# How keys are rotated


def _turned(model_rope: Any, keys: Tensor, factor: float = 1.0) -> Tensor:
    n = keys.shape[-2]
    cos, sin = model_rope(keys, torch.arange(n)[None].float() * factor)
    half = keys.shape[-1] // 2
    a, b = keys[..., :half], keys[..., half:]
    return keys * cos[:, None] + torch.cat((-b, a), -1) * sin[:, None]


class _Rope(torch.nn.Module):
    """Angles of Qwen3's base over 16 channels."""

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        speeds = 1_000_000.0 ** (-torch.arange(0, 16, 2, dtype=torch.float32) / 16)
        angles = positions[..., None] * speeds
        angles = torch.cat((angles, angles), -1)
        return angles.cos(), angles.sin()


class _Reading(Layer):
    """Stores keys as they are, and reads them changed, with `n_more` rows that are none of ours."""

    n_more = 0

    def get_seq_length(self) -> int:
        """What HF counts positions and makes masks by, where the layer is that of the first block."""
        return max(self.keys.shape[-2] - self.n_more, 0)

    def update(self, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        n_before, name = self.keys.shape[-2], f"blk.{self.block}.k_store"
        store = past(name, k[:, :, :0])
        store = tap(name, torch.cat((store, k), -2), "batch head grown channel")
        self.keys, self.values = self.read(store, n_before), torch.cat((self.values, v), -2)
        return self.keys, self.values

    def read(self, store: Tensor, n_before: int) -> Tensor:
        return store


@of_layer("keys_rotated_again_when_read", "k_cache", "each", "cache.rotation")
class _(_Reading):
    def read(self, store: Tensor, n_before: int) -> Tensor:
        return _turned(_Rope(), store)


@of_layer("keys_rotated_again_in_each_step", "k_cache", "chunks:4", "cache.rotation")
class _(Layer):
    def grown(self, what: str, before: Tensor, new: Tensor) -> Tensor:
        return torch.cat((_turned(_Rope(), before) if what == "k" else before, new), -2)


@of_layer("keys_stored_unrotated", "k_cache", "each", "cache.rotation")
class _(_Reading):
    def read(self, store: Tensor, n_before: int) -> Tensor:
        return _turned(_Rope(), store, -1.0)


@of_layer("keys_rotated_at_read_one_position_too_far", "k_cache", "each", "cache.rotation")
class _(_Reading):
    def read(self, store: Tensor, n_before: int) -> Tensor:
        cos, sin = _Rope()(store, torch.ones(1, 1))
        a, b = store[..., :8], store[..., 8:]
        return store * cos[:, None] + torch.cat((-b, a), -1) * sin[:, None]


# What is attended to


def _masked(mask: Tensor, hidden_where: Tensor) -> dict:
    return {"attention_mask": torch.where(hidden_where, torch.finfo(torch.float32).min, mask)}


def _places(hidden: Tensor, n_before: int) -> tuple[Tensor, Tensor]:
    n = hidden.shape[1]
    return torch.arange(n_before, n_before + n)[:, None], torch.arange(n_before + n)[None]


@of_attention("mask_aligned_at_the_top_left", "attn_scores", "chunks:4", "attention.mask")
def _(model: Any, hidden: Tensor, n_before: int, given: dict) -> dict:
    query, key = _places(hidden, n_before)
    return _masked(torch.zeros(1, 1, 1, 1), (key > query - n_before)[None, None])


@of_attention("the_past_is_not_seen", "attn_scores", "chunks:4", "attention.mask")
def _(model: Any, hidden: Tensor, n_before: int, given: dict) -> dict:
    _, key = _places(hidden, n_before)
    return _masked(given["attention_mask"], (key < n_before)[None, None])


@of_attention("the_new_key_is_not_seen", "attn_scores", "5+1+1+1+1+1", "attention.mask")
def _(model: Any, hidden: Tensor, n_before: int, given: dict) -> dict:
    _, key = _places(hidden, n_before)
    return _masked(given["attention_mask"], ((key >= n_before) & is_later(n_before)[0])[None, None])


@of_attention("a_window_of_4_in_steps", "attn_scores", "each", "attention.window")
def _(model: Any, hidden: Tensor, n_before: int, given: dict) -> dict:
    query, key = _places(hidden, n_before)
    return _masked(given["attention_mask"], (key <= query - 4)[None, None])


for _which, _at in STEPS.items():

    @of_attention(f"the_{_which}_step_does_not_see_the_first_key", "attn_scores", "chunks:3")
    def _(model: Any, hidden: Tensor, n_before: int, given: dict, at: int = _at) -> dict:
        _, key = _places(hidden, n_before)
        return _masked(given["attention_mask"], ((key == 0) & is_step_at(n_before, at))[None, None])


@of_attention("padding_is_attended_to", "attn_scores", "pad-left:3", None)
def _(model: Any, hidden: Tensor, n_before: int, given: dict) -> dict:
    query, key = _places(hidden, n_before)
    return _masked(torch.zeros(1, 1, 1, 1), (key > query)[None, None])


@of_attention("padding_is_attended_to_in_later_steps", "attn_scores", "pad-left:3,chunks:5", None)
def _(model: Any, hidden: Tensor, n_before: int, given: dict) -> dict:
    return {"attention_mask": torch.where(is_later(n_before), 0.0, given["attention_mask"])}


class _Unwritten(_Reading):
    """An empty slot behind the rows, which is attended to."""

    n_more = 1

    def read(self, store: Tensor, n_before: int) -> Tensor:
        return torch.cat((store, torch.zeros_like(store[:, :, :1])), -2)

    def update(self, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        name = f"blk.{self.block}.v_store"
        store = tap(name, torch.cat((past(name, v[:, :, :0]), v), -2), "batch head grown channel")
        keys, _ = super().update(k, v)
        return keys, torch.cat((store, torch.zeros_like(v[:, :, :1])), -2)


@of_attention("an_unwritten_slot_is_attended_to", "attn_scores", "each", None, _Unwritten)
def _(model: Any, hidden: Tensor, n_before: int, given: dict) -> dict:
    mask = given["attention_mask"]
    return {"attention_mask": torch.cat((mask, torch.zeros_like(mask[..., :1])), -1)}


def _stale(store: Tensor) -> Tensor:
    """A row [B, KV, 1, D] that another prompt left."""
    return torch.linspace(-1.5, 1.5, store.shape[-1]).cos().expand(*store.shape[:2], 1, -1)


class _StaleBefore(_Reading):
    """A row of another prompt before ours, which nobody cleared away."""

    n_more = 1

    def read(self, store: Tensor, n_before: int) -> Tensor:
        return torch.cat((_stale(store), store), -2)

    def update(self, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        name = f"blk.{self.block}.v_store"
        store = tap(name, torch.cat((past(name, v[:, :, :0]), v), -2), "batch head grown channel")
        keys, _ = super().update(k, v)
        return keys, self.read(store, 0)


class _StaleBehind(_StaleBefore):
    """The same behind ours, in a slot that we have not come to."""

    def read(self, store: Tensor, n_before: int) -> Tensor:
        return torch.cat((store, _stale(store)), -2)


@of_attention("a_row_of_an_earlier_prompt_before_ours", "k_cache v_cache attn_scores", "each", None, _StaleBefore)
def _(model: Any, hidden: Tensor, n_before: int, given: dict) -> dict:
    return {"attention_mask": torch.nn.functional.pad(given["attention_mask"], (1, 0))}


@of_attention("a_row_of_an_earlier_prompt_behind_ours", "attn_scores", "each", None, _StaleBehind)
def _(model: Any, hidden: Tensor, n_before: int, given: dict) -> dict:
    return {"attention_mask": torch.nn.functional.pad(given["attention_mask"], (0, 1))}


@of_layer("rows_of_the_batch_mixed_up", "k_cache v_cache", "batch:3")
class _(Layer):
    def grown(self, what: str, before: Tensor, new: Tensor) -> Tensor:
        return torch.cat((before, new.roll(1, 0)), -2)


@of_layer("rows_of_the_batch_mixed_up_in_later_steps", "k_cache", "batch:2,4+3+3")
class _(Layer):
    def grown(self, what: str, before: Tensor, new: Tensor) -> Tensor:
        later = is_later(before.shape[-2])
        return torch.cat((before, torch.where(later, new.roll(1, 0), new) if what == "k" else new), -2)
