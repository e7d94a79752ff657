"""What a decoder is, read from the metadata of a GGUF file and checked against its tensors."""

from collections.abc import Mapping

from ...graphs.decoder_config import DecoderConfig
from ...graphs.errors import InputError
from .families import family_of_architecture
from .families.family import DecoderFamily, Settings
from .metadata import Metadata
from .shapes import Shape, check_tensors, missing
from .splitting import split_shapes


def read_config(metadata: Mapping[str, object], tensor_shapes: Mapping[str, Shape]) -> DecoderConfig:
    """The config of a decoder of a family that is known, checked against the tensors.

    Args:
        metadata: GGUF metadata as plain values.
        tensor_shapes: the shape of every tensor in numpy order, [out, in].
    Raises:
        InputError: another architecture, a field that is missing or senseless, a choice that opdiff's decoder has not, or tensors
            that are missing, of another shape, or not part of such a decoder. The message does not name the file.
    Source: llama.cpp's hyperparameters and tensor names (gguf.constants).
    """
    family = family_of_architecture(metadata.get("general.architecture"))
    read = Metadata(metadata, family.architecture, tensor_shapes)
    settings = {**_common(read, family), **family.settings, **family.from_gguf(read)}
    config = DecoderConfig(architecture=family.architecture, **settings)  # type: ignore[arg-type]
    check_tensors(config, split_shapes(config, tensor_shapes))
    return config


def _common(read: Metadata, family: DecoderFamily) -> Settings:
    width, n_heads = read.count("embedding_length"), read.count("attention.head_count")
    head_dim = _head_dim(read, family, width, n_heads)
    rotated = read.count("rope.dimension_count", head_dim)
    norm = "layer_norm" if family.settings.get("norm_kind") == "layer_norm" else "layer_norm_rms"
    return {
        "n_blocks": read.count("block_count"),
        "width": width,
        "n_heads": n_heads,
        "n_kv_heads": read.count("attention.head_count_kv", n_heads),
        "head_dim": head_dim,
        "ffn_width": read.count("feed_forward_length"),
        "vocab_size": _vocab_size(read),
        "context_length": read.count("context_length"),
        "rope_base": read.number("rope.freq_base", 10_000.0),
        "rms_norm_eps": read.number(f"attention.{norm}_epsilon"),
        "tied_head": not read.has("output.weight"),
        "qk_norm": read.has("attn_q_norm.weight"),
        "attention_bias": read.has("attn_q.bias") or read.has("attn_qkv.bias"),
        "biases": tuple(part for part in family.may_have_biases if read.has(f"{part}.bias")),
        "rope_scaling": read.rope_scaling(),
        "rotary_dim": None if rotated == head_dim else rotated,
    }


def _head_dim(read: Metadata, family: DecoderFamily, width: int, n_heads: int) -> int:
    rotated = read.get("rope.dimension_count")
    if read.get("attention.key_length") is not None:
        head_dim = read.count("attention.key_length")
    elif rotated is not None and not family.is_partly_rotated:
        head_dim = read.count("rope.dimension_count")
    elif width % n_heads == 0:
        head_dim = width // n_heads
    else:
        raise InputError(
            f"width {width} is no multiple of {n_heads} heads; {read.architecture}.attention.key_length is needed"
        )
    if read.count("rope.dimension_count", head_dim) != head_dim and not family.is_partly_rotated:
        raise InputError(
            f"RoPE over {rotated} of {head_dim} channels (partial RoPE) is not supported yet; use another checkpoint"
        )
    if read.count("attention.value_length", head_dim) != head_dim:
        raise InputError(
            f"value heads that are not as long as key heads ({head_dim}) are not supported yet; use another checkpoint"
        )
    return head_dim


def _vocab_size(read: Metadata) -> int:
    shape = read.tensor_shapes.get("token_embd.weight")
    if shape is None:
        raise missing("token_embd.weight")
    return shape[0]
