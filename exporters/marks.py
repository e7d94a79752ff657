"""The mark that a tap leaves in a traced graph: an operator that no optimisation sees through, and that ends as a name."""

from __future__ import annotations

import onnxscript
import torch
from onnx.defs import OpSchema
from onnxscript.values import Op, Opset
from torch import Tensor

from ..graphs.naming import MARK_DOMAIN, MARK_OPERATOR
from .stack_traces import stack_trace


@torch.library.custom_op("opdiff::mark", mutates_args=())
def mark(value: Tensor) -> Tensor:
    """The value itself, as a tensor of its own: two stages that are one tensor stay two taps."""
    return value.clone()


@mark.register_fake
def _(value: Tensor) -> Tensor:
    return torch.empty_like(value)


class Marking:
    """Marks values, and notes from where each was marked: `traces`, in that order."""

    def __init__(self) -> None:
        self.traces: list[str] = []

    def __call__(self, value: Tensor) -> Tensor:
        self.traces.append(stack_trace(above=2))
        return mark(value)


_TYPES = [
    f"tensor({kind})" for kind in ("float", "double", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool")
]
_ANY = OpSchema.FormalParameter("value", "T"), OpSchema.FormalParameter("marked", "T")
_SCHEMA = OpSchema(
    MARK_OPERATOR,
    MARK_DOMAIN,
    1,
    inputs=[_ANY[0]],
    outputs=[_ANY[1]],
    type_constraints=[("T", _TYPES, "any tensor")],
)
_mark = Op(Opset(MARK_DOMAIN, 1), MARK_OPERATOR, _SCHEMA)


def mark_to_onnx(value: onnxscript.FLOAT) -> onnxscript.FLOAT:
    """One node of opdiff's own domain."""
    return _mark(value)


ONNX_TRANSLATIONS = {torch.ops.opdiff.mark.default: mark_to_onnx}
