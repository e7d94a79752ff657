"""What a fault and a benign change are, and where the two lists are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Patch = Callable[[Any, int], None]


@dataclass(frozen=True)
class Fault:
    """One mistake, put into one block of an HF model in place.

    Attributes:
        stages: every region whose local error is real, and no other: what a report must blame, exactly.
        convention: the name that explains it, `family.aspect`; None where no catalogue has one.
        model: the kind of tiny model (models.KINDS) that it is put into.
        in_block: False where the fault is outside the blocks; `apply` then ignores its block.
    """

    name: str
    stages: frozenset[str]
    apply: Patch = field(repr=False)
    convention: str | None = None
    model: str = "qwen3"
    in_block: bool = True

    def taps(self, block: int) -> frozenset[str]:
        """The names of the taps to blame."""
        return frozenset(f"blk.{block}.{stage}" for stage in self.stages) if self.in_block else self.stages


@dataclass(frozen=True)
class Benign:
    """A change that computes the same function; `apply` patches the model, `export` goes to `torch.onnx.export`."""

    name: str
    apply: Callable[[Any], None] = field(repr=False)
    export: Mapping[str, Any] = field(default_factory=dict)
    model: str = "qwen3"


FAULTS: dict[str, Fault] = {}
BENIGN: dict[str, Benign] = {}


def fault(name: str, stages: str, convention: str | None = None, **more: Any) -> Callable[[Patch], Patch]:
    """Register what it decorates as a fault; `stages` are separated by spaces."""

    def register(patch: Patch) -> Patch:
        assert name not in FAULTS, name
        FAULTS[name] = Fault(name, frozenset(stages.split()), patch, convention, **more)
        return patch

    return register


def benign(name: str, **more: Any) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register what it decorates as a benign change."""

    def register(patch: Callable[[Any], None]) -> Callable[[Any], None]:
        assert name not in BENIGN, name
        BENIGN[name] = Benign(name, patch, **more)
        return patch

    return register


def attention_of(model: Any, block: int) -> Any:
    return model.model.layers[block].self_attn


def mlp_of(model: Any, block: int) -> Any:
    return model.model.layers[block].mlp
