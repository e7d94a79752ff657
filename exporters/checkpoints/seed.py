"""The synthetic Qwen3 of the bug report that opdiff exists for, as a GGUF file."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType

from ...graphs.weights import written_beside

_WIDTH, _N_HEADS, _HEAD_DIM, _FFN_WIDTH, _VOCAB_SIZE, _CONTEXT_LENGTH = 32, 2, 16, 64, 64, 16

# name: (shape [out, in], step, modulus, offset): the value at flat index i is (step * i) % modulus - offset.
_FILLS = {
    "token_embd": ((_VOCAB_SIZE, _WIDTH), 1, 5, 2),
    "blk.0.attn_q": ((_WIDTH, _WIDTH), 3, 7, 3),
    "blk.0.attn_k": ((_WIDTH, _WIDTH), 5, 7, 3),
    "blk.0.attn_v": ((_WIDTH, _WIDTH), 7, 7, 3),
    "blk.0.attn_output": ((_WIDTH, _WIDTH), 11, 7, 3),
    "blk.0.ffn_gate": ((_FFN_WIDTH, _WIDTH), 3, 5, 2),
    "blk.0.ffn_up": ((_FFN_WIDTH, _WIDTH), 5, 5, 2),
    "blk.0.ffn_down": ((_WIDTH, _FFN_WIDTH), 7, 5, 2),
    "output": ((_VOCAB_SIZE, _WIDTH), 1, 5, 2),
}
_GAINS = {
    "blk.0.attn_norm": _WIDTH,
    "blk.0.attn_q_norm": _HEAD_DIM,
    "blk.0.attn_k_norm": _HEAD_DIM,
    "blk.0.ffn_norm": _WIDTH,
    "output_norm": _WIDTH,
}


def seed_tensors() -> dict[str, np.ndarray]:
    """Every tensor of the model by its GGUF name, float32, [out, in]; every norm gain is 1."""
    tensors = {}
    for name, (shape, step, modulus, offset) in _FILLS.items():
        index = np.arange(shape[0] * shape[1], dtype=np.int64)
        tensors[f"{name}.weight"] = (step * index % modulus - offset).astype(np.float32).reshape(shape)
    return tensors | {f"{name}.weight": np.ones(length, np.float32) for name, length in _GAINS.items()}


def write_seed(path: Path) -> None:
    """Write the model to `path`, all of it or nothing; the bytes are the same each time.

    Raises:
        InputError: the folder of `path` is not there, or cannot be written to.
    Source: SKaiNET-transformers, issue 114: the weights with which its two Qwen3 runtimes were found to differ.
    """
    with written_beside(path) as partial:
        _write(partial)


def _write(path: Path) -> None:
    writer = GGUFWriter(path, "qwen3")
    writer.add_name("opdiff seed")
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_block_count(1)
    writer.add_context_length(_CONTEXT_LENGTH)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(_FFN_WIDTH)
    writer.add_head_count(_N_HEADS)
    writer.add_head_count_kv(_N_HEADS)
    writer.add_key_length(_HEAD_DIM)
    writer.add_value_length(_HEAD_DIM)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(_VOCAB_SIZE)
    writer.add_tokenizer_model("none")  # llama.cpp's word for a model that takes token ids only
    for name, values in seed_tensors().items():
        writer.add_tensor(name, values)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
