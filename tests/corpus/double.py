"""Double precision for code that asks for float32 by name, as transformers' norms and softmax do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class DoublePrecision(TorchFunctionMode):
    """While it is entered, every float32 that is asked for is float64."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()
        args = tuple(_doubled(value) for value in args)
        return func(*args, **{key: _doubled(value) for key, value in (kwargs or {}).items()})


def _doubled(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
