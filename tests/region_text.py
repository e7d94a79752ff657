"""A small graph with a norm, products, activations and a factor: in each of its regions a mistake can be made."""

from __future__ import annotations

import numpy as np

TOKENS = [1, 5, 3, 2]
FLAT = ("token", "channel")
AXES = {
    "embed": FLAT,
    "blk.0.attn_norm": FLAT,
    "blk.0.ffn_down": FLAT,
    "blk.1.ffn_down": FLAT,
    "logits": ("token", "vocab"),
}
SCALARS = "".join(f"{name} = Constant<value_float = {value}>()\n  " for name, value in (("eps", 1e-6), ("half", 0.5)))
TEXT = f"""
decoder (int64[T] tokens) => (float[T,4] embed, float[T,4] "blk.0.attn_norm", float[T,4] "blk.0.ffn_down", float[T,4] "blk.1.ffn_down", float[T,8] logits)
{{
  {SCALARS}axes = Constant<value_ints = [-1]>()
  embed = Gather(table, tokens)
  square = Mul(embed, embed)
  mean = ReduceMean(square, axes)
  shifted = Add(mean, eps)
  root = Sqrt(shifted)
  normed = Div(embed, root)
  "blk.0.attn_norm" = Mul(normed, gain)
  up0 = MatMul("blk.0.attn_norm", w0)
  act0 = Relu(up0)
  "blk.0.ffn_down" = Add(embed, act0)
  up1 = MatMul("blk.0.ffn_down", w1)
  gate = Sigmoid(up1)
  act1 = Mul(up1, gate)
  scaled = Mul(act1, half)
  "blk.1.ffn_down" = Add("blk.0.ffn_down", scaled)
  head = Transpose<perm = [1, 0]>(table)
  logits = MatMul("blk.1.ffn_down", head)
}}
"""  # fmt: skip


def changed(*replacements: tuple[str, str]) -> str:
    """TEXT with some of it written otherwise."""
    text = TEXT
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return text


def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {"table": (8, 4), "w0": (4, 4), "w1": (4, 4), "gain": (4,)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
