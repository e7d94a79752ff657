"""Operators that hide several steps, as these: ONNX's own by the body that it gives them, onnxruntime's own by ours.

Each of ours says which inputs and attributes it models; a node with any other stays one step, which onnxruntime runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

from ..bodies import body_of
from ..stepping import Typed, element_of

Values = Mapping[str, Typed]
MICROSOFT = "com.microsoft"
_WITH_A_BODY = frozenset(
    (
        "Attention",
        "RMSNormalization",
        "RotaryEmbedding",
        "LayerNormalization",
        "GroupNormalization",
        "MeanVarianceNormalization",
        "Gelu",
        "Swish",
        "HardSwish",
        "Mish",
    )
)
_READS_AXES = {
    "ReduceMean": 18,
    "ReduceSum": 13,
    "Unsqueeze": 13,
}  # the opset since which these read their axes, which were an attribute
_NONE = float("-inf")


@dataclass
class Body:
    """The steps that one node stands for; `reads` are its inputs, "" for one that is left out.

    opset: of ONNX's own operators, in which the steps are written.
    constants: the names of those inputs that hang on no input of the graph.
    held: constants that are made of fewer bits, by name; storage: of these, how far one level is from the next.
    """

    node: NodeProto
    values: Values
    opset: int
    constants: Collection[str] = ()
    steps: list[NodeProto] = field(default_factory=list)
    held: dict[str, np.ndarray] = field(default_factory=dict)
    storage: dict[str, np.ndarray] = field(default_factory=dict)
    _numbers: dict[str, Sequence[int]] = field(default_factory=dict)
    _part: str = ""
    _n_made: int = 0

    def begin(self, part: str) -> None:
        """Count steps anew under this word, so that their names do not hang on how many came before."""
        self._part, self._n_made = f"{part}.", 0

    @property
    def reads(self) -> list[str]:
        return list(self.node.input)

    def read(self, place: int) -> str:
        """An input; "" where it is left out."""
        return self.node.input[place] if place < len(self.node.input) else ""

    def number(self, name: str, default: float) -> float:
        """An attribute that is a number."""
        return float(next((onnx.helper.get_attribute_value(a) for a in self.node.attribute if a.name == name), default))

    def numbers(self, name: str) -> list[int]:
        """An attribute of several whole numbers; none where it is left out."""
        return next((list(a.ints) for a in self.node.attribute if a.name == name), [])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one of the node's inputs."""
        return self.values[name].array.shape

    def is_all(self, place: int, number: float) -> bool:
        """Whether an input is a constant that is this number everywhere."""
        name = self.read(place)
        return name in self.constants and bool(np.all(self.values[name].array == number))

    def constant(self, value: float | Sequence[int] | np.ndarray) -> str:
        """A constant: a float32 number, or whole numbers, or an array as it is."""
        if isinstance(value, np.ndarray):
            array = value
        else:
            array = np.array(value, np.float32 if isinstance(value, float) else np.int64)
        name = self.op("Constant", value=onnx.numpy_helper.from_array(array))
        if not isinstance(value, (float, np.ndarray)):
            self._numbers[name] = value
        return name

    def hold(self, weight: np.ndarray, far: np.ndarray) -> str:
        """A weight that is made of fewer bits, as a constant; `far` is how far one level is from the next, in its shape."""
        name = self._fresh("weight")
        self.held[name], self.storage[name] = np.ascontiguousarray(weight), far
        return name

    def op(self, operator: str, *reads: str, **attributes: Any) -> str:
        """One more step; the name of what it makes."""
        if self.opset < _READS_AXES.get(operator, 0):
            reads, attributes = reads[:1], {**attributes, "axes": self._numbers[reads[1]]}
        name = self._fresh(operator)
        made = onnx.helper.make_node(operator, reads, [name], name=f"{self.node.name}/{operator}", **attributes)
        made.metadata_props.extend(self.node.metadata_props)
        self.steps.append(made)
        return name

    def _fresh(self, word: str) -> str:
        name = f"{self.node.output[0]}/{self._part}{word}.{self._n_made}"
        self._n_made += 1
        return name

    def split(self, value: str, sizes: Sequence[int]) -> list[str]:
        """A value in parts of these sizes on its last axis."""
        starts = np.cumsum([0, *sizes])
        return [self.cut(value, int(start), int(start) + size) for start, size in zip(starts, sizes, strict=False)]

    def cut(self, value: str, start: int, end: int, stride: int = 1) -> str:
        """The entries of the last axis from `start` to `end`."""
        places = [self.constant([number]) for number in (start, end, -1, stride)]
        return self.op("Slice", value, *places)

    def ends(self, *values: str) -> list[NodeProto]:
        """The steps, these values as the node's outputs."""
        for output, value in zip(self.node.output, values, strict=False):
            if output and value:
                self.steps.append(
                    onnx.helper.make_node("Identity", [value], [output], name=f"{self.node.name}/{output}")
                )
        return self.steps


Expansion = Callable[[Body], list[NodeProto] | None]


@dataclass(frozen=True)
class _Known:
    """What an expansion models: so many first inputs, and these attributes."""

    n_inputs: int
    attributes: frozenset[str]
    expand: Expansion


_TABLE: dict[tuple[str, str], _Known] = {}


def expansion(operator: str, n_inputs: int, attributes: str = "", domains: str = MICROSOFT) -> Callable[..., Expansion]:
    """Register what an operator of these domains is, where it has no more inputs and no other attributes than these."""

    def register(expand: Expansion) -> Expansion:
        for domain in domains.split("|"):
            _TABLE[domain, operator] = _Known(n_inputs, frozenset(attributes.split()), expand)
        return expand

    return register


def expanded(
    node: NodeProto, values: Values, opsets: Sequence[tuple[str, int]], constants: Collection[str] = ()
) -> Body | None:
    """The steps that a node stands for on these values; None where it is not known, or has what is not modelled.

    constants: the names of the values that hang on no input.
    """
    opset = max((version for domain, version in opsets if domain in ("", "ai.onnx")), default=1)
    if not node.domain and node.op_type in _WITH_A_BODY and onnx.defs.has(node.op_type, max_inclusive_version=opset):
        return _by_its_body(Body(node, values, opset), opsets)
    known = _TABLE.get((node.domain, node.op_type))
    if known is None or any(node.input[known.n_inputs :]):
        return None
    if any(attribute.name not in known.attributes for attribute in node.attribute):
        return None
    body = Body(node, values, opset, constants)
    return None if known.expand(body) is None else body


def _by_its_body(body: Body, opsets: Sequence[tuple[str, int]]) -> Body | None:
    """The steps that ONNX itself gives; None where it has none for these inputs."""
    types = {name: (element_of(body.values[name]), body.shape(name)) for name in body.node.input if name}
    made = body_of(body.node, types, opsets)
    if made is None:
        return None
    body.steps.extend(made)
    return body


def _rms_norm(body: Body, x: str, gain: str, epsilon: float) -> str:
    mean = body.op("ReduceMean", body.op("Mul", x, x), body.constant([-1]), keepdims=1)
    return body.op("Mul", body.op("Div", x, body.op("Sqrt", body.op("Add", mean, body.constant(epsilon)))), gain)


def layer_norm(body: Body, x: str, gain: str, bias: str, epsilon: float) -> str:
    """Normalised on the last axis, with a gain and a bias, "" for none."""
    scaled = body.op("Mul", _normalised(body, x, [-1], epsilon), gain)
    return body.op("Add", scaled, bias) if bias else scaled


def _normalised(body: Body, x: str, axes: Sequence[int], epsilon: float) -> str:
    """Of mean 0 and variance 1 over these axes."""
    over = body.constant(axes)
    centred = body.op("Sub", x, body.op("ReduceMean", x, over, keepdims=1))
    variance = body.op("ReduceMean", body.op("Mul", centred, centred), over, keepdims=1)
    return body.op("Div", centred, body.op("Sqrt", body.op("Add", variance, body.constant(epsilon))))


def _is_last_axis(body: Body) -> bool:
    return body.number("axis", -1) in (-1, len(body.shape(body.read(0))) - 1)


@expansion("SimplifiedLayerNormalization", 2, "axis epsilon stash_type", f"|{MICROSOFT}")
def _simplified(body: Body) -> list[NodeProto] | None:
    if not _is_last_axis(body) or any(body.node.output[1:]):
        return None
    return body.ends(_rms_norm(body, body.read(0), body.read(1), body.number("epsilon", 1e-5)))


@expansion("LayerNormalization", 3, "axis epsilon stash_type", "")
def _before_onnx_had_it(body: Body) -> list[NodeProto] | None:
    """onnxruntime's own, which its optimiser writes into graphs of opsets in which ONNX has none."""
    if not _is_last_axis(body) or any(body.node.output[1:]):
        return None
    x, gain, bias = map(body.read, range(3))
    return body.ends(layer_norm(body, x, gain, bias, body.number("epsilon", 1e-5)))


@expansion("InstanceNormalization", 3, "epsilon", "")
def _instance(body: Body) -> list[NodeProto] | None:
    """Over all that lies behind the channels; ONNX gives no body for it. A gain of ones and a bias of zeros, which it must have,
    are none.
    """
    x, gain, bias = map(body.read, range(3))
    rank = len(body.shape(x))
    by_channel = body.constant([-1, *[1] * (rank - 2)])
    made = _normalised(body, x, range(2, rank), body.number("epsilon", 1e-5))
    if not body.is_all(1, 1):
        made = body.op("Mul", made, body.op("Reshape", gain, by_channel))
    if not body.is_all(2, 0):
        made = body.op("Add", made, body.op("Reshape", bias, by_channel))
    return body.ends(made)


@expansion("SkipSimplifiedLayerNormalization", 4, "epsilon")
def _skip_simplified(body: Body) -> list[NodeProto] | None:
    total = body.op("Add", body.read(0), body.read(1))
    if body.read(3):
        total = body.op("Add", total, body.read(3))
    return body.ends(_rms_norm(body, total, body.read(2), body.number("epsilon", 1e-5)), "", "", total)


@expansion("SkipLayerNormalization", 5, "epsilon")
def _skip_layer(body: Body) -> list[NodeProto] | None:
    total = body.op("Add", body.read(0), body.read(1))
    if body.read(4):
        total = body.op("Add", total, body.read(4))
    normed = layer_norm(body, total, body.read(2), body.read(3), body.number("epsilon", 1e-5))
    return body.ends(normed, "", "", total)


@expansion("QuickGelu", 1, "alpha")
def _quick_gelu(body: Body) -> list[NodeProto] | None:
    x, alpha = body.read(0), body.number("alpha", 1.702)
    scaled = x if alpha == 1 else body.op("Mul", x, body.constant(alpha))
    return body.ends(body.op("Mul", x, body.op("Sigmoid", scaled)))


@expansion("Gelu", 1)
def _gelu(body: Body) -> list[NodeProto] | None:
    return body.ends(_erf_gelu(body, body.read(0)))


@expansion("BiasGelu", 2)
def _bias_gelu(body: Body) -> list[NodeProto] | None:
    return body.ends(_erf_gelu(body, body.op("Add", body.read(0), body.read(1))))


def _erf_gelu(body: Body, x: str) -> str:
    inner = body.op("Erf", body.op("Div", x, body.constant(math.sqrt(2))))
    return body.op("Mul", body.op("Mul", x, body.op("Add", inner, body.constant(1.0))), body.constant(0.5))


@expansion("FastGelu", 2)
def _fast_gelu(body: Body) -> list[NodeProto] | None:
    x = body.op("Add", body.read(0), body.read(1)) if body.read(1) else body.read(0)
    cube = body.op("Mul", body.op("Mul", x, body.op("Mul", x, x)), body.constant(0.044715))
    inner = body.op("Tanh", body.op("Mul", body.op("Add", x, cube), body.constant(math.sqrt(2 / math.pi))))
    return body.ends(body.op("Mul", body.op("Mul", x, body.op("Add", inner, body.constant(1.0))), body.constant(0.5)))


@expansion("FusedMatMul", 2, "alpha transA transB transBatchA transBatchB")
def _fused_matmul(body: Body) -> list[NodeProto] | None:
    if body.number("transBatchA", 0) or body.number("transBatchB", 0):
        return None
    operands = []
    for place, flag in enumerate(("transA", "transB")):
        name = body.read(place)
        if body.number(flag, 0):
            order = list(range(len(body.shape(name))))
            name = body.op("Transpose", name, perm=[*order[:-2], order[-1], order[-2]])
        operands.append(name)
    product, alpha = body.op("MatMul", *operands), body.number("alpha", 1)
    return body.ends(product if alpha == 1 else body.op("Mul", product, body.constant(alpha)))


@expansion("FusedGemm", 3, "activation alpha beta transA transB")
def _fused_gemm(body: Body) -> list[NodeProto] | None:
    return _with_activation(body, "Gemm")


@expansion("FusedConv", 3, "activation auto_pad dilations group kernel_shape pads strides")
def _fused_conv(body: Body) -> list[NodeProto] | None:
    return _with_activation(body, "Conv")


def _with_activation(body: Body, operator: str) -> list[NodeProto] | None:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in body.node.attribute}
    activation = attributes.pop("activation", b"").decode()
    if activation not in ("Relu", "Tanh", "Sigmoid"):
        return None
    made = body.op(operator, *filter(None, body.reads), **attributes)
    return body.ends(body.op(activation, made))


def _rotated(body: Body, x: str, cosine: str, sine: str, size: int, width: int, interleaved: bool) -> str:
    """x [..., width], of which the first `size` channels are turned by angles [..., size / 2]."""
    turned, rest = (body.cut(x, 0, size), body.cut(x, size, width)) if size < width else (x, "")
    if interleaved:
        first, second = body.cut(turned, 0, size, 2), body.cut(turned, 1, size, 2)
    else:
        first, second = body.cut(turned, 0, size // 2), body.cut(turned, size // 2, size)
    left = body.op("Sub", body.op("Mul", first, cosine), body.op("Mul", second, sine))
    right = body.op("Add", body.op("Mul", second, cosine), body.op("Mul", first, sine))
    if interleaved:
        axis = body.constant([-1])
        pairs = body.op("Concat", body.op("Unsqueeze", left, axis), body.op("Unsqueeze", right, axis), axis=-1)
        made = body.op("Reshape", pairs, body.constant([0] * 3 + [size]))
    else:
        made = body.op("Concat", left, right, axis=-1)
    return body.op("Concat", made, rest, axis=-1) if rest else made


@expansion("RotaryEmbedding", 4, "interleaved num_heads rotary_embedding_dim scale is_packed_batching")
def _rotary(body: Body) -> list[NodeProto] | None:
    x, positions, cosines, sines = (body.read(place) for place in range(4))
    shape, half = body.shape(x), body.shape(cosines)[1]
    if body.number("is_packed_batching", 0) or body.number("scale", 1) != 1 or len(body.shape(positions)) not in (1, 2):
        return None
    size, heads = int(body.number("rotary_embedding_dim", 0)) or 2 * half, int(body.number("num_heads", 0))
    n_tokens = shape[-2] if len(shape) == 4 else shape[1]
    if len(body.shape(positions)) == 1:  # where the first token stands
        at = body.op("Add", positions, body.constant(list(range(n_tokens))))
        positions = body.op("Unsqueeze", at, body.constant([0]))
    angles = [body.op("Gather", table, positions, axis=0) for table in (cosines, sines)]
    if len(shape) == 4:
        cosine, sine = (body.op("Unsqueeze", angle, body.constant([1])) for angle in angles)
        return body.ends(_rotated(body, x, cosine, sine, size, shape[-1], bool(body.number("interleaved", 0))))
    width = shape[2] // heads if heads else size
    cosine, sine = (body.op("Unsqueeze", angle, body.constant([2])) for angle in angles)
    split = body.op("Reshape", x, body.constant([shape[0], n_tokens, -1, width]))
    made = _rotated(body, split, cosine, sine, size, width, bool(body.number("interleaved", 0)))
    return body.ends(body.op("Reshape", made, body.constant(list(shape))))


def in_heads(body: Body, x: str, batch: int, n_tokens: int, n_heads: int, width: int) -> str:
    """x [batch, token, channel] as [batch, head, token, channel]."""
    split = body.op("Reshape", x, body.constant([batch, n_tokens, n_heads, width]))
    return body.op("Transpose", split, perm=[0, 2, 1, 3])


def causal(n_tokens: int, n_keys: int, window: int = -1) -> np.ndarray:
    """What is added to scores [1, 1, tokens, keys], whose last query is the last key."""
    query, key = np.arange(n_tokens)[:, None] + n_keys - n_tokens, np.arange(n_keys)[None]
    seen = (key <= query) & ((key > query - window) if window > 0 else True)
    return np.where(seen, np.float32(0), np.float32(_NONE))[None, None]


def attended(
    body: Body, q: str, k: str, v: str, n_groups: int, scale: float, added: Sequence[str], softcap: float = 0.0
) -> str:
    """q [batch, head, token, channel] on k and v, whose heads serve `n_groups` of q's each."""
    if n_groups > 1:
        k, v = (_repeated(body, name, n_groups) for name in (k, v))
    scores = body.op("MatMul", q, body.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = body.op("Mul", scores, body.constant(scale))
    if softcap:
        capped = body.op("Tanh", body.op("Div", scores, body.constant(softcap)))
        scores = body.op("Mul", capped, body.constant(softcap))
    for name in added:
        scores = body.op("Add", scores, name)
    return body.op("MatMul", body.op("Softmax", scores, axis=-1), v)


def _repeated(body: Body, x: str, n: int) -> str:
    many = body.op("Expand", body.op("Unsqueeze", x, body.constant([2])), body.constant([1, 1, n, 1, 1]))
    shape = body.op("Shape", x)
    sizes = [body.op("Gather", shape, body.constant([place]), axis=0) for place in range(4)]
    heads = body.op("Mul", sizes[1], body.constant([n]))
    return body.op("Reshape", many, body.op("Concat", sizes[0], heads, sizes[2], sizes[3], axis=0))


def merged(body: Body, x: str, batch: int, n_tokens: int) -> str:
    """x [batch, head, token, channel] as [batch, token, channel]."""
    return body.op("Reshape", body.op("Transpose", x, perm=[0, 2, 1, 3]), body.constant([batch, n_tokens, -1]))


@expansion(
    "GroupQueryAttention",
    16,
    "num_heads kv_num_heads scale local_window_size softcap do_rotary rotary_interleaved smooth_softmax qk_norm_epsilon "
    "qk_output k_quant_type v_quant_type kv_cache_bit_width",
)
def _group_query(body: Body) -> list[NodeProto] | None:
    q, k, v, past_k, past_v, lengths, _, cosines, sines, positions, bias = (body.read(n) for n in range(11))
    off = ("smooth_softmax", "qk_output", "kv_cache_bit_width")
    if not lengths or any(body.number(name, 0) > 0 for name in off) or any(body.read(n) for n in (11, 12, 13)):
        return None
    if any(a.name in ("k_quant_type", "v_quant_type") and a.s not in (b"", b"NONE") for a in body.node.attribute):
        return None
    heads, groups = int(body.number("num_heads", 0)), int(body.number("kv_num_heads", 0))
    batch, n_tokens, width = body.shape(q)
    n_keys = int(np.max(body.values[lengths].array)) + 1
    n_past = n_keys - n_tokens
    if batch != 1 or n_past < 0:
        return None
    if not k:
        width = width // (heads + 2 * groups)
        q, k, v = body.split(q, [heads * width, groups * width, groups * width])
    else:
        width = width // heads
    q = in_heads(body, q, batch, n_tokens, heads, width)
    k, v = (in_heads(body, name, batch, n_tokens, groups, width) for name in (k, v))
    if body.read(14):
        epsilon = body.number("qk_norm_epsilon", 1e-6)
        q, k = _rms_norm(body, q, body.read(14), epsilon), _rms_norm(body, k, body.read(15), epsilon)
    if body.number("do_rotary", 0):
        if not positions:
            positions = body.constant([list(range(n_past, n_keys))])  # type: ignore[list-item]
        size = 2 * body.shape(cosines)[1]
        angles = [body.op("Gather", table, positions, axis=0) for table in (cosines, sines)]
        cosine, sine = (body.op("Unsqueeze", angle, body.constant([1])) for angle in angles)
        turned = bool(body.number("rotary_interleaved", 0))
        q, k = (_rotated(body, name, cosine, sine, size, width, turned) for name in (q, k))
    if n_past:
        body.begin("past")
        part = [body.constant([number]) for number in (0, n_past, 2)]
        k = body.op("Concat", body.op("Slice", past_k, *part), k, axis=2)
        v = body.op("Concat", body.op("Slice", past_v, *part), v, axis=2)
    body.begin("attended")
    added = [body.constant(causal(n_tokens, n_keys, int(body.number("local_window_size", -1))))]
    scale = body.number("scale", 0) or 1 / math.sqrt(width)
    made = attended(body, q, k, v, heads // groups, scale, [*added, *filter(None, [bias])], body.number("softcap", 0))
    return body.ends(merged(body, made, batch, n_tokens), k, v)
