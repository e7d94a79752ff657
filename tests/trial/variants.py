"""Ports of one decoder with the faults of public bug reports: each stage is a method, and a fault overrides one.

A class that another's docstring calls right has a twin, `...Again`: the same mathematics, written as somebody else would.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opdiff import tap

LINEAR = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


class Decoder(nn.Module):
    """Plain: RMSNorm before each branch, RoPE in halves, grouped queries, a gated feed-forward network."""

    n_blocks = 1  # an export costs by the block; two where a fault might be told by block

    def __init__(self, checkpoint):
        super().__init__()
        self.config = checkpoint.config
        for name in checkpoint:
            self.register_parameter(name.replace(".", "_"), nn.Parameter(checkpoint[name], requires_grad=False))

    def weight(self, name: str) -> Tensor:
        return getattr(self, f"{name}.weight".replace(".", "_"))

    def forward(self, tokens: Tensor) -> Tensor:  # int64 [T]
        x = tap("embed", self.embed(tokens), axes="token channel")
        for n in range(self.n_blocks):
            x = self.block(x, f"blk.{n}")
        x = tap("final_norm", self.norm(x, "output_norm"), axes="token channel")
        return tap("logits", x @ self.weight("output").T, axes="token vocab")

    def block(self, x: Tensor, b: str) -> Tensor:
        h = tap(f"{b}.attn_norm", self.norm(x, f"{b}.attn_norm"), axes="token channel")
        x = tap(f"{b}.attn_residual", x + self.attention(h, b), axes="token channel")
        h = tap(f"{b}.ffn_norm", self.norm(x, f"{b}.ffn_norm"), axes="token channel")
        return tap(f"{b}.ffn_residual", x + self.feed_forward(h, b), axes="token channel")

    def embed(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight("token_embd"))

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight(name)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weight(name).T

    def attention(self, h: Tensor, b: str) -> Tensor:
        n_groups = self.config.n_heads // self.config.n_kv_heads
        q, k, v = (
            tap(f"{b}.{x}_proj", self.linear(h, f"{b}.attn_{x}").unflatten(1, (-1, 16)), axes="token head channel")
            for x in "qkv"
        )
        q, k, v = self.behind_projections(q, k, v)
        q = tap(f"{b}.q_rope", self.rope(q), axes="token head channel")
        k = tap(f"{b}.k_rope", self.rope(k), axes="token head channel")
        q, k, v = (x.transpose(0, 1) for x in (q, k.repeat_interleave(n_groups, 1), v.repeat_interleave(n_groups, 1)))
        scores = tap(f"{b}.attn_scores", self.scores(q, k), axes="head token key")
        probs = tap(f"{b}.attn_probs", self.probs(scores), axes="head token key")
        context = tap(f"{b}.attn_context", (probs @ v).transpose(0, 1), axes="token head channel")
        return tap(f"{b}.o_proj", self.linear(context.flatten(1), f"{b}.attn_output"), axes="token channel")

    def behind_projections(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return q, k, v

    def positions(self, n_tokens: int) -> Tensor:
        return torch.arange(n_tokens).float()

    def cos_sin(self, n_tokens: int) -> tuple[Tensor, Tensor]:
        frequencies = 10000.0 ** (-torch.arange(0, 16, 2) / 16)
        angles = self.positions(n_tokens)[:, None, None] * frequencies
        return angles.cos(), angles.sin()

    def rope(self, x: Tensor) -> Tensor:  # [T, H, D]
        cos, sin = self.cos_sin(x.shape[0])
        u, v = x.chunk(2, -1)
        return torch.cat((u * cos - v * sin, v * cos + u * sin), -1)

    def visible(self, n_tokens: int) -> Tensor:
        return torch.ones(n_tokens, n_tokens, dtype=torch.bool).tril()

    def scores(self, q: Tensor, k: Tensor) -> Tensor:  # [H, T, D]
        return (q @ k.mT * 0.25).masked_fill(~self.visible(q.shape[1]), -torch.inf)

    def probs(self, scores: Tensor) -> Tensor:  # [H, T, T]
        return scores.softmax(-1)

    def feed_forward(self, h: Tensor, b: str) -> Tensor:
        gate = tap(f"{b}.ffn_gate", self.linear(h, f"{b}.ffn_gate"), axes="token channel")
        up = tap(f"{b}.ffn_up", self.linear(h, f"{b}.ffn_up"), axes="token channel")
        act = tap(f"{b}.ffn_act", F.silu(gate) * up, axes="token channel")
        return tap(f"{b}.ffn_down", self.linear(act, f"{b}.ffn_down"), axes="token channel")


class DecoderAgain(Decoder):
    def rope(self, x):
        cos, sin = (torch.cat((half, half), -1) for half in self.cos_sin(x.shape[0]))
        u, v = x.chunk(2, -1)
        return x * cos + torch.cat((-v, u), -1) * sin

    def scores(self, q, k):
        hidden = torch.full((q.shape[1], q.shape[1]), torch.finfo(torch.float32).min).triu(1)
        return (q * 0.25) @ k.mT + hidden


# A traced length baked in (pytorch/pytorch#43795, kotaro-kinoshita/yomitoku#215); Decoder is right.


class PositionsClamped(Decoder):
    def positions(self, n_tokens):
        return torch.arange(n_tokens).clamp(max=4).float()


class KeysCut(Decoder):
    def visible(self, n_tokens):
        return super().visible(n_tokens) & (torch.arange(n_tokens) < 5)


# Attention sinks (vllm-metal#212, pytorch/torchtitan#2211); Decoder has them dropped.


class Sinks(Decoder):
    def sinks(self, n_tokens: int) -> Tensor:  # [H, T, 1]
        return torch.tensor([0.9, -0.4, 2.1, 1.3]).view(4, 1, 1).expand(-1, n_tokens, 1)

    def probs(self, scores):
        return torch.cat((scores, self.sinks(scores.shape[1])), -1).softmax(-1)[..., :-1]


class SinksAgain(Sinks):
    def probs(self, scores):
        sum_of_keys = scores.logsumexp(-1, keepdim=True)
        return scores.softmax(-1) * torch.sigmoid(sum_of_keys - self.sinks(scores.shape[1]))


class SinksOfTheWrongHead(Sinks):
    def sinks(self, n_tokens):
        return super().sinks(n_tokens).roll(1, 0)


# Scores capped (onnx/onnx#7865).


class Capped(Decoder):
    def scores(self, q, k):
        capped = 4.0 * torch.tanh(q @ k.mT * 0.25 / 4.0)
        return capped.masked_fill(~self.visible(q.shape[1]), -torch.inf)


class CappedAgain(Decoder):
    def scores(self, q, k):
        hidden = torch.full((q.shape[1], q.shape[1]), torch.finfo(torch.float32).min).triu(1)
        return torch.tanh((q * 0.0625) @ k.mT) * 4.0 + hidden


class CappedAfterTheMask(Decoder):
    def scores(self, q, k):
        masked = (q @ k.mT * 0.25).masked_fill(~self.visible(q.shape[1]), -torch.inf)
        return 4.0 * torch.tanh(masked / 4.0)


# Padding on the left, by token 0 (TransformerLens#1609, huggingface/candle#1798).


class Padded(Decoder):
    """Learned positions that do not count padding; nothing but itself sees a padding token."""

    def __init__(self, checkpoint):
        super().__init__(checkpoint)
        table = torch.randn(16, self.config.width, generator=torch.Generator().manual_seed(7))
        self.table = nn.Parameter(table, requires_grad=False)

    def embed(self, tokens):
        self.is_token = tokens != 0
        return super().embed(tokens) + F.embedding(self.position_ids(self.is_token), self.table)

    def position_ids(self, is_token: Tensor) -> Tensor:
        return (is_token.long().cumsum(0) - 1).clamp(min=0)

    def rope(self, x):
        return x * 1.0

    def visible(self, n_tokens):
        return super().visible(n_tokens) & (self.is_token | torch.eye(n_tokens, dtype=torch.bool))


class PaddedAgain(Padded):
    def position_ids(self, is_token):
        counted = is_token.long().cumsum(-1) - 1
        return counted.masked_fill(~is_token, 0)


class PaddingCounted(Padded):
    def position_ids(self, is_token):
        return torch.arange(is_token.shape[0])


class PaddingSeen(Padded):
    def visible(self, n_tokens):
        return torch.ones(n_tokens, n_tokens, dtype=torch.bool).tril()


# A residual that passes 65504 (microsoft/onnxruntime#26732).


class Loud(Decoder):
    def feed_forward(self, h, b):
        return 16000.0 * super().feed_forward(h, b)


class LoudAgain(Decoder):
    def feed_forward(self, h, b):
        return super().feed_forward(h, b) * 8000.0 * 2.0


class LoudInHalf(Loud):
    def block(self, x, b):
        h = tap(f"{b}.attn_norm", self.norm(x, f"{b}.attn_norm"), axes="token channel")
        x = tap(f"{b}.attn_residual", x + self.attention(h, b), axes="token channel")
        h = tap(f"{b}.ffn_norm", self.norm(x, f"{b}.ffn_norm"), axes="token channel")
        sum_in_half = x.half() + self.feed_forward(h, b).half()
        return tap(f"{b}.ffn_residual", sum_in_half.float(), axes="token channel")


# q, k and v clipped (vllm-project/vllm#35523); Decoder has it left out.


class Clipped(Decoder):
    def behind_projections(self, q, k, v):
        return q.clamp(-1.0, 1.0), k.clamp(-1.0, 1.0), v.clamp(-1.0, 1.0)


class ClippedAgain(Decoder):
    def behind_projections(self, q, k, v):
        limit = torch.tensor(1.0)
        q, k, v = (torch.minimum(torch.maximum(x, -limit), limit) for x in (q, k, v))
        return q, k, v


# YaRN's attention factor on cos and sin (turboderp-org/exllamav3#259); Decoder has it left out.

ATTENTION_FACTOR = 0.1 * math.log(16.0) + 1.0


class Yarn(Decoder):
    def cos_sin(self, n_tokens):
        cos, sin = super().cos_sin(n_tokens)
        return cos * ATTENTION_FACTOR, sin * ATTENTION_FACTOR


class YarnAgain(Decoder):
    """The factor's square on the scores: q_rope and k_rope differ by it, and make up for one another's absence."""

    def scores(self, q, k):
        scaled = q @ k.mT * (0.25 * ATTENTION_FACTOR**2)
        return scaled.masked_fill(~self.visible(q.shape[1]), -torch.inf)


# Both branches read the block's input (TransformerLens#1644); Sequential does not.


class Sequential(Decoder):
    n_blocks = 2


class Parallel(Sequential):
    def block(self, x, b):
        h = tap(f"{b}.attn_norm", self.norm(x, f"{b}.attn_norm"), axes="token channel")
        attended = tap(f"{b}.attn_residual", x + self.attention(h, b), axes="token channel")
        h = tap(f"{b}.ffn_norm", self.norm(x, f"{b}.ffn_norm"), axes="token channel")
        return tap(f"{b}.ffn_residual", attended + self.feed_forward(h, b), axes="token channel")


class ParallelAgain(Sequential):
    def block(self, x, b):
        h = tap(f"{b}.ffn_norm", self.norm(x, f"{b}.ffn_norm"), axes="token channel")
        fed = self.feed_forward(h, b)
        h = tap(f"{b}.attn_norm", self.norm(x, f"{b}.attn_norm"), axes="token channel")
        return tap(f"{b}.ffn_residual", fed + self.attention(h, b) + x, axes="token channel")


# Weights of 4 bits in groups of 32, with a zero for each group (vllm-project/vllm#38966).


class FourBits(Decoder):
    n_blocks = 2

    def __init__(self, checkpoint):
        super().__init__(checkpoint)
        for n in range(self.n_blocks):
            for part in LINEAR:
                name = f"blk.{n}.{part}.weight".replace(".", "_")
                weight = getattr(self, name)
                delattr(self, name)
                self.register_buffer(name, self.loaded(*four_bits(weight)), persistent=False)

    def loaded(self, codes: Tensor, zeros: Tensor, scales: Tensor) -> Tensor:
        """codes [out, groups, 32]; zeros, scales [out, groups, 1]."""
        return ((codes - zeros) * scales).flatten(1)


class FourBitsAgain(FourBits):
    def loaded(self, codes, zeros, scales):
        return torch.addcmul(-zeros * scales, codes, scales).flatten(1)


class FourBitsOneTooLow(FourBits):
    def loaded(self, codes, zeros, scales):
        return super().loaded(codes, zeros + 1, scales)


def four_bits(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    groups = weight.unflatten(1, (-1, 32))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scales = (high - low) / 15
    zeros = (-low / scales).round()
    return (groups / scales + zeros).round().clamp(0, 15), zeros, scales


# LayerNorm with a bias (mindspore-lab/mindone#225).


class LayerNorm(Decoder):
    n_blocks = 2
    eps = 1e-5

    def norm(self, x, name):
        bias = torch.linspace(-0.4, 0.4, x.shape[-1])
        return F.layer_norm(x, x.shape[-1:], self.weight(name), bias, self.eps)


class LayerNormAgain(LayerNorm):
    def norm(self, x, name):
        centred = x - x.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return normed * self.weight(name) + torch.linspace(-0.4, 0.4, x.shape[-1])


class LayerNormEpsilon(LayerNorm):
    eps = 1e-7


# A router whose bias chooses the experts and is not in their weights (PaddlePaddle/PaddleFormers#3452).


class Experts(Decoder):
    """Eight experts, two at work; each is a share of the feed-forward network's channels."""

    n_blocks = 2

    def __init__(self, checkpoint):
        super().__init__(checkpoint)
        generator = torch.Generator().manual_seed(3)
        self.router = nn.Parameter(0.2 * torch.randn(8, self.config.width, generator=generator), requires_grad=False)
        self.bias = nn.Parameter(0.3 * torch.randn(8, generator=generator), requires_grad=False)

    def feed_forward(self, h, b):
        logits = tap(f"{b}.ffn_router_logits", h @ self.router.T, axes="token expert")
        weights, experts = self.route(logits)
        weights = torch.zeros_like(logits).scatter(1, experts, weights)
        weights = tap(f"{b}.ffn_router_weights", weights, axes="token expert")
        act = F.silu(self.linear(h, f"{b}.ffn_gate")) * self.linear(h, f"{b}.ffn_up")
        act = act.unflatten(1, (8, -1)) * weights[..., None]
        return tap(f"{b}.ffn_down", self.linear(act.flatten(1), f"{b}.ffn_down"), axes="token channel")

    def route(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and experts, both [T, 2]."""
        scores = logits.sigmoid()
        experts = (scores + self.bias).topk(2, -1).indices
        weights = scores.gather(1, experts)
        return weights / weights.sum(-1, keepdim=True), experts


class ExpertsAgain(Experts):
    def route(self, logits):
        chosen, experts = (1 / (1 + torch.exp(-logits)) + self.bias).topk(2, -1)
        weights = chosen - self.bias[experts]
        return weights / weights.sum(-1, keepdim=True), experts


class RouterBiasInTheWeights(Experts):
    def route(self, logits):
        weights, experts = (logits.sigmoid() + self.bias).topk(2, -1)
        return weights / weights.sum(-1, keepdim=True), experts


class RouterBiasLeftOut(Experts):
    def route(self, logits):
        weights, experts = logits.sigmoid().topk(2, -1)
        return weights / weights.sum(-1, keepdim=True), experts
