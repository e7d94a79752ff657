"""Decoders that take their past as inputs and give what they leave as outputs, and faults that only steps show."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from corpus.models import tiny_model
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from transformers import DynamicCache

N_BLOCKS = 2


class WithPast(nn.Module):
    """Logits and present of tokens behind a past: keys and values [batch, head, place, channel] of each block."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor) -> tuple:
        cache = DynamicCache()
        for n in range(N_BLOCKS):
            cache.update(past[2 * n], past[2 * n + 1], n)
        logits = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).logits
        return logits, *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))


def exported(path: Path, attention: str, opset: int) -> Path:
    """The corpus's tiny Qwen3 as torch writes it, its past under the names that onnxruntime-genai and Optimum give."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    model = tiny_model("qwen3", N_BLOCKS)
    model.config._attn_implementation = attention
    past = [torch.zeros(1, model.config.num_key_value_heads, 3, model.config.head_dim) for _ in range(2 * N_BLOCKS)]
    inputs = torch.ones(1, 4, dtype=torch.int64), torch.ones(1, 7, dtype=torch.int64), torch.arange(3, 7)[None]
    kinds = [f"{n}.{word}" for n in range(N_BLOCKS) for word in ("key", "value")]
    auto = torch.export.Dim.AUTO
    torch.onnx.export(
        WithPast(model).eval(),
        (*inputs, *past),
        str(path),
        dynamo=True,
        verbose=False,
        opset_version=opset,
        input_names=["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{kind}" for kind in kinds)],
        output_names=["logits", *(f"present.{kind}" for kind in kinds)],
        dynamic_shapes=({1: auto}, {1: auto}, {1: auto}, tuple({2: auto} for _ in past)),
    )
    return path


def group_query(path: Path, n_slots: int | None = None) -> Path:
    """One block of GroupQueryAttention as onnxruntime-genai runs it; `n_slots`: of a buffer that past and present share."""
    generator = np.random.default_rng(3)
    angles = np.arange(32)[:, None] / 100.0 ** (np.arange(8) / 8)
    weights = {name: generator.normal(0, 0.3, shape) for name, shape in _SHAPES.items()}
    weights |= {"cos": np.cos(angles), "sin": np.sin(angles)}
    past = [1, 1, n_slots or "past_sequence_length", 16]
    present = [1, 1, n_slots or "total_sequence_length", 16]
    reads = ["qkv", "", "", "past_key_values.0.key", "past_key_values.0.value", "seqlens_k", "total_sequence_length"]
    made = ["context", "present.0.key", "present.0.value"]
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["x"], "embedding"),
        helper.make_node("MatMul", ["x", "in"], ["qkv"], "in"),
        helper.make_node(
            "GroupQueryAttention",
            [*reads, "cos", "sin"],
            made,
            "attention",
            domain="com.microsoft",
            num_heads=2,
            kv_num_heads=1,
            do_rotary=1,
        ),
        helper.make_node("MatMul", ["context", "out"], ["attended"], "out"),
        helper.make_node("Add", ["x", "attended"], ["y"], "residual"),
        helper.make_node("MatMul", ["y", "head"], ["logits"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "decoder",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "sequence_length"]),
            helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, [1]),
            helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, []),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, past) for name in reads[3:5]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "sequence_length", 100]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, present) for name in made[1:]),
        ],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=opsets), path)
    return path


_SHAPES = {"embedding": (100, 32), "in": (32, 64), "out": (32, 32), "head": (32, 100)}


def positions_from_0(path: Path) -> Path:
    """The graph with positions that begin with 0 in every step."""
    return _between(
        path,
        "position_ids",
        "from0",
        [
            _node("ReduceMin", ["position_ids"], "first", keepdims=1),
            _node("Sub", ["position_ids", "first"], "position_ids.seen"),
        ],
    )


def blind_to_the_past(path: Path) -> Path:
    """The graph with what the steps before left masked."""
    numbers = {"zero": [0], "one": [1], "end": [2**62], "none": [0, 0]}
    nodes = [
        _node("Shape", ["input_ids"], "sizes"),
        _node("Slice", ["sizes", "one", "end", "zero"], "length"),
        _node("Neg", ["length"], "from"),
        _node("Slice", ["attention_mask", "from", "end", "one"], "own"),
        _node("Shape", ["attention_mask"], "all"),
        _node("Slice", ["all", "one", "end", "zero"], "total"),
        _node("Sub", ["total", "length"], "before"),
        _node("Concat", ["zero", "before", "none"], "pads", axis=0),
        _node("Pad", ["own", "pads"], "attention_mask.seen"),
    ]
    return _between(path, "attention_mask", "blind", nodes, numbers)


def one_slot_off(path: Path, block: int) -> Path:
    """The graph reading the keys of the steps before from one slot too far, in one block."""
    past = f"past_key_values.{block}.key"
    nodes = [
        _node("Slice", [past, "one", "end", "two"], "rest"),
        _node("Slice", [past, "zero", "one", "two"], "first"),
        _node("Concat", ["rest", "first"], f"{past}.seen", axis=2),
    ]
    return _between(path, past, "slot", nodes, {"zero": [0], "one": [1], "two": [2], "end": [2**62]})


def _node(operator: str, reads: Sequence[str], made: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, reads, [made], made, **attributes)


def _between(
    path: Path, name: str, suffix: str, nodes: Sequence[onnx.NodeProto], numbers: dict[str, list[int]] | None = None
) -> Path:
    """The graph with these nodes between an input and what reads it."""
    model = onnx.load(path)
    for node in model.graph.node:
        node.input[:] = [f"{name}.seen" if read == name else read for read in node.input]
    for place, node in enumerate(nodes):
        model.graph.node.insert(place, node)
    for word, values in (numbers or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), word))
    made = path.with_suffix(f".{suffix}.onnx")
    onnx.save(model, made)
    return made
