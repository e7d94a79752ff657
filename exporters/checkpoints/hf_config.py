"""What a decoder is, in numbers: read from the config.json of an HF folder."""

from collections.abc import Mapping

from ...graphs.errors import InputError
from .config import ARCHITECTURES, DecoderConfig

_Fields = Mapping[str, object]
_HEAD_DIM = {"qwen3": 128}  # transformers' own default, where others divide the width by the heads


def read_hf_config(fields: _Fields, tied_head: bool) -> DecoderConfig:
    """The config of a qwen3, qwen2 or llama decoder.

    Args:
        fields: what config.json holds.
        tied_head: whether the head is tied where config.json does not say.
    Raises:
        InputError: another model type, a field that is missing or senseless, RoPE scaling, partial RoPE, a sliding
            window in use, an activation other than SiLU, quantised weights. The message does not name the file.
    Source: transformers' configuration_qwen3.py, configuration_qwen2.py and configuration_llama.py.
    """
    architecture = fields.get("model_type")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InputError(f"model_type {architecture!r:.80} is not supported; give a checkpoint of one of: {known}")
    _refuse_unsupported(fields)
    width, n_heads = _count(fields, "hidden_size"), _count(fields, "num_attention_heads")
    return DecoderConfig(
        architecture=architecture,
        n_blocks=_count(fields, "num_hidden_layers"),
        width=width,
        n_heads=n_heads,
        n_kv_heads=_count(fields, "num_key_value_heads", n_heads),
        head_dim=_count(fields, "head_dim", _HEAD_DIM.get(architecture, width // n_heads)),
        ffn_width=_count(fields, "intermediate_size"),
        vocab_size=_count(fields, "vocab_size"),
        context_length=_count(fields, "max_position_embeddings"),
        rope_base=_number("rope_theta", _rope(fields).get("rope_theta", fields.get("rope_theta", 10_000.0))),
        rms_norm_eps=_number("rms_norm_eps", fields.get("rms_norm_eps")),
        tied_head=_flag(fields, "tie_word_embeddings", tied_head),
        qk_norm=architecture == "qwen3",
        attention_bias=architecture == "qwen2" or _flag(fields, "attention_bias", False),
    )


def _rope(fields: _Fields) -> _Fields:
    """RoPE's parameters: `rope_parameters` in transformers 5; in transformers 4 `rope_scaling`, or nothing."""
    for key in ("rope_parameters", "rope_scaling"):
        value = fields.get(key)
        if value is not None and not isinstance(value, dict):
            raise InputError(f"{key} is {value!r:.80}, not a table; download the checkpoint again")
        if value:
            return value
    return {}


def _refuse_unsupported(fields: _Fields) -> None:
    rope = _rope(fields)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" or any(isinstance(value, dict) for value in rope.values()):
        raise _unsupported("RoPE scaling", "rope_type", kind)
    rotated = rope.get("partial_rotary_factor", fields.get("partial_rotary_factor"))
    if rotated not in (None, 1):
        raise _unsupported("partial RoPE", "partial_rotary_factor", rotated)
    if _slides(fields):
        raise _unsupported("a sliding window", "sliding_window", fields.get("sliding_window"))
    if fields.get("hidden_act", "silu") != "silu":
        raise _unsupported("an activation other than SiLU", "hidden_act", fields["hidden_act"])
    if fields.get("quantization_config"):
        raise _unsupported("a quantised HF checkpoint", "quantization_config", fields["quantization_config"])


def _slides(fields: _Fields) -> bool:
    """Whether any block has a sliding window; `layer_types` has the last word, as in transformers."""
    layers = fields.get("layer_types")
    if isinstance(layers, list):
        return any(kind != "full_attention" for kind in layers)
    return bool(fields.get("use_sliding_window")) and fields.get("sliding_window") is not None


def _unsupported(what: str, key: str, value: object) -> InputError:
    return InputError(f"{what} ({key} = {value!r:.80}) is not supported yet; use another checkpoint")


def _count(fields: _Fields, key: str, default: int | None = None) -> int:
    value = fields.get(key)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise _senseless(key, value, "a positive whole number")
    return value


def _number(key: str, value: object) -> float:
    if type(value) not in (int, float):
        raise _senseless(key, value, "a number")
    return value  # type: ignore[return-value]


def _flag(fields: _Fields, key: str, default: bool) -> bool:
    value = fields.get(key, default)
    if not isinstance(value, bool):
        raise _senseless(key, value, "true or false")
    return value


def _senseless(key: str, value: object, need: str) -> InputError:
    return InputError(f"{key} is {'missing' if value is None else f'{value!r:.80}'}, not {need}; download it again")
