"""transformers' attention once more, each step replaceable: where most faults are put in.

`patch_attention(attn, mask=...)` makes one block's attention run this code with that step changed; several patches of
one block add up. Unchanged, every step is transformers' own. Methods are called `forward` because torch keeps only the
frames of that name as an ONNX node's source.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

Step = Callable[..., Any]


def modeling(module: nn.Module) -> Any:
    """The transformers file that a module's class is written in."""
    return importlib.import_module(type(module).__module__)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split RoPE of one tensor, [batch, head, token, channel], as transformers has it for q and k together."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos.unsqueeze(1) + turned * sin.unsqueeze(1)


def own_rotary(attn: nn.Module, factory: Callable[[], nn.Module]) -> None:
    """Give one block a rotary table of its own, in the precision of its weights."""
    attn.add_module("own_rotary", factory().to(attn.get_submodule("o_proj").weight.dtype))


def positions_of(x: Tensor) -> Tensor:
    """0, 1, 2, ... [1, token] for x [batch, token, channel]."""
    return torch.arange(x.shape[1], device=x.device)[None]


def causal(scores: Tensor, first_hidden: int = 1, window: int | None = None) -> Tensor:
    """True where a key may be read; the keys from `first_hidden` places after the query on are hidden."""
    query = torch.arange(scores.shape[-2], device=scores.device)[:, None]
    key = torch.arange(scores.shape[-1], device=scores.device)[None, :]
    seen = key < query + first_hidden
    return seen if window is None else seen & (key > query - window)


def _split(attn: Any, x: Tensor) -> Tensor:
    return x.view(*x.shape[:-1], -1, attn.head_dim)


def _normalise(attn: Any, x: Tensor, norm: str) -> Tensor:
    return getattr(attn, norm)(x) if hasattr(attn, norm) else x


def _rotate(attn: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return modeling(attn).apply_rotary_pos_emb(q, k, cos, sin)


def _norm_and_rotate(attn: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    q = _normalise(attn, q, "q_norm").transpose(1, 2)
    k = _normalise(attn, k, "k_norm").transpose(1, 2)
    return _step(attn, "rotate")(attn, q, k, cos, sin)


def _repeat(attn: Any, x: Tensor) -> Tensor:
    return modeling(attn).repeat_kv(x, attn.num_key_value_groups)


def _product(attn: Any, q: Tensor, k: Tensor) -> Tensor:
    return torch.matmul(q, k.transpose(2, 3)) * attn.scaling


def _merge(attn: Any, context: Tensor) -> Tensor:
    return context.transpose(1, 2).contiguous()


OUTER: dict[str, Step] = {
    "project": lambda attn, x: (attn.q_proj(x), attn.k_proj(x), attn.v_proj(x)),
    "angles": lambda attn, x, angles: angles,
    "split": _split,
    "norm_and_rotate": _norm_and_rotate,
    "rotate": _rotate,
    "values": lambda attn, v, cos, sin: v,
}
INNER: dict[str, Step] = {
    "repeat_k": _repeat,
    "repeat_v": _repeat,
    "product": _product,
    "cap": lambda attn, scores: scores,
    "mask": lambda attn, scores, mask: scores if mask is None else scores + mask,
    "softmax": lambda attn, scores: nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype),
    "merge": _merge,
}
STEPS = OUTER | INNER


def patch_attention(attn: Any, **steps: Step) -> None:
    """Replace steps of one block's attention."""
    assert set(steps) <= set(STEPS), f"no such step: {sorted(set(steps) - set(STEPS))}"
    if not hasattr(attn, "steps"):
        attn.steps = {}
        attn.forward = MethodType(SteppedAttention.forward, attn)
    assert not set(steps) & set(attn.steps), "two patches of one step"
    attn.steps.update(steps)


def _step(attn: Any, name: str) -> Step:
    return attn.steps.get(name, STEPS[name])


class SteppedAttention:
    """Holds the forward that a patched attention module runs in place of its own."""

    def forward(
        self: Any, hidden_states: Tensor, position_embeddings: Any, attention_mask: Any = None, **_: Any
    ) -> Any:
        q, k, v = _step(self, "project")(self, hidden_states)
        q, k, v = (_step(self, "split")(self, x) for x in (q, k, v))
        cos, sin = _step(self, "angles")(self, hidden_states, position_embeddings)
        q, k = _step(self, "norm_and_rotate")(self, q, k, cos, sin)
        v = _step(self, "values")(self, v.transpose(1, 2), cos, sin)
        # With nothing changed inside, whichever attention function the model was set to runs.
        inside = set(self.steps) & set(INNER)
        implementation = "eager" if inside else self.config._attn_implementation
        attention = modeling(self).ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
        context, probs = attention(self, q, k, v, attention_mask, scaling=self.scaling, dropout=0.0)
        return self.o_proj(context.reshape(*hidden_states.shape[:-1], -1).contiguous()), probs


def eager_attention(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **_: Any
) -> tuple[Tensor, Tensor]:
    """transformers' `eager_attention_forward` in steps; q, k, v: [batch, head, token, channel]."""
    k, v = _step(module, "repeat_k")(module, k), _step(module, "repeat_v")(module, v)
    scores = _step(module, "cap")(module, _step(module, "product")(module, q, k))
    scores = _step(module, "mask")(module, scores, mask)
    probs = _step(module, "softmax")(module, scores)
    return _step(module, "merge")(module, torch.matmul(probs, v)), probs
