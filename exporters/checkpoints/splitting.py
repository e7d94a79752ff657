"""Where one tensor of a file holds several of a decoder's: attn_qkv, and gate and up in one."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ...graphs.decoder_config import DecoderConfig
from .families import family_of_architecture
from .shapes import Shape


@dataclass(frozen=True, slots=True)
class Part:
    """One of a decoder's tensors: all rows of a file's tensor, or some.

    of: the file's tensor. rows: the first and the end; None: all.
    """

    of: str
    rows: tuple[int, int] | None = None


def parts_of(config: DecoderConfig, name: str, shape: Shape) -> Iterator[tuple[str, Part]]:
    """The decoder's tensors that a file's tensor holds, by name."""
    found = re.fullmatch(r"(blk\.\d+\.)(\w+)(\.\w+)", name)
    if found is None:
        yield name, Part(name)
        return
    block, part, kind = found.groups()
    part = family_of_architecture(config.architecture).gguf_names.get(part, part)
    for inner, rows in _rows(config, part, shape):
        yield f"{block}{inner}{kind}", Part(name, rows)


def _rows(config: DecoderConfig, part: str, shape: Shape) -> Iterator[tuple[str, tuple[int, int] | None]]:
    heads, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    if part == "attn_qkv" and shape[0] == heads + 2 * kv:
        yield from (("attn_q", (0, heads)), ("attn_k", (heads, heads + kv)), ("attn_v", (heads + kv, heads + 2 * kv)))
    elif part == "ffn_up" and config.gated and shape[0] == 2 * config.ffn_width:
        inner = config.ffn_width
        yield from (("ffn_gate", (0, inner)), ("ffn_up", (inner, 2 * inner)))
    else:
        yield part, None


def split_shapes(config: DecoderConfig, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shapes of a decoder's tensors, from those of a file."""
    return {
        inner: shape if part.rows is None else (part.rows[1] - part.rows[0], *shape[1:])
        for name, shape in shapes.items()
        for inner, part in parts_of(config, name, shape)
    }
