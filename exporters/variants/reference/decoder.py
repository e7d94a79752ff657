"""The reference: the mathematics on which HF transformers and llama.cpp agree for an architecture.

Source: transformers' modeling_*.py and llama.cpp's graphs of the families in exporters/checkpoints/families.
In GGUF files of the llama architecture the rows of attn_q and attn_k are permuted, and the pairing is interleaved to match.
With activations=ggml its linear layers round their inputs as llama.cpp's CPU matmuls do for weights stored as these are.
Exported with a cache, it takes the keys and values of the steps before; without, every position is computed in one pass.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....graphs.errors import InputError
from ...bound import BoundCheckpoint
from ...tapping import tap
from ..activations import Activations, product
from ..cache import n_past
from ..linear import Weights, embedding, head_name, head_weight
from .attention import capped
from .block import Block
from .norms import Norm
from .rotary import Rotary


def reference(
    checkpoint: BoundCheckpoint, weights: Weights = "as_stored", activations: Activations = "exact"
) -> nn.Module:
    """The variant `reference`."""
    return Reference(checkpoint, weights, activations)


class Reference(nn.Module):
    """tokens int64 [T] -> logits float32 [T, V].

    Positions, int64 [T], are those by which RoPE turns and a table of positions is read, where they are not to be counted from 0;
    what a token sees goes by its place among the tokens.
    """

    def __init__(self, checkpoint: BoundCheckpoint, weights: Weights, activations: Activations = "exact") -> None:
        super().__init__()
        config = self.config = checkpoint.config
        if config.experts is not None and (weights, activations) != ("as_stored", "exact"):
            raise InputError("variant reference: experts are computed as they are stored only; leave its options out")
        self.embedding = embedding(checkpoint)
        self.learned_positions = embedding(checkpoint, "position_embd") if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(checkpoint, n, weights, activations) for n in range(config.n_blocks))
        self.final_norm = Norm(checkpoint, "output_norm")
        self.head = head_weight(checkpoint, weights)
        self.head_product = product(checkpoint, head_name(checkpoint), weights, activations)
        self.rotary = Rotary(checkpoint, config.rope_base, config.rope_scaling)
        self.local_rotary = None if config.local_rope_base is None else Rotary(checkpoint, config.local_rope_base, None)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        x = F.embedding(tokens, self.embedding).float()
        x = tap("embed", multiplied(x, self.config.embedding_scale), axes="token channel")
        n_before = n_past(x.new_zeros(0, self.config.n_kv_heads, self.config.head_dim))
        keys = torch.arange(n_before + tokens.shape[0], device=tokens.device)
        queries = keys[n_before:]
        positions = queries if positions is None else positions
        if self.learned_positions is not None:
            rows = F.embedding(positions + (self.config.position_offset or 0), self.learned_positions).float()
            x = tap("position_embed", x + rows, axes="token channel")
        tables = {False: self.rotary_table(positions)}
        if self.local_rotary is not None:
            tables[True] = self.local_rotary(positions)
        visible = {window: visible_keys(keys, queries, window) for window in self.windows()}  # each [T, K]
        for n, block in enumerate(self.blocks):
            window = self.config.window(n)
            cos, sin = tables[window is not None and self.local_rotary is not None]
            x = block(x, cos, sin, visible[window])
        x = tap("final_norm", self.final_norm(x), axes="token channel")
        logits = multiplied(self.head_product(x, self.head(), None), self.config.logit_scale)
        return tap("logits", capped(logits, self.config.logit_softcap), axes="token vocab")

    def rotary_table(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The cosines and sines of these positions [T]: [T, 1, R/2]."""
        cos, sin = self.rotary(positions)
        return cos, sin

    def windows(self) -> dict[int | None, None]:
        """The windows that any block has."""
        return dict.fromkeys(self.config.window(n) for n in range(self.config.n_blocks))


def visible_keys(keys: Tensor, queries: Tensor, window: int | None) -> Tensor:
    """Which of the keys [K] the queries at these places [T] see: itself and those before, or the last `window` of them."""
    visible = keys[None, :] <= queries[:, None]
    return visible if window is None else visible & (keys[None, :] > queries[:, None] - window)


def multiplied(x: Tensor, scale: float) -> Tensor:
    """x times a scale; x itself where that is 1."""
    return x if scale == 1 else x * scale
