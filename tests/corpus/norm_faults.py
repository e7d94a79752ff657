"""Faults of the RMS norms, as HF-style code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .registry import attention_of, fault

# family of a norm -> its stages, and where it stands: (the owner for a model and a block, the attribute)
NORMS: dict[str, tuple[str, list[tuple[Callable[[Any, int], Any], str]]]] = {
    "attn_norm": ("attn_norm", [(lambda model, n: model.model.layers[n], "input_layernorm")]),
    "ffn_norm": ("ffn_norm", [(lambda model, n: model.model.layers[n], "post_attention_layernorm")]),
    "qk_norm": ("q_norm k_norm", [(attention_of, "q_norm"), (attention_of, "k_norm")]),
    "final_norm": ("final_norm", [(lambda model, n: model.model, "norm")]),
}


class NormInPlaceOf(nn.Module):
    """Takes over the gain and the eps of an HF norm."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon


class EpsOutsideTheRoot(NormInPlaceOf):
    """x / (sqrt(mean(x^2)) + eps), as some hand-written kernels have it."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        root = hidden_states.pow(2).mean(-1, keepdim=True).sqrt()
        return self.weight * (hidden_states / (root + self.eps))


class GemmaRMSNorm(NormInPlaceOf):
    """Gemma's: the gain is 1 + w."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (1.0 + self.weight)


class NormWithoutGain(NormInPlaceOf):
    """OLMo's habit, without the elementwise affine part."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


class MeanCentred(NormInPlaceOf):
    """LayerNorm with this gain and no bias."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, None, self.eps)


class AbsoluteNorm(NormInPlaceOf):
    """Divides by the mean of |x| instead of by the root of the mean square."""

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.abs().mean(-1, keepdim=True) + self.eps)


class ClippedNorm(NormInPlaceOf):
    """An RMS norm whose result is kept within -2..2."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * x.clamp(-2.0, 2.0)


class ReversedGain(NormInPlaceOf):
    """The gain is read backwards."""

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.flip(0) * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def replace(family: str, new: Callable[[Any], nn.Module]) -> Callable[[Any, int], None]:
    """A patch that puts `new(norm)` in the place of each norm of that family."""

    def patch(model: Any, block: int) -> None:
        for owner, attribute in NORMS[family][1]:
            place = owner(model, block)
            setattr(place, attribute, new(getattr(place, attribute)))

    return patch


def looser_eps(norm: Any) -> Any:
    norm.variance_epsilon = 1e-5
    return norm


ASPECTS: dict[str, tuple[str, Callable[[Any], nn.Module]]] = {
    "with eps 1e-5": ("eps", looser_eps),
    "with eps outside the root": ("eps_place", EpsOutsideTheRoot),
    "with gain 1 + w": ("gain", GemmaRMSNorm),
    "without its gain": ("gain", NormWithoutGain),
    "as LayerNorm": ("kind", MeanCentred),
    "missing": ("kind", lambda norm: nn.Identity()),
}


def _register_all() -> None:
    for family, (stages, _) in NORMS.items():
        in_block = family != "final_norm"
        for words, (aspect, new) in ASPECTS.items():
            fault(f"{family} {words}", stages, f"{family}.{aspect}", in_block=in_block)(replace(family, new))


_register_all()
fault("llama ffn_norm with eps 1e-5", "ffn_norm", "ffn_norm.eps", model="llama")(replace("ffn_norm", looser_eps))
fault("ffn_norm clipped", "ffn_norm")(replace("ffn_norm", ClippedNorm))
fault("attn_norm by mean absolute value", "attn_norm")(replace("attn_norm", AbsoluteNorm))
fault("final_norm gain reversed", "final_norm", in_block=False)(replace("final_norm", ReversedGain))


@fault("k_norm alone with eps 1e-5", "k_norm", "qk_norm.eps")
def k_norm_eps(model: Any, block: int) -> None:
    attention_of(model, block).k_norm.variance_epsilon = 1e-5


class WholeProjection(NormInPlaceOf):
    """OLMo 2's: one mean over all heads; here the gain of a head serves every head. x [batch, token, head, channel]"""

    def forward(self, x: Tensor) -> Tensor:
        variance = x.pow(2).mean((-2, -1), keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + self.eps))


fault("qk_norm over the whole projection", "q_norm k_norm", "qk_norm.per_head")(replace("qk_norm", WholeProjection))
