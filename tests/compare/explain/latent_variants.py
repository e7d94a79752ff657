"""One small decoder in pieces: a body between an embedding and a head, in which one thing is otherwise."""

import torch
from torch import Tensor, nn

from opdiff import tap


class Small(nn.Module):
    """An embedding, a body and a head."""

    def __init__(self, checkpoint):
        super().__init__()
        self.embedding = nn.Parameter(checkpoint["token_embd.weight"], requires_grad=False)
        self.head = nn.Parameter(checkpoint["output.weight"], requires_grad=False)
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(32, 32), requires_grad=False)
        self.zeros = nn.Parameter(torch.zeros(32), requires_grad=False)
        self.register_buffer("causal", torch.ones(64, 64, dtype=torch.bool).tril(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = tap("embed", self.embedding[tokens], axes="token channel")
        x = tap("body", self.body(x), axes="token channel")
        return tap("logits", x @ self.head.T, axes="token vocab")

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError


# Bounds and functions of numbers.


class Plain(Small):
    def body(self, x):
        return x * 2 + 1


class Clipped50(Small):
    def body(self, x):
        return (x * 2).clamp(-50.0, 50.0) + 1


class Clipped100(Small):
    def body(self, x):
        return (x * 2).clamp(-100.0, 100.0) + 1


class ClippedAbove(Small):
    def body(self, x):
        return (x * 2).clamp(max=100.0) + 1


class Chosen(Small):
    def body(self, x):
        return torch.where(x.abs() < 100.0, x * 2, 0.0) + 1


class Positive(Small):
    def body(self, x):
        return x * x + 1


class PositiveRelu(Small):
    def body(self, x):
        return (x * x).relu() + 1


class Capped30(Small):
    def body(self, x):
        return 30 * torch.tanh(x / 30)


class Capped50(Small):
    def body(self, x):
        return 50 * torch.tanh(x / 50)


class Whole(Small):
    def body(self, x):
        return (x.round() + 0.5) * 2


class WholeInHalf(Small):
    def body(self, x):
        return (x.round() + 0.5).half().float() * 2


class Linear(Small):
    def body(self, x):
        return x @ self.weight


class LinearWithZeros(Small):
    def body(self, x):
        return x @ self.weight + self.zeros


# Masks and positions.


class Attention(Small):
    fill = -torch.inf

    def hidden(self, far: Tensor) -> Tensor:
        return far < 0

    def body(self, x):
        positions = torch.arange(x.shape[0])
        hidden = self.hidden(positions[:, None] - positions[None, :])
        return (x @ x.T / 32).masked_fill(hidden, self.fill).softmax(-1) @ x


class Window40(Attention):
    def hidden(self, far):
        return (far < 0) | (far >= 40)


class Window4096(Attention):
    def hidden(self, far):
        return (far < 0) | (far >= 4096)


class Window8192(Attention):
    def hidden(self, far):
        return (far < 0) | (far >= 8192)


class FilledLow(Attention):
    fill = -1e9


class Positioned(Small):
    def body(self, x):
        return x * torch.arange(x.shape[0])[:, None].float()


class PositionedUpTo2047(Small):
    def body(self, x):
        return x * torch.arange(x.shape[0]).clamp(max=2047)[:, None].float()


# Other ways of writing.


class FilledWithTheLowest(Attention):
    fill = torch.finfo(torch.float32).min


class AttentionByTriangle(Small):
    def body(self, x):
        visible = torch.ones(x.shape[0], x.shape[0], dtype=torch.bool).tril()
        return (x @ x.T / 32).masked_fill(~visible, -torch.inf).softmax(-1) @ x


class AttentionByTable(Small):
    def body(self, x):
        n = x.shape[0]
        return (x @ x.T / 32).masked_fill(~self.causal[:n, :n], -torch.inf).softmax(-1) @ x


class AttentionByAddition(Small):
    def body(self, x):
        n = x.shape[0]
        return (x @ x.T / 32 + torch.full((n, n), -torch.inf).triu(1)).softmax(-1) @ x


class Eighth(Small):
    def body(self, x):
        return x / 8 + 1


class EighthByProduct(Small):
    def body(self, x):
        return 1 + 0.125 * x


class EighthOfNothingMore(Small):
    def body(self, x):
        return (x * 1.0 + 0.0) / 8 + 1


class Norm(Small):
    def body(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class NormByRoot(Small):
    def body(self, x):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)


class LinearByColumns(Small):
    def body(self, x):
        return torch.cat((x @ self.weight[:, :16], x @ self.weight[:, 16:]), -1)


class Halves(Small):
    def body(self, x):
        left, right = x.chunk(2, -1)
        return torch.cat([torch.sigmoid(left), right * right], -1)


class HalvesOfSizes(Small):
    def body(self, x):
        left, right = x.split([16, 16], -1)
        return torch.cat([1 / (1 + torch.exp(-left)), right * right], -1)
