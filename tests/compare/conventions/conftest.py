"""Tiny random decoders, and the question that every test of the catalogue asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest

from opdiff.compare.conventions import Case, Explanation, Settings, distance, evaluate, explain
from opdiff.graphs.decoder_config import DecoderConfig
from opdiff.graphs.stages import AFTER_BLOCKS, IN_BLOCK, tap_name

MET = 1e-12


_TINY = {
    "architecture": "qwen3",
    "n_blocks": 3,
    "width": 24,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 8,
    "ffn_width": 40,
    "vocab_size": 50,
    "context_length": 64,
    "rope_base": 1e6,
    "rms_norm_eps": 1e-6,
    "tied_head": False,
    "qk_norm": True,
    "attention_bias": False,
}


def random_weights(config: DecoderConfig, seed: int) -> dict[str, np.ndarray]:
    """Every tensor of a decoder by its GGUF name, float32; gains far from 1."""
    rng = np.random.default_rng(seed)
    q, kv, c, f = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim, config.width, config.ffn_width
    shapes = {"token_embd": (config.vocab_size, c), "output": (config.vocab_size, c), "output_norm": (c,)}
    for block in range(config.n_blocks):
        name = f"blk.{block}."
        shapes |= {name + "attn_norm": (c,), name + "ffn_norm": (c,), name + "ffn_down": (c, f)}
        shapes |= {name + "attn_q": (q, c), name + "attn_k": (kv, c), name + "attn_v": (kv, c)}
        shapes |= {name + "attn_output": (c, q), name + "ffn_gate": (f, c), name + "ffn_up": (f, c)}
        if config.qk_norm:
            shapes |= {name + "attn_q_norm": (config.head_dim,), name + "attn_k_norm": (config.head_dim,)}
    weights = {}
    for name, shape in shapes.items():
        drawn = rng.normal(0, 0.4, shape)
        weights[name + ".weight"] = (0.8 + drawn if len(shape) == 1 else drawn).astype(np.float32)
    if config.attention_bias:
        for part in ("attn_q", "attn_k", "attn_v"):
            for block in range(config.n_blocks):
                name = f"blk.{block}.{part}"
                weights[name + ".bias"] = rng.normal(0, 0.5, shapes[name][0]).astype(np.float32)
    if config.tied_head:
        del weights["output.weight"]
    return weights


@dataclass(frozen=True)
class Tiny:
    """A tiny decoder with the standard value of every tap."""

    config: DecoderConfig
    weights: dict[str, np.ndarray]
    tokens: np.ndarray = field(default_factory=lambda: np.array([7, 3, 41, 19, 3, 28]))

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """The standard values of all taps, by name."""
        last = Case("logits", None, {}, self.weights, self.config, self.tokens)
        stages = [s for s in IN_BLOCK if self.config.qk_norm or s not in ("q_norm", "k_norm")]
        names = ["embed", *(tap_name(s, b) for b in range(self.config.n_blocks) for s in stages), *AFTER_BLOCKS]
        values: dict[str, np.ndarray] = {}
        for name in names:
            values[name] = evaluate(replace(last, values=values), name, Settings())
        return values

    def case(self, stage: str, block: int | None = 1, without: tuple[str, ...] = ()) -> Case:
        """The region that ends at a tap, fed with the standard values of all taps but those of the stages `without`."""
        kept = {name: v.copy() for name, v in self.values.items() if name.rsplit(".", 1)[-1] not in without}
        block = block if stage in IN_BLOCK else None
        return Case(stage, block, kept, self.weights, self.config, self.tokens)

    def explain(self, case: Case, output: np.ndarray, start: Settings | None = None, met: float = MET) -> Explanation:
        """What explains the output of a region, rounding in float64 allowed."""
        reference = case.canonical(case.stage, np.asarray(output))

        def is_met(prediction: np.ndarray, settings: Settings) -> bool:
            return distance(prediction, reference, scores=case.stage == "attn_scores") < met

        return explain(case, output, start or Settings(), is_met)


Named = list[dict[str, Any]]


def named(explanation: Explanation) -> Named:
    """All explanations of a region's output as mappings; none found is an empty list."""
    if not explanation.found:
        return []
    found = (explanation.deviations, *explanation.also_fits)
    return [{d.convention: d.to_value for d in deviations} for deviations in found]


def make(seed: int = 0, **changes: Any) -> Tiny:
    """A tiny decoder; what is not given is the tiny Qwen3's."""
    config = DecoderConfig(**{**_TINY, **changes})
    return Tiny(config, random_weights(config, seed))


@pytest.fixture(scope="session")
def made() -> Callable[..., Tiny]:
    """Makes a tiny decoder with these fields of its configuration."""
    return make


@pytest.fixture(scope="session")
def qwen3() -> Tiny:
    return make()


@pytest.fixture(scope="session")
def qwen2() -> Tiny:
    return make(architecture="qwen2", qk_norm=False, attention_bias=True)


@pytest.fixture(scope="session")
def llama() -> Tiny:
    return make(architecture="llama", qk_norm=False, rope_base=1e4, rms_norm_eps=1e-5)


@pytest.fixture(scope="session")
def square() -> Tiny:
    """All attention weights are 32 x 32, and a row is one block of Q8_0."""
    return make(width=32, n_kv_heads=4, ffn_width=64)


@pytest.fixture(scope="session")
def wide() -> Tiny:
    """Every row is a block of Q8_K."""
    return make(n_blocks=2, width=256, n_heads=8, head_dim=32, ffn_width=256)


@pytest.fixture(scope="session")
def tied() -> Tiny:
    return make(tied_head=True)


@pytest.fixture(scope="session")
def names(request: pytest.FixtureRequest) -> Callable[..., Named]:
    """All the explanations of a region's output, as mappings from convention to value."""

    def ask(tiny: Tiny, stage: str, output: np.ndarray, **more: Any) -> Named:
        case = tiny.case(stage, more.pop("block", 1), more.pop("without", ()))
        return named(tiny.explain(case, output, **more))

    return ask
