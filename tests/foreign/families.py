"""Families of models that no rule of opdiff knows, tiny and at random weights: each as torch writes it two ways, and with two faults.

A fault is a patch of the module, as somebody who ports it might have written it.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from foreign.models import written
from torch import Tensor, nn

Patch = Callable[[Any], None]
Make = Callable[[str], nn.Module]
N_TOKENS, VOCAB_SIZE, WIDTH = 9, 96, 32
TOKENS = (1, 5, 3, 17, 42, 5, 88, 60, 31)
F = nn.functional


@dataclass(frozen=True)
class Fault:
    """A patch of the module, and how what it does is known again.

    Args:
        tap: the one region at fault.
        module: that of the node, of A or of B, that the region names.
        edit: text that the proved edit must hold.
    """

    patch: Patch
    tap: str
    module: str
    edit: str


@dataclass(frozen=True)
class Family:
    """A model, its only input, and two faults of different kinds.

    Args:
        make: the model with attention of that implementation; the weights are the same at each call.
        ways: implementation of attention, opset and whether torch optimises: of A and of B.
        shared: the least share of A's and of B's values that have a partner.
    """

    make: Make
    x: Callable[[], Tensor]
    input_name: str
    faults: Sequence[Fault]
    ways: tuple[tuple[str, int, bool], tuple[str, int, bool]] = (("eager", 18, True), ("sdpa", 23, True))
    shared: tuple[float, float] = (0.9, 0.9)

    @property
    def tokens(self) -> tuple[int, ...] | None:
        return TOKENS if self.input_name == "input_ids" else None

    def write(self, path: Path, way: int, patches: Sequence[Patch] = ()) -> Path:
        """The model with patches, as `path`."""
        attention, opset, optimize = self.ways[way]
        model = self.make(attention)
        for patch in patches:
            patch(model)
        return written(Only(model), self.x(), path, opset, self.input_name, optimize)


class Only(nn.Module):
    """A model with one input, and the first of its outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        made = self.model(x)
        return made if isinstance(made, Tensor) else made[0]


def filled(module: nn.Module) -> nn.Module:
    """The module with seeded weights: gains far from 1, biases far from 0, and products that keep values near 1 in size."""
    generator = torch.Generator().manual_seed(11)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if name.endswith("var") or (name.endswith("weight") and re.search(r"norm|\.ln_|\.?bn\d?\.", name.lower())):
            tensor.uniform_(0.5, 2.5, generator=generator)
        elif tensor.ndim > 1 and re.search(r"emb|position|\.wpe|\.wte", name):
            tensor.normal_(0, 1, generator=generator)
        elif tensor.ndim > 1:
            tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
        else:
            tensor.uniform_(-0.5, 0.5, generator=generator)
    return module.eval().requires_grad_(False)


def tokens() -> Tensor:
    return torch.tensor([TOKENS])


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def replaced(module: nn.Module, name: str, method: Callable[..., Any]) -> None:
    """The module with another method of that name."""
    setattr(module, name, types.MethodType(method, module))


def bert(attention: str) -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=24,
        attn_implementation=attention,
    )
    return filled(transformers.BertModel(config, add_pooling_layer=False))


def gpt2(attention: str) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=VOCAB_SIZE,
        n_positions=24,
        n_embd=WIDTH,
        n_layer=2,
        n_head=4,
        use_cache=False,
        attn_implementation=attention,
    )
    return filled(transformers.GPT2LMHeadModel(config))


def t5_encoder(attention: str) -> nn.Module:
    config = transformers.T5Config(
        vocab_size=VOCAB_SIZE,
        d_model=WIDTH,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        use_cache=False,
        attn_implementation=attention,
    )
    return filled(transformers.T5EncoderModel(config))


def vit(attention: str) -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=12,
        patch_size=4,
        attn_implementation=attention,
    )
    return filled(transformers.ViTModel(config, add_pooling_layer=False))


def whisper_encoder(attention: str) -> nn.Module:
    config = transformers.WhisperConfig(
        d_model=WIDTH,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=48,
        num_mel_bins=8,
        max_source_positions=10,
        decoder_layers=1,
        decoder_attention_heads=4,
        vocab_size=VOCAB_SIZE,
        pad_token_id=0,
        attn_implementation=attention,
    )
    return filled(transformers.models.whisper.modeling_whisper.WhisperEncoder(config))


def mamba(attention: str) -> nn.Module:
    config = transformers.MambaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=24,
        state_size=4,
        num_hidden_layers=2,
        conv_kernel=3,
        time_step_rank=4,
        use_cache=False,
    )
    return filled(transformers.MambaForCausalLM(config))


def mixtral(attention: str) -> nn.Module:
    config = transformers.MixtralConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=64,
        use_cache=False,
        attn_implementation=attention,
        experts_implementation="batched_mm",
    )
    return filled(transformers.MixtralForCausalLM(config))


class Residual(nn.Module):
    """Two convolutions with batch norms, and what goes past them."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(n_out)
        self.conv2, self.bn2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out)
        self.past, self.bn3 = nn.Conv2d(n_in, n_out, 1, stride=2, bias=False), nn.BatchNorm2d(n_out)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.act(y + self.bn3(self.past(x)))


class Pictures(nn.Module):
    """A small residual network: a stem, a pool, two blocks, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 5, stride=1, padding=2), nn.BatchNorm2d(8)
        self.pool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        self.blocks = nn.Sequential(Residual(8, 12), Residual(12, 16))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)))
        x = self.blocks(self.pool(x))
        return self.head(x.mean((2, 3)))


def pictures(attention: str) -> nn.Module:
    return filled(Pictures())


# The faults.


def _scale_missing(attention: nn.Module) -> None:
    attention.scaling = 1.0


def _one_position_late(model: Any) -> None:
    table = model.transformer.wpe
    replaced(table, "forward", lambda self, positions: F.embedding(positions + 1, self.weight))


def _buckets_of_a_decoder(model: Any) -> None:
    """Relative positions as in a decoder: what comes later has one bucket, and what came before has all others."""
    model.encoder.block[0].layer[0].SelfAttention.is_decoder = True


def _class_token_without_position(model: Any) -> None:
    def forward(self: Any, pixel_values: Tensor, **_: Any) -> Tensor:
        patches = self.patch_embeddings(pixel_values) + self.position_embeddings[:, 1:]
        return torch.cat((self.cls_token, patches), 1)

    replaced(model.embeddings, "forward", forward)


def _not_normalised(router: Any) -> None:
    def forward(self: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = F.linear(x.reshape(-1, self.hidden_dim), self.weight)
        top, indices = torch.topk(torch.softmax(logits.float(), -1), self.top_k, dim=-1)
        return logits, top, indices

    replaced(router, "forward", forward)


def _gate_and_up_swapped(experts: Any) -> None:
    def apply(self: Any, gate_up: Tensor) -> Tensor:
        up, gate = gate_up.chunk(2, dim=-1)
        return self.act_fn(gate) * up

    replaced(experts, "_apply_gate", apply)


FAMILIES = {
    "bert": Family(
        bert,
        tokens,
        "input_ids",
        (
            Fault(
                lambda m: _scale_missing(m.encoder.layer[0].attention.self),
                "blk.0.attn_probs",
                "layer.0.attention.self",
                "x * 0.35355338 is left out",
            ),
            Fault(
                lambda m: setattr(m.encoder.layer[1].intermediate, "intermediate_act_fn", nn.GELU("tanh")),
                "blk.1.ffn_act",
                "layer.1.intermediate.intermediate_act_fn",
                "tanh(0.7978845 * (ffn_up + 0.044715 * ffn_up^3)) where A has erf(ffn_up / 1.4142135)",
            ),
        ),
    ),
    "gpt2": Family(
        gpt2,
        tokens,
        "input_ids",
        (
            Fault(_one_position_late, "blk.0.attn_norm.01.Flatten", "transformer", "moved by -1 along"),
            Fault(
                lambda m: setattr(m.transformer.h[1].ln_2, "eps", 1e-2),
                "blk.1.ffn_norm",
                "h.1.ln_2",
                "0.01 where A has 1e-05",
            ),
        ),
    ),
    "t5 encoder": Family(
        t5_encoder,
        tokens,
        "input_ids",
        (
            Fault(_buckets_of_a_decoder, "blk.0.attn_scores", "block.0.layer.0.SelfAttention", "unsqueeze"),
            Fault(
                lambda m: setattr(m.encoder.block[1].layer[-1].DenseReluDense, "act", nn.SiLU()),
                "blk.1.ffn_act",
                "block.1.layer.1.DenseReluDense.act",
                "ffn_up * sigmoid(ffn_up) where A has relu(ffn_up)",
            ),
        ),
    ),
    "vit": Family(
        vit,
        lambda: random(1, 3, 12, 12),
        "pixel_values",
        (
            Fault(
                _class_token_without_position,
                "blk.0.attn_norm.02.Flatten",
                "embeddings",
                "axis -2) where A has concat(constant [1, 1, 32], attn_norm.01.Conv, axis -2) + ",
            ),
            Fault(
                lambda m: m.layers[1].attention.q_proj.bias.zero_(),
                "blk.1.q_proj",
                "layers.1.attention.q_proj",
                "the constant is zero everywhere",
            ),
        ),
    ),
    "whisper encoder": Family(
        whisper_encoder,
        lambda: random(1, 8, 20),
        "input_features",
        (
            Fault(
                lambda m: setattr(m.conv1, "padding_mode", "replicate"),
                "blk.0.attn_norm.01.Conv",
                "conv1",
                "pad(x, mode=edge) is extra, x = input_features; Conv with pads=[0, 0] where A has [1, 1]",
            ),
            Fault(
                lambda m: _scale_missing(m.layers[1].self_attn),
                "blk.1.attn_scores",
                "layers.1.self_attn",
                "x * 0.35355338 is left out",
            ),
        ),
    ),
    "mamba": Family(
        mamba,
        tokens,
        "input_ids",
        (
            Fault(
                lambda m: setattr(m.backbone.layers[1].mixer, "activation", "gelu"),
                "step.111.Transpose",
                "layers.1.mixer",
                "erf(step.110.Slice / 1.4142135)",
            ),
            Fault(
                lambda m: m.backbone.layers[0].mixer.D.zero_(),
                "step.92.Mul",
                "layers.0.mixer",
                "the constant is zero everywhere",
            ),
        ),
        (("eager", 18, True), ("eager", 23, False)),
    ),
    "mixture of experts": Family(
        mixtral,
        tokens,
        "input_ids",
        (
            Fault(
                lambda m: _not_normalised(m.model.layers[0].mlp.gate),
                "blk.0.ffn_residual",
                "layers.0.mlp.gate",
                "x / sum(x) is left out, x = TopK(ffn_residual.01.Softmax, 2).values",
            ),
            Fault(
                lambda m: _gate_and_up_swapped(m.model.layers[1].mlp.experts),
                "blk.1.ffn_residual",
                "layers.1.mlp.experts",
                "sigmoid(y[24:48]) where A has sigmoid(y[0:24])",
            ),
        ),
    ),
    "pictures": Family(
        pictures,
        lambda: random(1, 3, 20, 20),
        "picture",
        (
            Fault(
                lambda m: setattr(m, "pool", nn.AvgPool2d(3, stride=2, padding=1)),
                "step.03.MaxPool",
                "pool",
                "averagepool(step.02.Relu",
            ),
            Fault(
                lambda m: setattr(m.blocks[1].bn2, "eps", 0.5),
                "step.12.Conv",
                "blocks.1.",
                "A's, times one factor per index of axis 0",
            ),
        ),
        (("eager", 18, True), ("eager", 23, False)),
    ),
}
