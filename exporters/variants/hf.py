"""HF transformers' own model of a checkpoint, with its stages tapped from outside: no line of its code is rewritten.

Covered: `Qwen3ForCausalLM`, `Qwen2ForCausalLM` and `LlamaForCausalLM` of transformers 5, in float32, with eager or sdpa
attention. Exported with a cache, it takes a batch with padding too, and keeps transformers' own DynamicCache.
Not covered: generation, sliding windows, RoPE scaling, quantised weights.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...graphs.errors import InputError
from ..tapping import past, tap

FLAT = "batch token channel"
BY_HEAD = "batch token head channel"
HEADS_FIRST = "batch head token channel"
HEADS_OF_CACHE = "batch head slot channel"
SCORES = "batch head token key"

# HF module inside a block -> (GGUF name inside the block, stage of its output)
LINEARS = {
    "self_attn.q_proj": ("attn_q", "q_proj"),
    "self_attn.k_proj": ("attn_k", "k_proj"),
    "self_attn.v_proj": ("attn_v", "v_proj"),
    "self_attn.o_proj": ("attn_output", "o_proj"),
    "mlp.gate_proj": ("ffn_gate", "ffn_gate"),
    "mlp.up_proj": ("ffn_up", "ffn_up"),
    "mlp.down_proj": ("ffn_down", "ffn_down"),
}
NORMS = {
    "input_layernorm": ("attn_norm", "attn_norm"),
    "self_attn.q_norm": ("attn_q_norm", "q_norm"),
    "self_attn.k_norm": ("attn_k_norm", "k_norm"),
    "post_attention_layernorm": ("ffn_norm", "ffn_norm"),
}
IN_BLOCK = LINEARS | NORMS
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
# The modules of a block that are given a stage, and that stage.
INPUTS_IN_BLOCK = {
    "self_attn.o_proj": "attn_context",
    "post_attention_layernorm": "attn_residual",
    "mlp.down_proj": "ffn_act",
}
Attention = Literal["eager", "sdpa"]
MakeCache = Callable[[Any], Any]


def build(checkpoint: Any, *, attention: Attention = "eager") -> nn.Module:
    """The variant `hf`: HF's model of `checkpoint`, its stages tapped.

    Args:
        checkpoint: `.config` is a DecoderConfig, `checkpoint[name]` a float32 tensor under its GGUF name.
        attention: `eager`, or `sdpa`, which has no taps for the scores and the probabilities.
    Returns:
        a module whose forward takes `tokens`, int64 [T], and gives the logits, float32 [1, T, vocabulary].
    Raises:
        InputError: transformers is not installed, or has no such architecture.
    """
    return tapped(load(checkpoint, attention))


def load(checkpoint: Any, attention: Attention = "eager") -> Any:
    """HF's causal LM of `checkpoint`, as `build` describes it, without taps.

    Its parameters are the checkpoint's tensors themselves, but for the rows of attn_q and attn_k of a `llama` file.
    """
    model_class, config = _class_and_config(checkpoint.config, attention)
    with torch.device("meta"):
        model = model_class(config)
    model.load_state_dict(_state(model, checkpoint), assign=True)
    # The rotary table is no part of a state dict, so it is still on the meta device.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval().requires_grad_(False)


def tapped(model: nn.Module, cache: MakeCache | None = None) -> TappedModel:
    """Any HF decoder of the Llama family, patched ones too, as a module that marks its stages.

    cache: makes an empty cache, for a configuration; None: transformers' DynamicCache.
    """
    return TappedModel(model, cache)


class TappedModel(nn.Module):
    """An HF causal LM that takes `tokens`, int64 [T], and marks its stages in HF's own layouts.

    In an export with `--cache` it takes a batch, `tokens` [B, T], and an `attention_mask` [B, P + T] of what is no padding.

    Modules are tapped by hooks. What has no module (the rotated q and k, scores, probabilities, context) is tapped by
    wrapping, while forward runs, the functions that HF's code calls: `apply_rotary_pos_emb`, the attention function
    and `softmax`. Where a patched block does not call one of them, the stage is tapped at the place that reads it.
    """

    takes_batch = True

    def __init__(self, model: nn.Module, cache: MakeCache | None = None) -> None:
        super().__init__()
        self.model = model
        self._make_cache = cache or _dynamic_cache
        self._marks = _Marks()
        self._modeling = modeling_module(model)
        _hook(model, self._marks)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, cache: Any = None) -> Tensor:
        """cache: one that is kept from step to step, by `marking_cache`; None: what `past` gives."""
        self._marks.reset()
        with _wrapped(self._modeling, self._marks):
            if attention_mask is None:
                logits = self.model(input_ids=tokens[None], use_cache=False).logits
            else:
                cache = cache or self._taken_over(tokens.shape[0])
                logits = self.model(**_step(tokens, attention_mask, cache)).logits
        logits = self._marks.mark("logits", logits, "batch token vocab")
        self._marks.reset()
        return logits

    def marking_cache(self, cache: Any) -> Any:
        """A cache of transformers, which marks what it gives attention to read."""
        for n, layer in enumerate(cache.layers):
            layer.update = _marking_update(layer.update, self._marks, n)
        return cache

    def _taken_over(self, n_rows: int) -> Any:
        """A cache that holds what `past` gives."""
        cache = self._make_cache(self.model.config)
        config: Any = self.model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        empty = torch.zeros(n_rows, config.num_key_value_heads, 0, head_dim)
        for n, layer in enumerate(cache.layers):
            layer.lazy_initialization(empty, empty)
            layer.keys, layer.values = past(f"blk.{n}.k_cache", empty), past(f"blk.{n}.v_cache", empty)
        return self.marking_cache(cache)


def _step(tokens: Tensor, attention_mask: Tensor, cache: Any) -> dict[str, Any]:
    """What a step hands to the model, as transformers' `generate` does: positions count what is no padding."""
    positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
    return {
        "input_ids": tokens,
        "attention_mask": attention_mask,
        "position_ids": positions,
        "past_key_values": cache,
        "use_cache": True,
    }


def _dynamic_cache(config: Any) -> Any:
    import transformers

    return transformers.DynamicCache(config=config)


def modeling_module(model: nn.Module) -> ModuleType:
    """The transformers module that the model's class, or the nearest base class, comes from.

    Raises:
        InputError: the model is not one of transformers' own.
    """
    for base in type(model).__mro__:
        if base.__module__.startswith("transformers.models."):
            return importlib.import_module(base.__module__)
    raise InputError(f"variant hf: {type(model).__name__} is not a model of transformers")


class _Marks:
    """Marks each stage at most once in a forward pass, the first place that has it, and no tensor under two names.

    A patched model may have two stages in one tensor (a norm that is missing gives its input back). The later one is
    then marked on a copy, which is read on, so that a graph can be cut at each of them.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.block = 0
        self._marked: dict[str, Tensor] = {}

    def enter(self, block: int) -> None:
        self.block = block

    def mark(self, name: str, value: Tensor, axes: str) -> Tensor:
        if name in self._marked:
            return value
        if any(value is other for other in self._marked.values()):
            value = value.clone()
        self._marked[name] = tap(name, value, axes)
        return self._marked[name]

    def mark_here(self, stage: str, value: Tensor, axes: str) -> Tensor:
        return self.mark(f"blk.{self.block}.{stage}", value, axes)


def _hook(model: nn.Module, marks: _Marks) -> None:
    """Register the hooks that mark what HF has a module for."""
    _mark_output(model.get_submodule("model.embed_tokens"), marks, "embed")
    _mark_output(model.get_submodule("model.norm"), marks, "final_norm")
    layers = model.get_submodule("model.layers")
    assert isinstance(layers, nn.ModuleList)
    for block, layer in enumerate(layers):
        _hook_block(layer, marks, block)


def _hook_block(layer: nn.Module, marks: _Marks, block: int) -> None:
    layer.register_forward_pre_hook(lambda *_: marks.enter(block))
    present = dict(layer.named_modules())
    for path, (_, stage) in IN_BLOCK.items():
        if path in present:
            _mark_output(present[path], marks, f"blk.{block}.{stage}")
    for path, stage in INPUTS_IN_BLOCK.items():  # a family that has no such module goes without the stage
        if path in present:
            _mark_input(present[path], marks, f"blk.{block}.{stage}")
    # `tap` gives the very tensor back, so the residual path reads the tapped value too. It must then not be the o_proj
    # tap itself, as it would be where a patched block leaves the residual out.
    if "self_attn" in present:
        present["self_attn"].register_forward_hook(lambda _, __, output: (output[0].clone(), *output[1:]))
    _mark_output(layer, marks, f"blk.{block}.ffn_residual")


def _mark_output(module: nn.Module, marks: _Marks, name: str) -> None:
    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return marks.mark(name, output, _token_major(output))

    module.register_forward_hook(hook)


def _mark_input(module: nn.Module, marks: _Marks, name: str) -> None:
    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (marks.mark(name, args[0], _token_major(args[0])), *args[1:])

    module.register_forward_pre_hook(hook)


def _token_major(value: Tensor) -> str:
    """The axes of what an HF module gives: the q and k norms work on heads, or, patched, on whole projections."""
    return BY_HEAD if value.ndim == 4 else FLAT


@contextmanager
def _wrapped(modeling: ModuleType, marks: _Marks) -> Iterator[None]:
    """While this is open, the functions that HF's modeling code calls mark what they read and give."""
    with ExitStack() as stack:
        for owner, name, wrap in (
            (modeling, "apply_rotary_pos_emb", _marking_rotary),
            (modeling, "ALL_ATTENTION_FUNCTIONS", _MarkingInterfaces),
            (nn.functional, "softmax", _marking_softmax),
        ):
            original = getattr(owner, name)
            setattr(owner, name, wrap(original, marks))
            stack.callback(setattr, owner, name, original)
        yield


def _marking_rotary(rotary: Callable[..., tuple[Tensor, Tensor]], marks: _Marks) -> Callable[..., Any]:
    def apply_rotary_pos_emb(q: Tensor, k: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return _mark_rotated(marks, *rotary(q, k, *args, **kwargs))

    return apply_rotary_pos_emb


def _mark_rotated(marks: _Marks, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return marks.mark_here("q_rope", q, HEADS_FIRST), marks.mark_here("k_rope", k, HEADS_FIRST)


def _marking_update(update: Callable[..., Any], marks: _Marks, block: int) -> Callable[..., tuple[Tensor, Tensor]]:
    def marked_update(k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = update(k, v, *args, **kwargs)
        keys = marks.mark(f"blk.{block}.k_cache", keys, HEADS_OF_CACHE)
        return keys, marks.mark(f"blk.{block}.v_cache", values, HEADS_OF_CACHE)

    return marked_update


def _marking_softmax(softmax: Callable[..., Tensor], marks: _Marks) -> Callable[..., Tensor]:
    def marked_softmax(scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        scores = marks.mark_here("attn_scores", scores, SCORES)
        return marks.mark_here("attn_probs", softmax(scores, *args, **kwargs), SCORES)

    return marked_softmax


class _MarkingInterfaces:
    """Stands for transformers' `ALL_ATTENTION_FUNCTIONS` and wraps the function that it hands out."""

    def __init__(self, functions: Any, marks: _Marks) -> None:
        self._functions = functions
        self._marks = marks

    def get_interface(self, implementation: str, default: Callable[..., Any]) -> Callable[..., Any]:
        attention = self._functions.get_interface(implementation, default)

        def attend(module: nn.Module, q: Tensor, k: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
            q, k = _mark_rotated(self._marks, q, k)
            context, weights = attention(module, q, k, *args, **kwargs)
            return self._marks.mark_here("attn_context", context, BY_HEAD), weights

        return attend


def _class_and_config(decoder: Any, attention: str) -> tuple[Any, Any]:
    """HF's model class and its configuration for a DecoderConfig."""
    try:
        import transformers
    except ImportError as e:
        raise InputError("variant hf: transformers is not installed; pip install 'opdiff[hf]'") from e
    prefixes = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama"}
    if decoder.architecture not in prefixes:
        known = ", ".join(prefixes)
        raise InputError(f"variant hf: no HF model for architecture {decoder.architecture}; there is one for {known}")
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
    return f"blk.{block}.{IN_BLOCK[path][0]}.{kind}"


def _in_hf_rows(name: str, value: Tensor, decoder: Any) -> Tensor:
    """Undo the row order that a `llama` file gives to attn_q and attn_k; other tensors are handed on as they are.

    Source: llama.cpp's convert_hf_to_gguf.py permutes, transformers' GGUF loader undoes it in this way.
    """
    if decoder.architecture != "llama" or not (".attn_q." in name or ".attn_k." in name):
        return value
    heads = decoder.n_heads if ".attn_q." in name else decoder.n_kv_heads
    pairs = value.reshape(heads, decoder.head_dim // 2, 2, *value.shape[1:])
    return pairs.swapaxes(1, 2).reshape(value.shape)
