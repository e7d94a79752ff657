"""Tiny transformers models with fixed weights, and the GGUF file that such a model would come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from torch import Tensor, nn

from corpus.vocabulary import copy_vocabulary, write_vocabulary

N_BLOCKS = 3
VOCAB_SIZE = 96
CONTEXT_LENGTH = 64
TOKENS = (1, 5, 3, 17, 42, 5, 88, 60, 2, 31)  # faults.py spoils the row of token 5


@dataclass(frozen=True)
class Kind:
    """One shape of model; `width` equal to n_heads * head_dim makes q_proj and o_proj square.

    Only where `width` and `ffn_width` are multiples of 32 can all of it be Q8_0.
    """

    architecture: str
    width: int
    rope_base: float
    head_dim: int = 16
    n_heads: int = 4
    n_kv_heads: int = 2
    ffn_width: int = 80
    eps: float = 1e-6


KINDS = {
    "qwen3": Kind("qwen3", 48, 1_000_000.0),
    "qwen3_square": Kind("qwen3", 64, 1_000_000.0),
    "qwen2": Kind("qwen2", 64, 1_000_000.0),
    "llama": Kind("llama", 64, 10_000.0),
    "qwen3_in_32s": Kind("qwen3", 64, 1_000_000.0, ffn_width=96),
}
_CLASSES: dict[str, tuple[Any, Any]] = {
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
}


def tiny_model(kind: str = "qwen3", n_blocks: int = N_BLOCKS, vocab_size: int = VOCAB_SIZE) -> Any:
    """A fresh causal LM of that kind; the weights are the same at each call."""
    config_class, model_class = _CLASSES[KINDS[kind].architecture]
    model = model_class(config_class(**_config(KINDS[kind], n_blocks, vocab_size)))
    weights = _weights(kind, n_blocks, vocab_size)
    model.load_state_dict({name: value.clone() for name, value in weights.items()}, assign=True)
    return model.eval().requires_grad_(False)


def _config(kind: Kind, n_blocks: int, vocab_size: int) -> dict[str, Any]:
    return dict(
        num_hidden_layers=n_blocks,
        hidden_size=kind.width,
        num_attention_heads=kind.n_heads,
        num_key_value_heads=kind.n_kv_heads,
        head_dim=kind.head_dim,
        intermediate_size=kind.ffn_width,
        vocab_size=vocab_size,
        max_position_embeddings=CONTEXT_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": kind.rope_base},
        rms_norm_eps=kind.eps,
        tie_word_embeddings=False,
        attention_bias=False,
        pad_token_id=None,
        use_cache=False,
        attn_implementation="eager",
    )


@cache
def _weights(kind: str, n_blocks: int, vocab_size: int) -> dict[str, Tensor]:
    config_class, model_class = _CLASSES[KINDS[kind].architecture]
    with torch.device("meta"):
        shapes = model_class(config_class(**_config(KINDS[kind], n_blocks, vocab_size))).state_dict()
    generator = torch.Generator().manual_seed(20 + list(KINDS).index(kind))
    return {name: _fill(name, meta.shape, generator) for name, meta in shapes.items()}


def _fill(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Gains far from 1, biases that matter, and weights that keep activations near 1 in size."""
    if "norm" in name:
        return torch.empty(shape).uniform_(0.5, 3.0, generator=generator)
    if name.endswith(".bias"):
        return torch.empty(shape).uniform_(-0.5, 0.5, generator=generator)
    std = 1.0 if "embed" in name else shape[-1] ** -0.5
    return torch.randn(shape, generator=generator) * std


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(model: nn.Module, path: Path, quantisation: str = "F32") -> Path:
    """Write an unpatched model as a GGUF file, as llama.cpp's converter would: `llama` with permuted q/k rows.

    quantisation: of the matrices; vectors are F32.
    """
    return _write(model, path, quantisation, lambda writer: writer.add_tokenizer_model("none"))


def loadable_gguf(model: nn.Module, path: Path, quantisation: str = "F32", vocabulary_of: Path | None = None) -> Path:
    """The same with a tokenizer's vocabulary, which llama.cpp wants; the model has at least `vocabulary.N_TOKENS` tokens.

    Args:
        quantisation: F32, or Q8_0 for matrices whose rows are a multiple of 32, as llama.cpp quantises them.
        vocabulary_of: a GGUF file with the model's number of tokens, whose vocabulary is copied; None: a small one.
    """

    def write(writer: GGUFWriter) -> None:
        n_tokens = model.config.vocab_size  # type: ignore[union-attr]
        if vocabulary_of is None:
            write_vocabulary(writer, n_tokens)
        else:
            copy_vocabulary(writer, vocabulary_of, n_tokens)

    return _write(model, path, quantisation, write)


def _write(model: nn.Module, path: Path, quantisation: str, add_vocabulary: Callable[[GGUFWriter], None]) -> Path:
    config: Any = model.config
    writer = GGUFWriter(path, config.model_type)
    _write_metadata(writer, config)
    add_vocabulary(writer)
    for key, value in model.state_dict().items():
        name, rows = _gguf_name(key), value
        if config.model_type == "llama" and (".attn_q." in name or ".attn_k." in name):
            rows = pair_rows(value, config.head_dim)
        _add_tensor(writer, name, rows.contiguous().float(), GGMLQuantizationType[quantisation])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return path


def _add_tensor(writer: GGUFWriter, name: str, value: Tensor, kind: GGMLQuantizationType) -> None:
    fits = value.shape[-1] % 32 == 0 or kind.name in ("F16", "BF16")
    if value.ndim == 2 and fits and kind != GGMLQuantizationType.F32:
        writer.add_tensor(name, quantize(value.numpy(), kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, value.numpy())


def _write_metadata(writer: GGUFWriter, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _gguf_name(key: str) -> str:
    module, _, kind = key.rpartition(".")
    if module in _GGUF_NAMES:
        return f"{_GGUF_NAMES[module]}.{kind}"
    block, _, path = module.removeprefix("model.layers.").partition(".")
    return f"blk.{block}.{_GGUF_NAMES[path]}.{kind}"


def pair_rows(rows: Tensor, head_dim: int) -> Tensor:
    """Within each head put rows i and i + D/2 side by side: a half-split pairing becomes an interleaved one."""
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)
