"""What a decoder is, read from the config.json of an HF folder."""

from collections.abc import Mapping

from ...graphs.decoder_config import DecoderConfig
from ...graphs.weights import WeightFile
from .families import family_of_model_type
from .families.family import DecoderFamily, Settings
from .fields import Fields, unsupported


def read_hf_config(fields: Mapping[str, object], tied_head: bool, files: Mapping[str, WeightFile]) -> DecoderConfig:
    """The config of a decoder of a family that is known.

    Args:
        fields: what config.json holds.
        tied_head: whether the head is tied where config.json does not say.
        files: the file of each tensor: some families have settings that are tensors.
    Raises:
        InputError: another model type, a field that is missing or senseless, a choice that opdiff's decoder has not, quantised
            weights. The message does not name the file.
    Source: transformers' configuration_*.py.
    """
    family = family_of_model_type(fields.get("model_type"))
    read = Fields(fields, family.hf_names, files)
    if fields.get("quantization_config"):
        raise unsupported("a quantised HF checkpoint", "quantization_config", fields["quantization_config"])
    settings = {**_common(read, family, tied_head), **family.settings, **family.from_hf(read)}
    if settings["activation"] == "xielu" and "xielu" not in settings:
        raise unsupported("this activation here", "hidden_act", "xielu")
    return DecoderConfig(architecture=family.architecture, **settings)  # type: ignore[arg-type]


def _common(read: Fields, family: DecoderFamily, tied_head: bool) -> Settings:
    width, n_heads = read.count("hidden_size"), read.count("num_attention_heads")
    head_dim = read.count("head_dim", family.head_dim or width // n_heads)
    return {
        "n_blocks": read.count("num_hidden_layers"),
        "width": width,
        "n_heads": n_heads,
        "n_kv_heads": read.count("num_key_value_heads", n_heads),
        "head_dim": head_dim,
        "ffn_width": read.count("intermediate_size"),
        "vocab_size": read.count("vocab_size"),
        "context_length": read.count("max_position_embeddings"),
        "rms_norm_eps": read.number("rms_norm_eps"),
        "tied_head": read.flag("tie_word_embeddings", tied_head),
        "qk_norm": False,
        "attention_bias": read.flag("attention_bias", False),
        "activation": read.activation(),
        "rope_base": read.rope_base(),
        "rope_scaling": read.rope_scaling(),
        "rotary_dim": _rotary_dim(read, family, head_dim),
    }


def _rotary_dim(read: Fields, family: DecoderFamily, head_dim: int) -> int | None:
    share = read.rotated_share()
    if share != 1 and not family.is_partly_rotated:
        raise unsupported("partial RoPE", "partial_rotary_factor", share)
    rotated = int(head_dim * share)
    return None if rotated == head_dim else rotated
