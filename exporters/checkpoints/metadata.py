"""GGUF's metadata, read field by field."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...graphs.decoder_config import MOST_BLOCKS, RopeScaling
from ...graphs.errors import InputError

_LARGEST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Metadata:
    """Reads `<architecture>.<key>`, and knows which tensors the file has."""

    values: Mapping[str, object]
    architecture: str
    tensor_shapes: Mapping[str, tuple[int, ...]]

    def get(self, key: str) -> object:
        return self.values.get(f"{self.architecture}.{key}")

    def count(self, key: str, default: int | None = None) -> int:
        value = self._present(key, default)
        if type(value) is not int or not 1 <= value <= _LARGEST:
            raise self._refusal(key, value, "a positive whole number")
        if key == "block_count" and value > MOST_BLOCKS:
            raise self._refusal(key, value, f"{MOST_BLOCKS} at most")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._present(key, default)
        if type(value) not in (int, float):
            raise self._refusal(key, value, "a number")
        number = float(value)  # type: ignore[arg-type]
        if not math.isfinite(number) or number <= 0:
            raise self._refusal(key, value, "finite and positive")
        return shortest(number)

    def optional_count(self, key: str) -> int | None:
        """None where there is none, or 0."""
        return self.count(key) if self.get(key) else None

    def optional_number(self, key: str) -> float | None:
        """None where there is none, or 0."""
        return self.number(key) if self.get(key) else None

    def flag(self, key: str, default: bool) -> bool:
        value = self._present(key, default)
        if not isinstance(value, bool):
            raise self._refusal(key, value, "true or false")
        return value

    def has(self, part: str) -> bool:
        """Whether the file has a tensor of this name, or block 0 has."""
        return part in self.tensor_shapes or f"blk.0.{part}" in self.tensor_shapes

    def windows(self, every: int, n_blocks: int) -> tuple[int | None, ...]:
        """The blocks' windows, where each `every`-th block has none; as the metadata's own pattern says, if it has one."""
        window = self.optional_count("attention.sliding_window")
        pattern = self.get("attention.sliding_window_pattern")
        if isinstance(pattern, np.ndarray) and len(pattern) >= n_blocks:
            return tuple(window if has_one else None for has_one in pattern)
        every = self.count("attention.sliding_window_pattern", every)
        return () if window is None else tuple(window if (n + 1) % every else None for n in range(n_blocks))

    def of_blocks(self, key: str) -> tuple[float, ...]:
        """A number for each block, under a key that has no architecture before it: `xielu.beta`."""
        n_blocks, value = self.count("block_count"), self.values.get(key)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or len(value) != n_blocks:
            found = f"an array of {len(value)}" if isinstance(value, np.ndarray | tuple) else f"{value!r:.80}"
            found = "missing" if value is None else found
            raise InputError(f"metadata {key} is {found}, not {n_blocks} numbers; convert the checkpoint again")
        return tuple(shortest(float(one)) for one in value)

    def rope_scaling(self) -> RopeScaling | None:
        """How RoPE is scaled. Source: llama.cpp's load_hparams and llama_context; a factor without a type is linear there."""
        kind = self.get("rope.scaling.type")
        factor = self.optional_number("rope.scaling.factor") or self.optional_number("rope.scale_linear") or 1.0
        original = self.optional_count("rope.scaling.original_context_length") or self.count("context_length")
        attention = self.optional_number("rope.scaling.attn_factor") or 1.0
        if "rope_freqs.weight" in self.tensor_shapes:
            return RopeScaling("factors", attention_factor=attention)
        if "rope_factors_long.weight" in self.tensor_shapes:
            return RopeScaling("longrope", original_context=original, attention_factor=attention)
        if kind == "yarn":
            fast, slow = (
                self.number("rope.scaling.yarn_beta_fast", 32.0),
                self.number("rope.scaling.yarn_beta_slow", 1.0),
            )
            attention *= 1 + 0.1 * math.log(factor) if factor > 1 else 1.0
            return RopeScaling("yarn", factor, original, attention, beta_fast=fast, beta_slow=slow)
        if kind not in (None, "none", "linear"):
            raise InputError(
                f"RoPE scaling (rope.scaling.type = {kind!r:.80}) is not supported yet; use a checkpoint without it"
            )
        is_scaled = factor != 1 and kind != "none"
        return RopeScaling("linear", factor, attention_factor=attention) if is_scaled or attention != 1 else None

    def _present(self, key: str, default: object) -> object:
        value = self.get(key)
        value = default if value is None else value
        if value is None:
            raise InputError(f"metadata {self.architecture}.{key} is missing; convert the checkpoint again")
        return value

    def _refusal(self, key: str, value: object, need: str) -> InputError:
        shown = "an array" if isinstance(value, np.ndarray | tuple) else f"{value!r:.80}"
        return InputError(f"metadata {self.architecture}.{key} is {shown}, not {need}; convert the checkpoint again")


def shortest(number: float) -> float:
    """The shortest decimal with the same float32, where the number is a float32."""
    with np.errstate(over="ignore"):
        single = np.float32(number)
    return float(str(single)) if float(single) == number else number
