"""Decoders of real shapes with random weights, written as GGUF one tensor after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

_LARGEST_DRAW = 1 << 28  # random numbers drawn at a time


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen3 in numbers; `dtype` is F32 or BF16."""

    n_blocks: int = 28
    width: int = 1024
    n_heads: int = 16
    n_kv_heads: int = 8
    head_dim: int = 128
    ffn_width: int = 3072
    vocab_size: int = 151_936
    tied_head: bool = True
    dtype: str = "F32"

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor's GGUF name and shape, `[out, in]`."""
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        yield "token_embd.weight", (self.vocab_size, self.width)
        for n in range(self.n_blocks):
            block = {
                "attn_norm": (self.width,),
                "attn_q": (q, self.width),
                "attn_k": (kv, self.width),
                "attn_v": (kv, self.width),
                "attn_q_norm": (self.head_dim,),
                "attn_k_norm": (self.head_dim,),
                "attn_output": (self.width, q),
                "ffn_norm": (self.width,),
                "ffn_gate": (self.ffn_width, self.width),
                "ffn_up": (self.ffn_width, self.width),
                "ffn_down": (self.width, self.ffn_width),
            }
            yield from ((f"blk.{n}.{name}.weight", shape) for name, shape in block.items())
        yield "output_norm.weight", (self.width,)
        if not self.tied_head:
            yield "output.weight", (self.vocab_size, self.width)

    @property
    def n_bytes(self) -> int:
        """The size of all weights in float32."""
        return 4 * sum(int(np.prod(shape)) for _, shape in self.tensors())

    @property
    def n_bytes_stored(self) -> int:
        """The size of all weights as the file holds them: vectors in float32, matrices in `dtype`."""
        wide = 4 if self.dtype == "F32" else 2
        return sum(int(np.prod(shape)) * (wide if len(shape) == 2 else 4) for _, shape in self.tensors())


QWEN3_0_6B = Shape()
QWEN3_8B = Shape(n_blocks=36, width=4096, n_heads=32, n_kv_heads=8, ffn_width=12_288, tied_head=False, dtype="BF16")


def write_gguf(shape: Shape, path: Path) -> Path:
    """Write the model; only one tensor is in memory at a time."""
    writer = GGUFWriter(path, "qwen3")
    writer.add_block_count(shape.n_blocks)
    writer.add_context_length(4096)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ffn_width)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_tokenizer_model("none")
    kinds = {name: shape.dtype if len(dims) == 2 else "F32" for name, dims in shape.tensors()}
    for name, dims in shape.tensors():
        stored = np.dtype(np.float32) if kinds[name] == "F32" else np.dtype(np.uint16)
        n_bytes = int(np.prod(dims)) * stored.itemsize
        writer.add_tensor_info(name, dims, np.dtype(np.float32), n_bytes, GGMLQuantizationType[kinds[name]])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for index, (name, dims) in enumerate(shape.tensors()):
            writer.write_tensor_data(_values(index, name, dims, kinds[name]))
    finally:
        writer.close()
    return path


def _values(index: int, name: str, dims: tuple[int, ...], kind: str) -> np.ndarray:
    """Gains far from 1, and weights that keep activations near 1 in size."""
    random = np.random.default_rng(index)
    if "norm" in name:
        return random.uniform(0.5, 3.0, dims).astype(np.float32)
    size = int(np.prod(dims))
    drawn = random.standard_normal(min(size, _LARGEST_DRAW), np.float32)
    values = np.resize(drawn, size).reshape(dims) * np.float32(
        1.0 if name.startswith("token_embd") else dims[-1] ** -0.5
    )
    return values if kind == "F32" else (values.view(np.uint32) >> 16).astype(np.uint16)
