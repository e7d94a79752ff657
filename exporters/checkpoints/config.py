"""What a decoder is, in numbers: read from GGUF metadata, and checked against the tensors that are there."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self

import numpy as np

from ...graphs.errors import InputError

ARCHITECTURES = ("qwen3", "qwen2", "llama")

_LARGEST = 2**31 - 1
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The shape and the constants of one decoder.

    `rope_base` and `rms_norm_eps` are the shortest decimals that round to the float32 in the file: 1e-05, and not
    9.999999747378752e-06, so that they read as their author wrote them. In float32 there is no difference.

    Raises:
        InputError: a count outside 1..2^31-1, a number that is not finite and positive, heads that do not share KV
            heads evenly, or an odd head dim (RoPE turns pairs).
    """

    architecture: str
    n_blocks: int
    width: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_width: int
    vocab_size: int
    context_length: int
    rope_base: float
    rms_norm_eps: float
    tied_head: bool
    qk_norm: bool
    attention_bias: bool

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not _is_sane(value, field.type):
                raise InputError(f"config: {field.name} is {value!r:.80}, which cannot be; correct it at its source")
        if self.n_heads % self.n_kv_heads:
            raise InputError(
                f"config: n_heads {self.n_heads} is no multiple of n_kv_heads {self.n_kv_heads}; correct them"
            )
        if self.head_dim % 2:
            raise InputError(f"config: head_dim {self.head_dim} is odd, and RoPE turns pairs; correct it")

    def to_json(self) -> str:
        """One JSON object with every field; `from_json` gives back an equal config."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote. Raises InputError for anything else."""
        try:
            values = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"config: not JSON ({error!s:.80}); give the text that to_json wrote") from error
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            found = sorted(set(values) ^ names)[:3] if isinstance(values, dict) else type(values).__name__
            raise InputError(f"config: not a config's fields ({found!r:.120}); give the text that to_json wrote")
        return cls(**values)


def _is_sane(value: object, kind: object) -> bool:
    if kind is int:
        return type(value) is int and 1 <= value <= _LARGEST
    if kind is float:
        return type(value) in (int, float) and 0 < value <= _LARGEST_FLOAT  # type: ignore[operator]
    return type(value) is kind and value != ""


def read_config(metadata: Mapping[str, object], tensor_shapes: Mapping[str, _Shape]) -> DecoderConfig:
    """The config of a qwen3, qwen2 or llama decoder, checked against the tensors.

    Args:
        metadata: GGUF metadata as plain values.
        tensor_shapes: the shape of every tensor in numpy order, [out, in].
    Raises:
        InputError: another architecture, a field that is missing or senseless, RoPE scaling, partial RoPE, or tensors
            that are missing, of another shape, or not part of such a decoder. The message does not name the file.
    Source: llama.cpp's hyperparameters and tensor names (gguf.constants).
    """
    read = _Reader(metadata, _architecture(metadata))
    _refuse_rope_scaling(read, tensor_shapes)
    width, n_heads = read.count("embedding_length"), read.count("attention.head_count")
    config = DecoderConfig(
        architecture=read.architecture,
        n_blocks=read.count("block_count"),
        width=width,
        n_heads=n_heads,
        n_kv_heads=read.count("attention.head_count_kv", n_heads),
        head_dim=_head_dim(read, width, n_heads),
        ffn_width=read.count("feed_forward_length"),
        vocab_size=_vocab_size(tensor_shapes),
        context_length=read.count("context_length"),
        rope_base=read.number("rope.freq_base", 10_000.0),
        rms_norm_eps=read.number("attention.layer_norm_rms_epsilon"),
        tied_head="output.weight" not in tensor_shapes,
        qk_norm=read.architecture == "qwen3" or "blk.0.attn_q_norm.weight" in tensor_shapes,
        attention_bias="blk.0.attn_q.bias" in tensor_shapes,
    )
    check_tensors(config, tensor_shapes)
    return config


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads `<architecture>.<key>` from the metadata."""

    metadata: Mapping[str, object]
    architecture: str

    def get(self, key: str) -> object:
        return self.metadata.get(f"{self.architecture}.{key}")

    def count(self, key: str, default: int | None = None) -> int:
        value = self._present(key, default)
        if type(value) is not int or not 1 <= value <= _LARGEST:
            raise self._refusal(key, value, "a positive whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._present(key, default)
        if type(value) not in (int, float):
            raise self._refusal(key, value, "a number")
        number = float(value)  # type: ignore[arg-type]
        if not math.isfinite(number) or number <= 0:
            raise self._refusal(key, value, "finite and positive")
        return _shortest(number)

    def _present(self, key: str, default: object) -> object:
        value = self.get(key)
        value = default if value is None else value
        if value is None:
            raise InputError(f"metadata {self.architecture}.{key} is missing; convert the checkpoint again")
        return value

    def _refusal(self, key: str, value: object, need: str) -> InputError:
        shown = "an array" if isinstance(value, np.ndarray | tuple) else f"{value!r:.80}"
        return InputError(f"metadata {self.architecture}.{key} is {shown}, not {need}; convert the checkpoint again")


def _shortest(number: float) -> float:
    """The shortest decimal with the same float32, where the number is a float32."""
    with np.errstate(over="ignore"):
        single = np.float32(number)
    return float(str(single)) if float(single) == number else number


def _architecture(metadata: Mapping[str, object]) -> str:
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InputError(f"architecture {architecture!r:.80} is not supported; give a checkpoint of one of: {known}")
    return architecture


def _head_dim(read: _Reader, width: int, n_heads: int) -> int:
    rotated = read.get("rope.dimension_count")
    if read.get("attention.key_length") is not None:
        head_dim = read.count("attention.key_length")
    elif rotated is not None:
        head_dim = read.count("rope.dimension_count")
    elif width % n_heads == 0:
        head_dim = width // n_heads
    else:
        raise InputError(
            f"width {width} is no multiple of {n_heads} heads; {read.architecture}.attention.key_length is needed"
        )
    if read.count("rope.dimension_count", head_dim) != head_dim:
        raise InputError(
            f"RoPE over {rotated} of {head_dim} channels (partial RoPE) is not supported yet; use another checkpoint"
        )
    if read.count("attention.value_length", head_dim) != head_dim:
        raise InputError(
            f"value heads that are not as long as key heads ({head_dim}) are not supported yet; use another checkpoint"
        )
    return head_dim


def _refuse_rope_scaling(read: _Reader, tensor_shapes: Mapping[str, _Shape]) -> None:
    """llama.cpp takes a scaling factor without a type as linear scaling, so a factor alone is refused too."""
    kind = read.get("rope.scaling.type")
    found = None
    if "rope_freqs.weight" in tensor_shapes:
        found = "tensor rope_freqs.weight"
    elif kind not in (None, "none"):
        found = f"rope.scaling.type = {kind!r:.80}"
    elif kind is None:
        for key in ("rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor"):
            if read.get(key) not in (None, 0, 1):
                found = f"{key} = {read.get(key)!r:.80}"
    if found:
        raise InputError(f"RoPE scaling ({found}) is not supported yet; use a checkpoint without it")


def _vocab_size(tensor_shapes: Mapping[str, _Shape]) -> int:
    shape = tensor_shapes.get("token_embd.weight")
    if shape is None:
        raise _missing("token_embd.weight")
    return shape[0]


def expected_shapes(config: DecoderConfig) -> dict[str, _Shape]:
    """Every tensor that such a decoder has, with its shape in numpy order, [out, in]."""
    width, heads, kv = config.width, config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    block: dict[str, _Shape] = {
        "attn_norm.weight": (width,),
        "attn_q.weight": (heads, width),
        "attn_k.weight": (kv, width),
        "attn_v.weight": (kv, width),
        "attn_output.weight": (width, heads),
        "ffn_norm.weight": (width,),
        "ffn_gate.weight": (config.ffn_width, width),
        "ffn_up.weight": (config.ffn_width, width),
        "ffn_down.weight": (width, config.ffn_width),
    }
    if config.qk_norm:
        block |= {"attn_q_norm.weight": (config.head_dim,), "attn_k_norm.weight": (config.head_dim,)}
    if config.attention_bias:
        block |= {"attn_q.bias": (heads,), "attn_k.bias": (kv,), "attn_v.bias": (kv,)}
    shapes = {"token_embd.weight": (config.vocab_size, width), "output_norm.weight": (width,)}
    if not config.tied_head:
        shapes["output.weight"] = (config.vocab_size, width)
    return shapes | {f"blk.{n}.{name}": shape for n in range(config.n_blocks) for name, shape in block.items()}


def check_tensors(config: DecoderConfig, tensor_shapes: Mapping[str, _Shape]) -> None:
    """Raise InputError where the tensors are not those of such a decoder, each of them and no other."""
    blocks = {name.split(".")[1] for name in tensor_shapes if name.startswith("blk.")}
    if len(blocks) != config.n_blocks:
        raise InputError(
            f"the configuration says {config.n_blocks} blocks, the tensors make {len(blocks)}; convert the checkpoint again"
        )
    expected = expected_shapes(config)
    for name, shape in expected.items():
        if name not in tensor_shapes:
            raise _missing(name)
        if tensor_shapes[name] != shape:
            raise InputError(
                f"tensor {name} has shape {tensor_shapes[name]}, and the configuration asks for {shape}; "
                "convert the checkpoint again"
            )
    for name in tensor_shapes:
        if name not in expected:  # a bias or an expert left out in silence would be a wrong model
            raise InputError(
                f"tensor {name!r:.80} is no part of the decoders that opdiff knows; use another checkpoint"
            )


def _missing(name: str) -> InputError:
    return InputError(f"tensor {name} is missing; give a whole checkpoint (not one part of a split one)")
