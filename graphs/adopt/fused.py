"""What onnxruntime's optimizers fuse, as steps: attention with its projections or padding, embeddings, quantised products."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from .expansions import Body, attended, causal, expansion, in_heads, layer_norm, merged
from .quantised import BY_CHANNEL

_UNSEEN = -10000.0  # what onnxruntime adds to scores of padding, where a node says nothing else


@expansion("Attention", 6, "num_heads qkv_hidden_sizes unidirectional scale mask_filter_value do_rotary")
def _attention(body: Body) -> list[NodeProto] | None:
    x, weight, bias, padding, past, added = (body.read(n) for n in range(6))
    return _of_packed_weights(body, x, weight, bias, padding, past, body.shape(weight)[1], added)


@expansion("QAttention", 9, "num_heads unidirectional scale mask_filter_value do_rotary")
def _attention_of_whole(body: Body) -> list[NodeProto] | None:
    """The same of a value and a weight in whole numbers."""
    x, weight, bias, scale, weight_scale, padding, zero, weight_zero, past = (body.read(n) for n in range(9))
    operands = _dequantised(body, [x, scale, zero]), _dequantised(body, [weight, weight_scale, weight_zero])
    if operands[0] is None or operands[1] is None:
        return None
    return _of_packed_weights(body, operands[0], operands[1], bias, padding, past, body.shape(weight)[1], "")


def _of_packed_weights(
    body: Body, x: str, weight: str, bias: str, padding: str, past: str, width: int, added: str
) -> list[NodeProto] | None:
    """Attention whose weight [in, width] is those of q, k and v side by side."""
    shape = body.shape(body.read(0))
    if body.number("do_rotary", 0) or len(shape) != 3:
        return None
    (batch, n_tokens, _), heads = shape, int(body.number("num_heads", 0))
    sizes = body.numbers("qkv_hidden_sizes") or [width // 3] * 3
    n_keys = n_tokens + (body.shape(past)[3] if past else 0)
    unseen = _unseen(body, padding, batch, n_tokens, n_keys)
    if unseen is None:
        return None
    made = [body.op("MatMul", x, part) for part in body.split(weight, sizes)]
    if bias:
        made = [body.op("Add", *pair) for pair in zip(made, body.split(bias, sizes), strict=True)]
    q, k, v = (
        in_heads(body, name, batch, n_tokens, heads, size // heads) for name, size in zip(made, sizes, strict=True)
    )
    if past:
        body.begin("past")
        before = [body.op("Gather", past, body.constant(np.array(place)), axis=0) for place in (0, 1)]
        k, v = (body.op("Concat", *pair, axis=2) for pair in zip(before, (k, v), strict=True))
    present = [body.op("Unsqueeze", name, body.constant([0])) for name in (k, v)] if body.node.output[1:] else []
    body.begin("attended")
    masks = [body.constant(causal(n_tokens, n_keys))] if body.number("unidirectional", 0) else []
    scale = body.number("scale", 0) or 1 / math.sqrt(sizes[0] // heads)
    context = attended(body, q, k, v, 1, scale, [*masks, *unseen, *filter(None, [added])])
    return body.ends(merged(body, context, batch, n_tokens), body.op("Concat", *present, axis=0) if present else "")


@expansion("MultiHeadAttention", 8, "num_heads scale unidirectional mask_filter_value")
def _multi_head(body: Body) -> list[NodeProto] | None:
    """Its operands may stand side by side: q, k and v in the first input, or k and v in the second one."""
    q, k, v, bias, padding, added, past_k, past_v = (body.read(n) for n in range(8))
    heads, (batch, n_tokens) = int(body.number("num_heads", 0)), body.shape(q)[:2]
    ranks = [len(body.shape(name)) if name else 0 for name in (q, k, v)]
    width = body.shape(q)[-1] * (heads if ranks[0] == 5 else 1)
    n_keys, in_heads_already = n_tokens, False
    if ranks == [5, 0, 0]:
        q, k, v = _side_by_side(body, q)
    elif ranks == [3, 5, 0]:
        n_keys = body.shape(k)[1]
        k, v = _side_by_side(body, k)
    elif ranks in ([3, 3, 3], [3, 4, 4]):
        in_heads_already = ranks[1] == 4
        n_keys = body.shape(k)[2 if in_heads_already else 1]
    else:
        return None
    n_past = body.shape(past_k)[2] if past_k else 0
    unseen = _unseen(body, padding, batch, n_tokens, n_keys + n_past)
    if unseen is None:
        return None
    if bias:
        biases = body.split(bias, [width, width, body.shape(bias)[0] - 2 * width])
        q, k, v = (
            name if n and in_heads_already else body.op("Add", name, part)
            for n, (name, part) in enumerate(zip((q, k, v), biases, strict=True))
        )
    q = in_heads(body, q, batch, n_tokens, heads, width // heads)
    if not in_heads_already:
        k, v = (in_heads(body, name, batch, n_keys, heads, -1) for name in (k, v))
    if n_past:
        body.begin("past")
        k, v = body.op("Concat", past_k, k, axis=2), body.op("Concat", past_v, v, axis=2)
    body.begin("attended")
    masks = [body.constant(causal(n_tokens, n_keys + n_past))] if body.number("unidirectional", 0) else []
    scale = body.number("scale", 0) or 1 / math.sqrt(width // heads)
    context = attended(body, q, k, v, 1, scale, [*masks, *unseen, *filter(None, [added])])
    return body.ends(merged(body, context, batch, n_tokens), k, v)


def _side_by_side(body: Body, packed: str) -> list[str]:
    """The parts of a value [batch, token, head, part, channel], each as [batch, token, channel]."""
    batch, n_tokens, _, n_parts, _ = body.shape(packed)
    parts = [body.op("Gather", packed, body.constant(np.array(place)), axis=3) for place in range(n_parts)]
    return [body.op("Reshape", part, body.constant([batch, n_tokens, -1])) for part in parts]


def _unseen(body: Body, padding: str, batch: int, n_tokens: int, n_keys: int) -> list[str] | None:
    """What is added to scores [batch, head, token, key] for padding, if anything; None for a mask that is not modelled.

    It may be lengths [batch], or ends and starts [2 * batch], or 1 for what is seen, by key or by token and key.
    """
    if not padding:
        return []
    shape = body.shape(padding)
    if shape in ((batch, n_keys), (batch, n_tokens, n_keys)):
        seen = body.op("Greater", padding, body.constant(np.array(0, body.values[padding].array.dtype)))
    elif shape in ((batch,), (2 * batch,)):
        keys, axis = body.constant(np.arange(n_keys, dtype=body.values[padding].array.dtype)[None]), body.constant([1])
        bounds = [
            body.op("Unsqueeze", body.op("Slice", padding, body.constant([n]), body.constant([n + batch])), axis)
            for n in range(0, shape[0], batch)
        ]
        seen = body.op("Less", keys, bounds[0])
        if bounds[1:]:
            seen = body.op("And", seen, body.op("GreaterOrEqual", keys, bounds[1]))
    else:
        return None
    unseen = body.constant(body.number("mask_filter_value", _UNSEEN))
    made = body.op("Where", seen, body.constant(0.0), unseen)
    return [body.op("Unsqueeze", made, body.constant([1] if len(shape) == 3 else [1, 2]))]


@expansion("EmbedLayerNormalization", 9, "epsilon mask_index_type")
def _embedded(body: Body) -> list[NodeProto] | None:
    tokens, segments, words, places, kinds, gain, bias, mask, positions = (body.read(n) for n in range(9))
    return _of_tables(body, tokens, segments, [words, places, kinds, gain, bias], mask, positions)


@expansion("QEmbedLayerNormalization", 18, "epsilon mask_index_type")
def _embedded_of_whole(body: Body) -> list[NodeProto] | None:
    """The same of tables in whole numbers."""
    tables = [
        _dequantised(body, [body.read(n), body.read(n + 6), body.read(n + 11)]) if body.read(n) else ""
        for n in range(2, 7)
    ]
    held = [table for table in tables if table is not None]
    return _of_tables(body, body.read(0), body.read(1), held, body.read(7), "") if len(held) == len(tables) else None


def _of_tables(
    body: Body, tokens: str, segments: str, tables: Sequence[str], mask: str, positions: str
) -> list[NodeProto]:
    """Tokens, positions and segments looked up and normalised; beside it how many tokens the mask has."""
    words, places, kinds, gain, bias = tables
    batch, n_tokens = body.shape(tokens)
    at = positions or body.constant(np.arange(n_tokens)[None])
    total = body.op("Add", body.op("Gather", words, tokens, axis=0), body.op("Gather", places, at, axis=0))
    if segments:
        total = body.op("Add", total, body.op("Gather", kinds, segments, axis=0))
    counts = body.constant(np.zeros(batch, np.int32))
    if mask:
        ones = body.op("Equal", mask, body.constant(np.array(1, body.values[mask].array.dtype)))
        counts = body.op("Cast", ones, to=TensorProto.INT32)
        counts = body.op("ReduceSum", counts, body.constant([1]), keepdims=0)
    return body.ends(layer_norm(body, total, gain, bias, body.number("epsilon", 1e-12)), counts, total)


@expansion("DynamicQuantizeMatMul", 5)
def _of_rounded(body: Body) -> list[NodeProto] | None:
    """A product of an activation that is rounded first with a weight in whole numbers."""
    x, weight, scale, zero, bias = (body.read(n) for n in range(5))
    whole = [f"{body.node.output[0]}/rounded.{n}" for n in range(3)]
    rounding = helper.make_node("DynamicQuantizeLinear", [x], whole, f"{body.node.name}/DynamicQuantizeLinear")
    rounding.metadata_props.extend(body.node.metadata_props)
    body.steps.append(rounding)
    return _product_of_whole(body, whole, [weight, scale, zero], bias)


@expansion("MatMulIntegerToFloat", 7)
def _of_whole(body: Body) -> list[NodeProto] | None:
    x, weight, scale, weight_scale, zero, weight_zero, bias = (body.read(n) for n in range(7))
    return _product_of_whole(body, [x, scale, zero], [weight, weight_scale, weight_zero], bias)


def _product_of_whole(body: Body, x: Sequence[str], weight: Sequence[str], bias: str) -> list[NodeProto] | None:
    """A product of two values in whole numbers, each with its scale and what stands for 0, as one of floats."""
    operands = body.op("DequantizeLinear", *filter(None, x)), _dequantised(body, weight)
    if operands[1] is None:
        return None
    product = body.op("MatMul", operands[0], operands[1])
    return body.ends(body.op("Add", product, bias) if bias else product)


def _dequantised(body: Body, whole: Sequence[str]) -> str | None:
    """One of the node's inputs in whole numbers, its scale, and what stands for 0, as floats; None where it has scales that
    DequantizeLinear does not take.
    """
    is_by_channel = body.values[whole[1]].array.size > 1
    if is_by_channel and (body.opset < BY_CHANNEL or len(body.shape(whole[0])) != 2):
        return None
    axes = {"axis": 1} if is_by_channel else {}
    return body.op("DequantizeLinear", *filter(None, whole), **axes)
