"""What an HF folder's config.json holds, read field by field."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...graphs.decoder_config import MOST_BLOCKS, RopeScaling
from ...graphs.errors import InputError
from ...graphs.weights import WeightFile
from .metadata import shortest
from .shapes import missing

SLIDING, FULL = "sliding_attention", "full_attention"
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu2": "relu2",
    "xielu": "xielu",
}


class Unsupported(InputError):
    """A decoder that may be whole, and that opdiff's own decoder does not cover."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Reads the fields; `names` has what the family calls otherwise: `hidden_size` is GPT-2's `n_embd`.

    files: the file of each tensor, for the few settings that are tensors.
    """

    values: Mapping[str, object]
    names: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, WeightFile] = field(default_factory=dict)

    def get(self, key: str) -> object:
        return self.values.get(self.names.get(key, key))

    def count(self, key: str, default: int | None = None) -> int:
        value = self.get(key)
        value = default if value is None else value
        if type(value) is not int or value < 1:
            raise self._senseless(key, value, "a positive whole number")
        if key == "num_hidden_layers" and value > MOST_BLOCKS:
            raise self._senseless(key, value, f"{MOST_BLOCKS} at most")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key)
        return _number(self.names.get(key, key), default if value is None else value)

    def optional_number(self, key: str) -> float | None:
        return None if self.get(key) is None else self.number(key)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(self.names.get(key, key), default)
        if not isinstance(value, bool):
            raise self._senseless(key, value, "true or false")
        return value

    def refuse(self, key: str, what: str, *allowed: object) -> None:
        """Raise InputError where a field has another value than those that are covered."""
        if self.get(key) not in allowed:
            raise unsupported(what, self.names.get(key, key), self.get(key))

    def activation(self, key: str = "hidden_act", default: str = "silu") -> str:
        name = self.values.get(self.names.get(key, key), default)
        if not isinstance(name, str) or name not in _ACTIVATIONS:
            raise unsupported("this activation", key, name)
        return _ACTIVATIONS[name]

    def windows(self, in_use: bool = True, every: int | None = None, first: int = 0) -> tuple[int | None, ...]:
        """The blocks' windows; `layer_types` has the last word, as in transformers.

        Args:
            in_use: whether there are any where `layer_types` does not say.
            every: then each `every`-th block has none; None: all have one from the block `first` on.
        """
        n_blocks = self.count("num_hidden_layers")
        kinds = self.get("layer_types")
        if not isinstance(kinds, list):
            uses = in_use and self.get("sliding_window") is not None
            full = [n < first or (every is not None and (n + 1) % every == 0) for n in range(n_blocks)]
            kinds = [FULL if is_full or not uses else SLIDING for is_full in full]
        other = next((kind for kind in kinds if kind not in (SLIDING, FULL)), None)
        if other is not None:
            raise unsupported("this kind of attention", "layer_types", other)
        if SLIDING not in kinds:
            return ()
        window = self.count("sliding_window")
        return tuple(window if kind == SLIDING else None for kind in kinds)

    def of_blocks(self, part: str) -> tuple[float, ...]:
        """The number that each block has as a tensor: `mlp.act_fn.beta`."""
        return tuple(self._stored(f"model.layers.{n}.{part}") for n in range(self.count("num_hidden_layers")))

    def _stored(self, name: str) -> float:
        if name not in self.files:
            raise missing(name)
        value = self.files[name][name]
        if value.size != 1:
            raise InputError(f"tensor {name} has shape {value.shape}, where one number is needed; download it again")
        return shortest(float(value.reshape(1)[0]))

    def rope(self, kind: str = FULL) -> Mapping[str, object]:
        """RoPE's parameters in blocks of a kind: `rope_parameters` in transformers 5; in 4 `rope_scaling`, or nothing."""
        for key in ("rope_parameters", "rope_scaling"):
            value = self.values.get(key)
            if value is not None and not isinstance(value, dict):
                raise InputError(f"{key} is {value!r:.80}, not a table; download the checkpoint again")
            if value:
                inner = value.get(kind, value)
                if not isinstance(inner, dict) or any(isinstance(one, dict) for one in inner.values()):
                    raise unsupported("RoPE that differs by layer", key, value)
                return inner
        return {}

    def rope_base(self, default: float = 10_000.0, kind: str = FULL) -> float:
        value = self.rope(kind).get("rope_theta", self.get("rope_theta"))
        return _number("rope_theta", default if value is None else value)

    def rotated_share(self, default: float = 1.0) -> float:
        """Which part of a head's channels RoPE turns."""
        value = self.rope().get("partial_rotary_factor", self.get("partial_rotary_factor"))
        return _number("partial_rotary_factor", default if value is None else value)

    def rope_scaling(self) -> RopeScaling | None:
        """How RoPE is scaled. Source: transformers' modeling_rope_utils.py."""
        rope = self.rope()
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind in ("default", None):
            return None
        context = self.count("max_position_embeddings")
        original = (
            self.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings") or context
        )
        if type(original) is not int:
            raise self._senseless("original_max_position_embeddings", original, "a whole number")
        if kind == "linear":
            return RopeScaling("linear", _in(rope, "factor"))
        if kind == "dynamic":
            return RopeScaling("dynamic", _in(rope, "factor"), context)
        if kind == "llama3":
            low, high = _in(rope, "low_freq_factor"), _in(rope, "high_freq_factor")
            return RopeScaling("llama3", _in(rope, "factor"), original, low_freq_factor=low, high_freq_factor=high)
        if kind == "yarn":
            return _yarn(rope, context / original, original)
        if kind in ("longrope", "su"):
            return _longrope(rope, context / original, original)
        raise unsupported("RoPE scaling", "rope_type", kind)

    def _senseless(self, key: str, value: object, need: str) -> InputError:
        found = "missing" if value is None else f"{value!r:.80}"
        return InputError(f"{self.names.get(key, key)} is {found}, not {need}; download it again")


def unsupported(what: str, key: str, value: object) -> InputError:
    """The refusal of what opdiff's own decoder does not cover."""
    return Unsupported(f"{what} ({key} = {value!r:.80}) is not supported yet; use another checkpoint")


def _yarn(rope: Mapping[str, object], ratio: float, original: int) -> RopeScaling:
    factor = _in(rope, "factor", ratio)
    attention, mscale, mscale_all = (rope.get(key) for key in ("attention_factor", "mscale", "mscale_all_dim"))
    if attention is None and mscale and mscale_all:
        of_all = _mscale(factor, _number("mscale_all_dim", mscale_all))
        attention = _mscale(factor, _number("mscale", mscale)) / of_all
    return RopeScaling(
        "yarn",
        factor,
        original,
        _mscale(factor, 1.0) if attention is None else _number("attention_factor", attention),
        beta_fast=_in(rope, "beta_fast", 32.0),
        beta_slow=_in(rope, "beta_slow", 1.0),
        truncated=rope.get("truncate") is not False,
    )


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _longrope(rope: Mapping[str, object], ratio: float, original: int) -> RopeScaling:
    factor = _in(rope, "factor", ratio)
    attention = rope.get("attention_factor")
    if attention is None:
        attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return RopeScaling(
        "longrope",
        factor,
        original,
        _number("attention_factor", attention),
        short_factors=_list(rope, "short_factor"),
        long_factors=_list(rope, "long_factor"),
    )


def _list(rope: Mapping[str, object], key: str) -> tuple[float, ...]:
    values = rope.get(key)
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise InputError(f"{key} is {values!r:.80}, not a list of numbers; download it again")
    return tuple(float(_number(key, value)) for value in values)


def _in(rope: Mapping[str, object], key: str, default: float | None = None) -> float:
    value = rope.get(key)
    return _number(key, default if value is None else value)


def _number(key: str, value: object) -> float:
    if type(value) not in (int, float):
        found = "missing" if value is None else f"{value!r:.80}"
        raise InputError(f"{key} is {found}, not a number; download it again")
    return value  # type: ignore[return-value]
