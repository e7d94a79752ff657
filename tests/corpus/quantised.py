"""A tiny Qwen3 stored in any of ggml's types, as a GGUF file that llama.cpp loads; it takes token ids only."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

WIDTH, FFN_WIDTH, VOCAB_SIZE = 256, 512, 96  # K-quants want rows of 256
N_HEADS, N_KV_HEADS, HEAD_DIM = 4, 2, 64
TOKENS = (1, 5, 3, 17, 42, 88)

_SHAPES = {
    "attn_q": (N_HEADS * HEAD_DIM, WIDTH),
    "attn_k": (N_KV_HEADS * HEAD_DIM, WIDTH),
    "attn_v": (N_KV_HEADS * HEAD_DIM, WIDTH),
    "attn_output": (WIDTH, N_HEADS * HEAD_DIM),
    "ffn_gate": (FFN_WIDTH, WIDTH),
    "ffn_up": (FFN_WIDTH, WIDTH),
    "ffn_down": (WIDTH, FFN_WIDTH),
}
_GAINS = {"attn_norm": WIDTH, "ffn_norm": WIDTH, "attn_q_norm": HEAD_DIM, "attn_k_norm": HEAD_DIM}


def write_quantised(path: Path, stored: Callable[[str], str], n_blocks: int = 2) -> Path:
    """Write the model; `stored` gives the type of each matrix by its name ("blk.0.attn_q": "Q4_1"). The head is tied."""
    writer = GGUFWriter(path, "qwen3")
    writer.add_block_count(n_blocks)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN_WIDTH)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCAB_SIZE)
    writer.add_tokenizer_model("none")
    random = np.random.default_rng(7)
    for name, shape in _matrices(n_blocks).items():
        values = random.standard_normal(shape, np.float32) * np.float32(shape[1] ** -0.5)
        _add(writer, f"{name}.weight", values * 16 if name == "token_embd" else values, stored(name))
    for name, length in _gains(n_blocks).items():
        writer.add_tensor(f"{name}.weight", random.uniform(0.5, 3.0, length).astype(np.float32))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return path


def _matrices(n_blocks: int) -> dict[str, tuple[int, int]]:
    blocks = {f"blk.{n}.{part}": shape for n in range(n_blocks) for part, shape in _SHAPES.items()}
    return {"token_embd": (VOCAB_SIZE, WIDTH)} | blocks


def _gains(n_blocks: int) -> dict[str, int]:
    blocks = {f"blk.{n}.{part}": length for n in range(n_blocks) for part, length in _GAINS.items()}
    return {"output_norm": WIDTH} | blocks


def _add(writer: GGUFWriter, name: str, values: np.ndarray, stored: str) -> None:
    kind = GGMLQuantizationType[stored]
    if stored == "F32":
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, quantised(values, kind), raw_dtype=kind)


def ggml_library(part: str) -> ctypes.CDLL:
    """`base` or `cpu`, as llama-cpp-python installs it."""
    return ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / f"libggml-{part}.so"))


def quantised(values: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """ggml's own quantisation of float32 rows: uint8 `[rows, bytes of a row]`."""
    quantize = ggml_library("base").ggml_quantize_chunk
    block, block_bytes = GGML_QUANT_SIZES[kind]
    n_rows, length = values.shape
    rows = np.empty((n_rows, length // block * block_bytes), np.uint8)
    source, target = (ctypes.c_void_p(array.ctypes.data) for array in (np.ascontiguousarray(values), rows))
    quantize(int(kind), source, target, *map(ctypes.c_int64, (0, n_rows, length)), None)
    return rows
