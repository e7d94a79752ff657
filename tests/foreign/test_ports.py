"""Two ports of one network by two authors: other layouts and other steps throughout, and one mistake at a time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from foreign.models import filled
from torch import Tensor, nn
from torch.nn import functional as F

from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result

SIZE = 16  # of a picture's sides, and its channels: no layout is told by the sizes of axes


class Port(nn.Module):
    """The weights of both ports; `mistake` is what a port does wrong."""

    def __init__(self, mistake: str = "") -> None:
        super().__init__()
        self.mistake = mistake
        self.first, self.second = nn.Conv2d(3, SIZE, 3, padding=1), nn.Conv2d(SIZE, 32, 3, stride=2, padding=1)
        self.groups, self.norm, self.head = (
            nn.GroupNorm(4, SIZE),
            nn.LayerNorm(32),
            nn.Linear(32 * (SIZE // 2) ** 2, 10),
        )


class ChannelsFirst(Port):
    """Layers as torch has them."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(F.silu(self.groups(self.first(x))))
        return self.head(F.relu(self.norm(x.permute(0, 2, 3, 1))).flatten(1))


class ChannelsLast(Port):
    """Every step written out, with the channels behind."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).permute(0, 2, 3, 1)
        x = self.grouped(x) * self.groups.weight + self.groups.bias
        x = self.second((x / (1 + torch.exp(-x))).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        centred = x - x.mean(-1, keepdim=True)
        variance = x.var(-1, unbiased=self.mistake == "unbiased", keepdim=True)
        x = centred * torch.rsqrt(variance + 1e-5) * self.norm.weight + self.norm.bias
        x = F.relu6(x) if self.mistake == "relu6" else F.relu(x)
        return x.flatten(1) @ self.head.weight.T + self.head.bias

    def grouped(self, x: Tensor) -> Tensor:
        """[1, height, width, channel], normalised over each group of channels."""
        apart = x.reshape(1, SIZE * SIZE, 4, SIZE // 4)
        mean = apart.mean((1, 3), keepdim=True)
        variance = ((apart - mean) ** 2).mean((1, 3), keepdim=True)
        root = torch.sqrt(variance + (0.1 if self.mistake == "eps" else 1e-5))
        return ((apart - mean) / root).reshape(x.shape)


class Residual(nn.Module):
    """Convolutions with batch norms, which the exporter folds into them; `mistake` is what a port does wrong."""

    def __init__(self, mistake: str = "") -> None:
        super().__init__()
        self.mistake = mistake
        self.first, self.depthwise = (
            nn.Conv2d(3, 24, 3, 2, 1, bias=False),
            nn.Conv2d(24, 24, 5, 1, 2, groups=24, bias=False),
        )
        self.batches, self.head = nn.ModuleList(nn.BatchNorm2d(24) for _ in range(2)), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.batches[0](self.first(x)))
        x = x + self.batches[1](self.depthwise(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class ByHand(Residual):
    """The same with batch norms as arithmetic, which stay beside their convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.normed(self.first(x), 0)
        x = x * torch.clamp(x / 6 + 0.5, 0, 1)
        y = self.normed(self.depthwise(x), 1)
        x = y + 0 * x if self.mistake == "no residual" else y + x
        return x.mean((2, 3)) @ self.head.weight.T + self.head.bias

    def normed(self, x: Tensor, n: int) -> Tensor:
        """One batch norm, of the numbers that it has learnt."""
        norm = self.batches[n]
        learnt = norm.running_mean, norm.running_var, norm.weight, norm.bias
        mean, variance, gain, bias = (vector[None, :, None, None] for vector in learnt)
        eps = 1e-2 if self.mistake == "eps" and n else 1e-5
        return (x - mean) / torch.sqrt(variance + eps) * gain + bias


class Encoder(nn.Module):
    """Attention of an encoder, in which padding is masked; `mistake` is what a port does wrong."""

    def __init__(self, mistake: str = "") -> None:
        super().__init__()
        self.mistake = mistake
        self.tokens, self.positions = nn.Embedding(50, 48), nn.Embedding(20, 48)
        self.q, self.k, self.v, self.head = (nn.Linear(48, 48) for _ in range(4))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1]))
        q, k, v = (one(x).view(1, -1, 4, 12).transpose(1, 2) for one in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask[:, None, None, :] == 1)
        return self.head(y.transpose(1, 2).flatten(2))


class Additive(Encoder):
    """The same with -10000 added to the scores that are masked, to which their own number is still added."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1]) + (1 if self.mistake == "positions" else 0)
        x = self.positions(places)[None] + self.tokens(input_ids)
        weight, bias = (
            torch.cat([getattr(one, kind) for one in (self.q, self.k, self.v)]) for kind in ("weight", "bias")
        )
        q, k, v = F.linear(x, weight, bias).reshape(1, -1, 3, 4, 12).permute(2, 0, 3, 1, 4)
        scores = (q * 12**-0.5) @ k.transpose(-1, -2) + (1.0 - attention_mask[:, None, None, :].float()) * -10000.0
        return self.head((torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2))


IDS, MASK = torch.tensor([[1, 5, 3, 9, 40, 7, 20]]), torch.tensor([[1, 1, 1, 1, 1, 0, 0]])


def exported(module: nn.Module, path: Path, by_torchscript: bool = False) -> Path:
    """The network's graph, with weights of a fixed seed."""
    inputs = (
        (IDS, MASK)
        if isinstance(module, Encoder)
        else (torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)),)
    )
    names = ["input_ids", "attention_mask"] if isinstance(module, Encoder) else ["picture"]
    options = {} if by_torchscript else {"opset_version": 18}
    with torch.no_grad():
        torch.onnx.export(
            filled(module), inputs, path, input_names=names, dynamo=not by_torchscript, verbose=False, **options
        )
    return path


def of_mistake(mistake: str, folder: Path, by_torchscript: bool) -> Result:
    a = exported(ChannelsFirst(), folder / "a.onnx", False)
    b = exported(ChannelsLast(mistake), folder / "b.onnx", by_torchscript)
    return compare(a, b, with_pictures=False)


@pytest.mark.parametrize("by_torchscript", [False, True])
def test_another_layout_is_no_difference(tmp_path, by_torchscript):
    assert of_mistake("", tmp_path, by_torchscript).parity


@pytest.mark.parametrize("by_torchscript", [False, True])
@pytest.mark.parametrize(
    ("mistake", "says"), [("eps", r"0\.1 where a has 1e-05"), ("unbiased", r"x \* 32 / 31 is extra")]
)
def test_one_mistake_is_one_cause_whatever_the_layout(tmp_path, mistake, says, by_torchscript):
    result = of_mistake(mistake, tmp_path, by_torchscript)
    (cause,) = result.root_causes
    assert re.search(says, cause.text)
    assert len(cause.taps) == 1
    assert result.closed.complete


def test_another_activation_that_this_input_does_not_show_is_told_with_one_that_does(tmp_path):
    result = of_mistake("relu6", tmp_path, False)
    assert result.parity
    (latent,) = result.latent
    assert "clip(" in latent.text
    assert "relu(" in latent.text
    assert latent.shown_by is not None
    assert latent.shown_by.endswith("times as large")


def of_two(a: nn.Module, b: nn.Module, folder: Path) -> Result:
    """The comparison of two ports, on the tokens where they read some."""
    is_text = isinstance(a, Encoder)
    inputs = {"attention_mask": MASK.numpy()} if is_text else {}
    paths = exported(a, folder / "a.onnx"), exported(b, folder / "b.onnx")
    return compare(*paths, IDS[0].tolist() if is_text else None, inputs=(inputs, inputs), with_pictures=False)


@pytest.mark.parametrize(("a", "b"), [(Residual, ByHand), (Encoder, Additive)])
def test_batch_norms_and_masks_may_be_written_out(a, b, tmp_path):
    result = of_two(a(), b(), tmp_path)
    assert result.parity, [cause.text for cause in result.root_causes]


@pytest.mark.parametrize(
    ("a", "b", "mistake", "says"),
    [
        (Residual, ByHand, "no residual", "is left out"),
        (Residual, ByHand, "eps", "where a has Conv("),
        (Encoder, Additive, "positions", "moved by -1 along"),
    ],
)
def test_a_mistake_beside_what_is_written_out_is_one_cause(a, b, mistake, says, tmp_path):
    result = of_two(a(), b(mistake), tmp_path)
    (cause,) = result.root_causes
    assert says in cause.text
    assert {one.tap for one in result.divergences} == {*cause.taps}
    assert result.closed.complete
