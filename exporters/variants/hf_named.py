"""HF's own model of a checkpoint under GGUF's names: qwen3, qwen2 and llama."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...graphs.errors import InputError

# HF module inside a block -> GGUF name inside the block
IN_BLOCK = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def load_named(checkpoint: Any, attention: str) -> Any:
    """HF's causal LM of `checkpoint`.

    Its parameters are the checkpoint's tensors themselves, but for the rows of attn_q and attn_k of a `llama` file.

    Raises:
        InputError: transformers is not installed, or has no such architecture.
    """
    model_class, config = _class_and_config(checkpoint.config, attention)
    with torch.device("meta"):
        model = model_class(config)
    model.load_state_dict(_state(model, checkpoint), assign=True)
    # The rotary table is no part of a state dict, so it is still on the meta device.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval().requires_grad_(False)


def _class_and_config(decoder: Any, attention: str) -> tuple[Any, Any]:
    """HF's model class and its configuration for a DecoderConfig."""
    try:
        import transformers
    except ImportError as e:
        raise InputError("variant hf: transformers is not installed; pip install 'opdiff[hf]'") from e
    prefixes = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama"}
    if decoder.architecture not in prefixes or not decoder.is_plain:
        known = ", ".join(prefixes)
        raise InputError(
            f"variant hf: of a GGUF file it runs plain decoders of {known}, where this one is {decoder.architecture} with "
            "choices of its own; give the model's HF folder"
        )
    prefix = prefixes[decoder.architecture]
    config = getattr(transformers, f"{prefix}Config")(
        num_hidden_layers=decoder.n_blocks,
        hidden_size=decoder.width,
        num_attention_heads=decoder.n_heads,
        num_key_value_heads=decoder.n_kv_heads,
        head_dim=decoder.head_dim,
        intermediate_size=decoder.ffn_width,
        vocab_size=decoder.vocab_size,
        max_position_embeddings=decoder.context_length,
        rope_parameters={"rope_type": "default", "rope_theta": decoder.rope_base},
        rms_norm_eps=decoder.rms_norm_eps,
        tie_word_embeddings=decoder.tied_head,
        attention_bias=decoder.attention_bias,
        pad_token_id=None,
        use_cache=False,
        dtype=torch.float32,
        attn_implementation=attention,
    )
    return getattr(transformers, f"{prefix}ForCausalLM"), config


def _state(model: nn.Module, checkpoint: Any) -> dict[str, Tensor]:
    """The state dict of `model` from the checkpoint's tensors; a bias that the file has not is zero."""
    state = {}
    for key, meta in model.state_dict().items():
        name = _gguf_name(key)
        if key.endswith(".bias") and name not in checkpoint:
            state[key] = torch.zeros(meta.shape)
        elif name == "output.weight" and checkpoint.config.tied_head:
            state[key] = checkpoint["token_embd.weight"]
        else:
            state[key] = _in_hf_rows(name, checkpoint[name], checkpoint.config)
    return state


def _gguf_name(key: str) -> str:
    """The GGUF name of an HF parameter: `model.layers.0.mlp.up_proj.weight` is `blk.0.ffn_up.weight`."""
    module, _, kind = key.rpartition(".")
    if module in OUTSIDE:
        return f"{OUTSIDE[module]}.{kind}"
    block, _, path = module.removeprefix("model.layers.").partition(".")
    return f"blk.{block}.{IN_BLOCK[path]}.{kind}"


def _in_hf_rows(name: str, value: Tensor, decoder: Any) -> Tensor:
    """Undo the row order that a `llama` file gives to attn_q and attn_k; other tensors are handed on as they are.

    Source: llama.cpp's convert_hf_to_gguf.py permutes, transformers' GGUF loader undoes it in this way.
    """
    if decoder.architecture != "llama" or not (".attn_q." in name or ".attn_k." in name):
        return value
    heads = decoder.n_heads if ".attn_q." in name else decoder.n_kv_heads
    pairs = value.reshape(heads, decoder.head_dim // 2, 2, *value.shape[1:])
    return pairs.swapaxes(1, 2).reshape(value.shape)
