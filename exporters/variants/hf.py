"""HF transformers' own model of a checkpoint, with its stages tapped from outside: no line of its code is rewritten.

Covered: every causal LM of transformers 5 in an HF folder, in float32, with eager or sdpa attention; from a GGUF file qwen3,
qwen2 and llama. Exported with a cache, it takes a batch with padding too, and keeps transformers' own DynamicCache.
Not covered: generation, quantised weights, code that a folder brings along, caches of other states than keys and values.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ...graphs.errors import InputError
from ..refusal import reason
from ..tapping import past, tap
from .hf_load import BY_INDEX, Attention, load, quiet
from .hf_plan import Plan, plan
from .hf_record import Place, Recorder, Seen, What, memory, sample

__all__ = ["Attention", "TappedModel", "build", "cache_of_all", "load", "modeling_module", "tapped"]

HEADS_OF_CACHE = "batch head slot channel"
_KERNELS = "transformers.integrations.hub_kernels"
_SAMPLE_LENGTH = 11  # which few models have as the size of anything else
MakeCache = Callable[[Any], Any]


def build(checkpoint: Any, *, attention: Attention = "eager") -> nn.Module:
    """The variant `hf`: HF's model of `checkpoint`, its stages tapped.

    Args:
        checkpoint: as for `load`.
        attention: `eager`, or `sdpa`, which has no taps for the scores and the probabilities.
    Returns:
        a module whose forward takes `tokens`, int64 [T], and gives the logits, float32 [1, T, vocabulary].
    Raises:
        InputError: transformers is not installed, does not know the family, or cannot load or run it.
    """
    return tapped(load(checkpoint, attention, BY_INDEX))


def tapped(model: nn.Module, cache: MakeCache | None = None) -> TappedModel:
    """Any causal LM of transformers, a patched one too, as a module that marks its stages.

    cache: makes an empty cache, for a configuration; None: `cache_of_all`.
    """
    return TappedModel(model, cache)


class TappedModel(nn.Module):
    """An HF causal LM that takes `tokens`, int64 [T], and marks its stages in HF's own layouts.

    `positions`, int64 [T], are HF's position_ids, where they are not to be counted from 0.
    In an export with `--cache` it takes a batch, `tokens` [B, T], and an `attention_mask` [B, P + T] of what is no padding.

    A pass over a few tokens is watched first, and shows what is tapped where: what a module gives or reads, and what has no
    module, by wrapping, while forward runs, the functions that HF's code calls: `apply_rotary_pos_emb`, the attention
    function and `softmax`.
    """

    takes_batch = True

    def __init__(self, model: nn.Module, cache: MakeCache | None = None) -> None:
        super().__init__()
        modeling_module(model)
        self.model = model
        self._make_cache = cache or cache_of_all
        self._marks = _Marks(self._planned())

    @property
    def takes_positions(self) -> bool:
        return "position_ids" in inspect.signature(self.model.forward).parameters

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        cache: Any = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """cache: one that is kept from step to step, by `marking_cache`; None: what `past` gives.

        positions: [T]; in a step [B, T].
        """
        self._marks.reset()
        with _watched(self.model, self._marks):
            if attention_mask is None:
                logits = self.model(**_whole(self.model, tokens, positions)).logits
            else:
                cache = cache or self._taken_over(tokens.shape[0])
                logits = self.model(**_step(tokens, attention_mask, cache, positions)).logits
        logits = self._marks.mark("logits", logits, "batch token vocab")
        self._marks.reset()
        return logits

    def marking_cache(self, cache: Any) -> Any:
        """A cache of transformers, which marks what it gives attention to read.

        Raises:
            InputError: the model keeps other states than keys and values.
        """
        _check_plain(cache, self.model, may_forget=True)
        for n, layer in enumerate(cache.layers):
            layer.update = _marking_update(layer.update, self._marks, n)
        return cache

    def _planned(self) -> Plan:
        """The taps, from a pass that is watched."""
        config: Any = self.model.config
        config = config.get_text_config(decoder=True)
        tokens = sample(_SAMPLE_LENGTH, config.vocab_size)
        try:
            recorder, logits = self._recorded(_whole(self.model, tokens))
        except Exception as e:  # whatever a family's own code raises
            try:  # a patched model may want a cache at all times
                mask = torch.ones(1, _SAMPLE_LENGTH, dtype=torch.int64)
                recorder, logits = self._recorded(_step(tokens[None], mask, self._begun(1)[0]))
            except Exception:
                raise InputError(f"variant hf: {type(self.model).__name__} cannot be run: {reason(e)}") from e
        seen = Seen(Place("output", "lm"), memory(logits), memory(logits), tuple(logits.shape), True)
        return plan(self.model, recorder, seen, config.num_hidden_layers, _SAMPLE_LENGTH)

    def _recorded(self, given: dict[str, Any]) -> tuple[Recorder, Tensor]:
        """What a pass on these arguments shows, and its logits."""
        recorder = Recorder()
        with quiet(), torch.no_grad(), _watched(self.model, recorder):
            return recorder, self.model(**given).logits

    def _taken_over(self, n_rows: int) -> Any:
        """A cache that holds what `past` gives."""
        cache, empty = self._begun(n_rows)
        for n, layer in enumerate(cache.layers):
            layer.keys, layer.values = past(f"blk.{n}.k_cache", empty), past(f"blk.{n}.v_cache", empty)
        return self.marking_cache(cache)

    def _begun(self, n_rows: int) -> tuple[Any, Tensor]:
        """A cache of no tokens, and the keys of a layer in it."""
        config: Any = self.model.config
        cache = self._make_cache(config)
        _check_plain(cache, self.model)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        n_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        empty = torch.zeros(n_rows, n_heads, 0, head_dim)
        for layer in cache.layers:
            layer.lazy_initialization(empty, empty)
            layer.keys, layer.values = empty, empty
        return cache, empty


def _whole(model: nn.Module, tokens: Tensor, positions: Tensor | None = None) -> dict[str, Any]:
    """What a pass over all tokens hands to the model."""
    knows_caches = "use_cache" in inspect.signature(model.forward).parameters
    return {
        "input_ids": tokens[None],
        **({} if positions is None else {"position_ids": positions[None]}),
        **({"use_cache": False} if knows_caches else {}),
    }


def _step(tokens: Tensor, attention_mask: Tensor, cache: Any, positions: Tensor | None = None) -> dict[str, Any]:
    """What a step hands to the model, as transformers' `generate` does: positions count what is no padding."""
    if positions is None:
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
    return {
        "input_ids": tokens,
        "attention_mask": attention_mask,
        "position_ids": positions,
        "past_key_values": cache,
        "use_cache": True,
    }


def cache_of_all(config: Any) -> Any:
    """transformers' DynamicCache, empty. Layers with a window keep all tokens in it too, and the mask alone makes the window."""
    import transformers
    from transformers import cache_utils

    cache = transformers.DynamicCache(config=config)
    for n, layer in enumerate(cache.layers):
        if type(layer) is cache_utils.DynamicSlidingWindowLayer:
            cache.layers[n] = cache_utils.DynamicLayer()
    return cache


def _check_plain(cache: Any, model: nn.Module, may_forget: bool = False) -> None:
    """Raise where a layer of the cache holds other things than keys and values, of all tokens unless it may forget."""
    kinds = {type(layer).__name__ for layer in cache.layers if not _is_plain(layer, may_forget)}
    wanted = inspect.signature(model.forward).parameters
    if kinds or "past_key_values" not in wanted:
        kept = ", ".join(sorted(kinds)) or "a cache of its own"
        raise InputError(
            f"variant hf: {type(model).__name__} keeps {kept}, not the keys and values of all tokens; "
            "run it whole: no --cache, no --schedule"
        )


def _is_plain(layer: Any, may_forget: bool) -> bool:
    from transformers import cache_utils

    holds_keys = isinstance(layer, cache_utils.DynamicLayer | cache_utils.StaticLayer)
    return holds_keys and (may_forget or not getattr(layer, "is_sliding", False))


def modeling_module(model: nn.Module) -> ModuleType:
    """The transformers module that the model's class, or the nearest base class, comes from.

    Raises:
        InputError: the model is not one of transformers' own.
    """
    found = next(_modeling_modules(type(model)), None)
    if found is None:
        raise InputError(f"variant hf: {type(model).__name__} is not a model of transformers")
    return found


def _modeling_modules(kind: type) -> Iterator[ModuleType]:
    for base in kind.__mro__:
        if base.__module__.startswith("transformers.models."):
            yield sys.modules[base.__module__]


class _Watcher(Protocol):
    """Is shown the tensors of a forward pass, and says with which the pass goes on."""

    def at(self, place: Place, value: Tensor) -> Tensor: ...


class _Marks:
    """Marks each stage at most once in a forward pass, the first place that has it, and no tensor under two names.

    A patched model may have two stages in one tensor (a norm that is missing gives its input back). The later one is
    then marked on a copy, which is read on, so that a graph can be cut at each of them.
    """

    def __init__(self, taps: Plan) -> None:
        self._plan = taps
        self._late = {one.name: one.axes for place, one in taps.taps.items() if place.what in ("k", "v")}
        self.reset()

    def reset(self) -> None:
        self._marked: dict[str, Tensor] = {}

    def at(self, place: Place, value: Tensor) -> Tensor:
        planned = self._plan.taps.get(place)
        if planned is not None:
            value = self.mark(planned.name, value, planned.axes)
        return value.clone() if place in self._plan.copied else value

    def into_cache(self, name: str, value: Tensor) -> Tensor:
        """What goes into a cache, where attention would have to read it to be tapped: it reads more then."""
        return self.mark(name, value, self._late[name]) if name in self._late else value

    def mark(self, name: str, value: Tensor, axes: str) -> Tensor:
        if name in self._marked:
            return value
        if any(value is other for other in self._marked.values()):
            value = value.clone()
        self._marked[name] = tap(name, value, axes)
        return self._marked[name]


@contextmanager
def _watched(model: nn.Module, watcher: _Watcher) -> Iterator[None]:
    """While this is open, modules, and the functions that HF's modeling code calls, show the watcher what they read and give."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    inside = _Inside(watcher)
    with ExitStack() as stack:
        for path, module in model.named_modules():
            if not isinstance(module, _DropoutNd):  # gives what it is given
                _hook(module, path, inside, stack)
        for owner in {found for module in model.modules() for found in _modeling_modules(type(module))}:
            for name, function in list(vars(owner).items()):
                if name.startswith("apply_rotary"):
                    _replaced(owner, name, _watched_rotary(function, inside), stack)
                elif getattr(function, "__globals__", {}).get("__name__") == _KERNELS:
                    _replaced(owner, name, _watched_kernel(function, name, inside), stack)
        _replaced(ALL_ATTENTION_FUNCTIONS, "get_interface", _watched_interface(ALL_ATTENTION_FUNCTIONS, inside), stack)
        softmaxes: tuple[Any, ...] = (nn.functional, torch, Tensor)
        for holder in softmaxes:
            _replaced(holder, "softmax", _watched_softmax(holder.softmax, inside), stack)
        for holder in softmaxes[1:]:
            _replaced(holder, "topk", _in_order(holder.topk), stack)
        yield


def _replaced(owner: Any, name: str, function: Any, stack: ExitStack) -> None:
    """Put a function in the place of another until the stack is closed."""
    if name in vars(owner):
        stack.callback(setattr, owner, name, vars(owner)[name])
    else:
        stack.callback(delattr, owner, name)
    setattr(owner, name, function)


class _Inside:
    """Which modules the pass is inside of, and how often it came to each place."""

    def __init__(self, watcher: _Watcher) -> None:
        self._watcher = watcher
        self._open: list[tuple[str, int]] = []
        self._times: Counter[tuple[str, str]] = Counter()
        self.in_softmax = False

    def enter(self, path: str) -> None:
        self._open.append((path, self.time("module", path)))

    def leave(self) -> None:
        self._open.pop()

    @property
    def path(self) -> str:
        return self._open[-1][0] if self._open else ""

    def time(self, what: str, path: str) -> int:
        """How often this was asked before."""
        self._times[what, path] += 1
        return self._times[what, path] - 1

    def shown(self, place: Place, value: Tensor) -> Tensor:
        return self._watcher.at(place, value)

    def of_module(self, what: What, values: list[Any]) -> list[Any]:
        """Inputs or outputs of the innermost module; what is no tensor stays."""
        path, call = self._open[-1]
        tensors = iter(range(len(values)))
        return [
            self._watcher.at(Place(what, path, call, next(tensors)), value) if isinstance(value, Tensor) else value
            for value in values
        ]

    def of_function(self, call: int, **values: Tensor) -> list[Tensor]:
        """What a function that the innermost module calls reads or gives."""
        return [self._watcher.at(Place(what, self.path, call), value) for what, value in values.items()]  # type: ignore[arg-type]


def _hook(module: nn.Module, path: str, inside: _Inside, stack: ExitStack) -> None:
    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        inside.enter(path)
        values = inside.of_module("input", [*args, *kwargs.values()])
        return tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True))

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            (output,) = inside.of_module("output", [output])
        elif type(output) in (tuple, list):
            output = type(output)(inside.of_module("output", list(output)))
        inside.leave()
        return output

    stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
    stack.callback(module.register_forward_hook(after).remove)


def _watched_kernel(kernel: Callable[..., Any], name: str, inside: _Inside) -> Callable[..., Any]:
    """A function that transformers can put a kernel in the place of: a convolution, a scan, a delta rule."""

    def watched_kernel(*args: Any, **kwargs: Any) -> Any:
        path = f"{inside.path}.{name}"
        place, given = Place("function", path, inside.time("function", path)), kernel(*args, **kwargs)
        if isinstance(given, Tensor):
            return inside.shown(place, given)
        if isinstance(given, tuple) and given and isinstance(given[0], Tensor):
            return inside.shown(place, given[0]), *given[1:]
        return given

    return watched_kernel


def _watched_rotary(rotary: Callable[..., Any], inside: _Inside) -> Callable[..., Any]:
    def apply_rotary(q: Any, k: Any = None, *args: Any, **kwargs: Any) -> Any:
        both = isinstance(q, Tensor) and isinstance(k, Tensor)
        call = inside.time("rotary", inside.path)
        if both:
            q, k = inside.of_function(call, rotary_q=q, rotary_k=k)
        rotated = rotary(q, *(() if k is None else (k,)), *args, **kwargs)
        if both and isinstance(rotated, tuple) and len(rotated) == 2:
            return tuple(inside.of_function(call, rotated_q=rotated[0], rotated_k=rotated[1]))
        return rotated

    return apply_rotary


def _watched_interface(functions: Any, inside: _Inside) -> Callable[..., Any]:
    """Stands for the way in which transformers' attention modules come by their function."""
    get_interface = functions.get_interface

    def watched_get_interface(implementation: str, default: Callable[..., Any]) -> Callable[..., Any]:
        attention = get_interface(implementation, default)

        def attend(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
            call = inside.time("attention", inside.path)
            q, k, v = inside.of_function(call, q=q, k=k, v=v)
            context, weights = attention(module, q, k, v, *args, **kwargs)
            (context,) = inside.of_function(call, context=context)
            if isinstance(weights, Tensor):
                (weights,) = inside.of_function(call, weights=weights)
            return context, weights

        return attend

    return watched_get_interface


def _watched_softmax(softmax: Callable[..., Tensor], inside: _Inside) -> Callable[..., Tensor]:
    def watched_softmax(scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if inside.in_softmax:  # one softmax of torch calls another
            return softmax(scores, *args, **kwargs)
        call, inside.in_softmax = inside.time("softmax", inside.path), True
        try:
            (scores,) = inside.of_function(call, scores=scores)
            (probs,) = inside.of_function(call, probs=softmax(scores, *args, **kwargs))
        finally:
            inside.in_softmax = False
        return probs

    return watched_softmax


def _in_order(topk: Callable[..., Any]) -> Callable[..., Any]:
    """Gives the largest first, where a router leaves the order of its choice to torch."""

    def sorted_topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True, **kwargs: Any) -> Any:
        return topk(x, k, dim, largest, True, **kwargs)

    return sorted_topk


def _marking_update(update: Callable[..., Any], marks: _Marks, block: int) -> Callable[..., tuple[Tensor, Tensor]]:
    def marked_update(k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        k, v = marks.into_cache(f"blk.{block}.k_rope", k), marks.into_cache(f"blk.{block}.v_proj", v)
        keys, values = update(k, v, *args, **kwargs)
        keys = marks.mark(f"blk.{block}.k_cache", keys, HEADS_OF_CACHE)
        return keys, marks.mark(f"blk.{block}.v_cache", values, HEADS_OF_CACHE)

    return marked_update
