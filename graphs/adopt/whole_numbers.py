"""Operators on activations in whole numbers, each with its scale and what stands for 0, as the same on floats.

What they give is rounded again, by a QuantizeLinear of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

from .expansions import MICROSOFT, Body, expansion
from .quantised import BY_CHANNEL

_OF_16_BITS = 21  # the opset from which ONNX's own operators know them
_ONNX_KNOWS = ("int8", "uint8", "int32")


def _floats(body: Body, first: int, axis: int | None = None) -> str:
    """Three of the node's inputs, a value in whole numbers, its scale and what stands for 0, as floats."""
    whole, scale, zero = (body.read(first + n) for n in range(3))
    axes = {} if axis is None or body.values[scale].array.size == 1 else {"axis": axis}
    scale, *zeros = (_as_number(body, name) for name in (scale, zero) if name)
    return body.op("DequantizeLinear", whole, scale, *zeros, **axes)


def _as_number(body: Body, name: str) -> str:
    """A scale that is [1] as a number, as ONNX wants it of one that holds for all."""
    return body.op("Squeeze", name) if body.shape(name) == (1,) else name


def _rounded(body: Body, value: str, scale: str, zero: str) -> list[NodeProto]:
    """The node's output: a value in whole numbers of this scale."""
    return body.ends(body.op("QuantizeLinear", value, *(_as_number(body, name) for name in (scale, zero) if name)))


def _attributes(node: NodeProto, *left_out: str) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.name not in left_out}


def _is_known_to_onnx(body: Body, kind: str) -> bool:
    return body.opset >= _OF_16_BITS or (body.opset >= BY_CHANNEL and kind in _ONNX_KNOWS)


@expansion("DequantizeLinear", 3, "axis block_size")
def _to_floats(body: Body) -> list[NodeProto] | None:
    """onnxruntime's own, which knows 16 bits in every opset."""
    whole, scale, zero = (body.read(n) for n in range(3))
    if _is_known_to_onnx(body, body.values[whole].type):
        return body.ends(body.op("DequantizeLinear", *filter(None, body.reads), **_attributes(body.node)))
    if body.number("block_size", 0):
        return None
    value = body.op("Cast", whole, to=onnx.TensorProto.FLOAT)
    if zero:
        value = body.op("Sub", value, _along(body, body.op("Cast", zero, to=onnx.TensorProto.FLOAT), zero))
    return body.ends(body.op("Mul", value, _along(body, scale, scale)))


@expansion("QuantizeLinear", 3, "axis block_size")
def _to_whole(body: Body) -> list[NodeProto] | None:
    x, scale, zero = (body.read(n) for n in range(3))
    kind = body.values[zero].array.dtype if zero else np.dtype(np.uint8)
    if _is_known_to_onnx(body, kind.name):
        return body.ends(body.op("QuantizeLinear", *filter(None, body.reads), **_attributes(body.node)))
    if body.number("block_size", 0) or kind.kind not in "iu":
        return None
    value = body.op("Round", body.op("Div", x, _along(body, scale, scale)))
    if zero:
        value = body.op("Add", value, _along(body, body.op("Cast", zero, to=onnx.TensorProto.FLOAT), zero))
    ends = [body.constant(float(end)) for end in (np.iinfo(kind).min, np.iinfo(kind).max)]
    element = onnx.helper.np_dtype_to_tensor_dtype(kind)
    return body.ends(body.op("Cast", body.op("Clip", value, *ends), to=element))


def _along(body: Body, name: str, whose: str) -> str:
    """What has one number for each channel, as `whose` has, so that it is added to or multiplied with channels."""
    if body.values[whose].array.size == 1:
        return name
    n_axes = len(body.shape(body.read(0)))
    axis = int(body.number("axis", 1)) % n_axes
    return body.op("Reshape", name, body.constant([-1 if n == axis else 1 for n in range(n_axes)]))


def _of_two(operator: str) -> None:
    @expansion(f"QLinear{operator}", 8)
    def _applied(body: Body) -> list[NodeProto] | None:
        made = body.op(operator, _floats(body, 0), _floats(body, 3))
        return _rounded(body, made, body.read(6), body.read(7))


def _of_one(name: str, attributes: str, apply: Callable[[Body, str], str | None]) -> None:
    @expansion(name, 5, attributes)
    def _applied(body: Body) -> list[NodeProto] | None:
        made = apply(body, _floats(body, 0))
        return None if made is None else _rounded(body, made, body.read(3), body.read(4))


def _average(operator: str) -> Callable[[Body, str], str | None]:
    def apply(body: Body, x: str) -> str | None:
        if body.number("channels_last", 0):
            return None
        return body.op(operator, x, **_attributes(body.node, "channels_last"))

    return apply


for _operator in ("Add", "Mul"):
    _of_two(_operator)
_of_one("QLinearSigmoid", "", lambda body, x: body.op("Sigmoid", x))
_of_one("QLinearLeakyRelu", "alpha", lambda body, x: body.op("LeakyRelu", x, **_attributes(body.node)))
_of_one("QLinearGlobalAveragePool", "channels_last", _average("GlobalAveragePool"))
_of_one(
    "QLinearAveragePool",
    "auto_pad ceil_mode channels_last count_include_pad kernel_shape pads strides",
    _average("AveragePool"),
)


@expansion("QLinearSoftmax", 5, "axis opset")
def _softmax(body: Body) -> list[NodeProto] | None:
    axis, n_axes = int(body.number("axis", -1)), len(body.shape(body.read(0)))
    if body.number("opset", 0) < 13 and axis % n_axes != n_axes - 1:
        return None  # older ones flatten all axes from this one on
    return _rounded(body, body.op("Softmax", _floats(body, 0), axis=axis), body.read(3), body.read(4))


@expansion("QLinearConcat", 1_000, "axis")
def _joined(body: Body) -> list[NodeProto] | None:
    parts = [_floats(body, first) for first in range(2, len(body.reads), 3)]
    return _rounded(body, body.op("Concat", *parts, **_attributes(body.node)), body.read(0), body.read(1))


@expansion("QLinearMatMul", 8, "", f"|{MICROSOFT}")
def _product(body: Body) -> list[NodeProto] | None:
    if body.values[body.read(1)].array.size > 1 or len(body.shape(body.read(4))) > 1:
        return None
    n_axes = len(body.shape(body.read(3)))
    if body.values[body.read(4)].array.size > 1 and n_axes != 2:
        return None
    made = body.op("MatMul", _floats(body, 0), _floats(body, 3, axis=1))
    return _rounded(body, made, body.read(6), body.read(7))


@expansion("QGemm", 9, "alpha transA transB")
def _gemm(body: Body) -> list[NodeProto] | None:
    if body.number("alpha", 1) != 1 or not body.read(7):
        return None
    x, weight = _floats(body, 0), _floats(body, 3, axis=0 if body.number("transB", 0) else 1)
    bias = [_bias(body, body.read(6), body.read(1), body.read(4))] if body.read(6) else []
    made = body.op("Gemm", x, weight, *bias, **_attributes(body.node))
    return _rounded(body, made, body.read(7), body.read(8))


@expansion("QLinearConv", 9, "auto_pad dilations group kernel_shape pads strides", "")
def _convolution(body: Body) -> list[NodeProto] | None:
    bias = [_bias(body, body.read(8), body.read(1), body.read(4))] if body.read(8) else []
    made = body.op("Conv", _floats(body, 0), _floats(body, 3, axis=0), *bias, **_attributes(body.node))
    return _rounded(body, made, body.read(6), body.read(7))


def _bias(body: Body, bias: str, scale: str, weight_scale: str) -> str:
    """A bias in whole numbers, whose scale is that of the products."""
    scales = [_as_number(body, name) for name in (scale, weight_scale)]
    axes = {} if body.values[weight_scale].array.size == 1 else {"axis": 0}
    return body.op("DequantizeLinear", bias, body.op("Mul", *scales), **axes)
