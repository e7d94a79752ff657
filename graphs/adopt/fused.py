"""What onnxruntime's optimizer for transformers fuses: attention with its projections or padding, and embeddings, as steps.

All other expansions are in `expansions`; `expanded` knows these too.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto, TensorProto

from .expansions import Body, attended, causal, expanded, expansion, in_heads, layer_norm, merged

__all__ = ["expanded"]
_UNSEEN = -10000.0  # what onnxruntime adds to scores of padding, where a node says nothing else


@expansion("Attention", 6, "num_heads qkv_hidden_sizes unidirectional scale mask_filter_value do_rotary")
def _attention(body: Body) -> list[NodeProto] | None:
    """Its weight [in, q + k + v] is three of them."""
    x, weight, bias, padding, past, added = (body.read(n) for n in range(6))
    if body.number("do_rotary", 0) or len(body.shape(x)) != 3:
        return None
    (batch, n_tokens, _), heads = body.shape(x), int(body.number("num_heads", 0))
    sizes = body.numbers("qkv_hidden_sizes") or [body.shape(weight)[1] // 3] * 3
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
    """Tokens, positions and segments looked up and normalised; beside it how many tokens the mask has."""
    tokens, segments, words, places, kinds, gain, bias, mask, positions = (body.read(n) for n in range(9))
    batch, n_tokens = body.shape(tokens)
    at = positions or body.constant([list(range(n_tokens))])  # type: ignore[list-item]
    total = body.op("Add", body.op("Gather", words, tokens, axis=0), body.op("Gather", places, at, axis=0))
    if segments:
        total = body.op("Add", total, body.op("Gather", kinds, segments, axis=0))
    counts = body.constant(np.zeros(batch, np.int32))
    if mask:
        ones = body.op("Equal", mask, body.constant(np.array(1, body.values[mask].array.dtype)))
        counts = body.op("Cast", ones, to=TensorProto.INT32)
        counts = body.op("ReduceSum", counts, body.constant([1]), keepdims=0)
    return body.ends(layer_norm(body, total, gain, bias, body.number("epsilon", 1e-12)), counts, total)
