"""Mixtures of experts: the router, its choice, the chosen experts' weighted sum, the shared experts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...bound import BoundCheckpoint
from ...tapping import tap
from ..linear import gain, linear_weight, optional_bias
from .layers import Layers

PARTS = ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
SHARED = ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")
TINY = 1e-20  # keeps a sum of sigmoids from being 0


class MixtureOfExperts(Layers):
    """The feed-forward networks of a block, of which each token goes through a few.

    All experts are computed for all tokens, which is exact and needs no copy of their weights; the choice is made of the results.
    """

    def __init__(self, checkpoint: BoundCheckpoint, name: str, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        assert checkpoint.config.experts is not None
        self.name, self.experts, self.activation = name, checkpoint.config.experts, activation
        for part in PARTS:
            self.add_module(part, linear_weight(checkpoint, f"{name}{part}.weight", "as_stored"))
            self.register_parameter(part + "_bias", optional_bias(checkpoint, f"{name}{part}.bias"))
        self.correction = optional_bias(checkpoint, name + "exp_probs_b.bias")
        self.has_shared = self.experts.shared_width is not None
        if self.has_shared:
            self.add_linear(checkpoint, SHARED, "as_stored", "exact")
        is_gated = self.experts.shared_gate
        self.shared_gate = gain(checkpoint, name + "ffn_gate_inp_shexp.weight") if is_gated else None

    def forward(self, h: Tensor) -> Tensor:
        name = self.name
        logits = tap(name + "router_logits", self.router(h), axes="token expert")
        scores = self.scores(logits)
        choice = tap(name + "expert_choice", self.choice(scores), axes="token choice")
        weights = tap(name + "router_weights", self.weights(scores, choice), axes="token choice")
        out = tap(name + "expert_out", self.routed(h, choice, weights), axes="token channel")
        return out + tap(name + "shared_out", self.shared(h), axes="token channel") if self.has_shared else out

    def router(self, h: Tensor) -> Tensor:
        """[T, E]."""
        logits = h @ self.get_submodule("ffn_gate_inp")().T
        bias = self.ffn_gate_inp_bias
        return logits if bias is None else logits + bias.float()

    def scores(self, logits: Tensor) -> Tensor:
        """What the experts are chosen by [T, E]."""
        score = self.experts.score
        return logits.softmax(-1) if score == "softmax" else logits.sigmoid() if score == "sigmoid" else logits

    def choice(self, scores: Tensor) -> Tensor:
        """The chosen experts of each token, the highest score first: int64 [T, k]."""
        experts = self.experts
        if self.correction is not None:
            scores = scores + self.correction.float()
        if experts.groups > 1:
            groups = scores.unflatten(-1, (experts.groups, -1))  # [T, G, E/G]
            best = groups.topk(2, dim=-1).values.sum(-1).topk(experts.chosen_groups, dim=-1).indices  # [T, g]
            is_chosen = (torch.arange(experts.groups)[None, :, None] == best[:, None, :]).any(-1)  # [T, G]
            scores = groups.masked_fill(~is_chosen[..., None], float("-inf")).flatten(1)
        return scores.topk(experts.chosen, dim=-1).indices

    def weights(self, scores: Tensor, choice: Tensor) -> Tensor:
        """What the chosen experts' outputs are multiplied by [T, k]."""
        experts, chosen = self.experts, scores.gather(1, choice)
        if experts.score == "softmax_of_chosen":
            chosen = chosen.softmax(-1)
        if experts.normalised:
            total = chosen.sum(-1, keepdim=True)
            chosen = chosen / (total + TINY if experts.score == "sigmoid" else total)
        return chosen if experts.scale == 1 else chosen * experts.scale

    def routed(self, h: Tensor, choice: Tensor, weights: Tensor) -> Tensor:
        """The chosen experts' outputs, weighted and summed: [T, C]."""
        x = h[None]
        if self.experts.weighted == "inputs":
            of_all = weights.new_zeros(h.shape[0], self.experts.count).scatter(1, choice, weights)  # [T, E]
            x, weights = x * of_all.T[..., None], torch.ones_like(weights)
        act = self.active(self.of_all(x, "ffn_gate_exps"), self.of_all(x, "ffn_up_exps"))
        outputs = self.of_all(act, "ffn_down_exps").transpose(0, 1)  # [T, E, C]
        chosen = outputs.gather(1, choice[..., None].expand(-1, -1, outputs.shape[-1]))  # [T, k, C]
        return (chosen * weights[..., None]).sum(1)

    def of_all(self, x: Tensor, part: str) -> Tensor:
        """x [E or 1, T, in] through this layer of each expert: [E, T, out]."""
        y = x @ self.get_submodule(part)().transpose(1, 2)
        bias = getattr(self, part + "_bias")
        return y if bias is None else y + bias.float()[:, None, :]

    def active(self, gate: Tensor, up: Tensor) -> Tensor:
        """The gated activation; gpt-oss's is clamped."""
        limit = self.experts.swiglu_limit
        if limit is None:
            return self.activation(gate) * up
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return (up + 1) * (gate * torch.sigmoid(gate * self.experts.swiglu_alpha))

    def shared(self, h: Tensor) -> Tensor:
        """What all tokens go through: [T, C]."""
        act = self.activation(self.linear(h, "ffn_gate_shexp")) * self.linear(h, "ffn_up_shexp")
        out = self.linear(act, "ffn_down_shexp")
        gate = self.shared_gate
        return out if gate is None else torch.sigmoid(h @ gate.float()[:, None]) * out
