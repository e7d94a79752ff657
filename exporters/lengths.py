"""How many tokens a module can be exported for: any number where torch can prove that, else as many as it can."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator

import sympy
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import ShapeEnv, ShapeGuard
from torch.utils._sympy.numbers import int_oo

from ..graphs.artifact import Lengths
from ..graphs.errors import InputError
from .refusal import NEEDS_LENGTH, own_line

SAMPLE_LENGTH = 5
Trace = Callable[[dict | None, int], ExportedProgram]  # shapes of the tokens' dimensions, and of how many to trace


def traced(trace: Trace, n_tokens: int | None, guards: Guards) -> tuple[ExportedProgram, Lengths]:
    """The program for exactly `n_tokens` tokens, or, where that is None, for as many as torch can.

    Raises:
        InputError: the module works for the one number of tokens only with which it is traced.
    """
    if n_tokens is not None:
        return trace(None, n_tokens), Lengths(n_tokens, n_tokens)
    try:
        return trace({0: Dim("token", min=1)}, SAMPLE_LENGTH), Lengths()
    except torch._dynamo.exc.UserError as e:
        for lengths in _narrower(trace, guards):
            try:
                return trace({0: Dim("token", min=lengths.least, max=lengths.most)}, SAMPLE_LENGTH), lengths
            except torch._dynamo.exc.UserError:
                continue
        raise InputError(f"the module does not work for every number of tokens{guards.place()}; {NEEDS_LENGTH}") from e


def _narrower(trace: Trace, guards: Guards) -> Iterator[Lengths]:
    """The numbers of tokens that torch finds by itself, widest first; of the last one it may make a case of its own.

    torch traces no dimension of 1 by itself, so that the least that it finds is 2 where it may be 1 as well.
    """
    found = trace({0: Dim.AUTO}, SAMPLE_LENGTH)
    if guards.fixed_at is not None or len(found.range_constraints) != 1:
        return
    (bounds,) = found.range_constraints.values()
    most = None if bounds.upper is int_oo or bounds.upper == sympy.oo else int(bounds.upper)
    for least in (1, 2) if bounds.lower == 2 else (int(bounds.lower),):
        for end in (most,) if most is None else (most, most - 1):
            yield Lengths(least, end)


class Guards(list[ShapeGuard]):
    """What torch assumes of the number of tokens while it traces, and the module's own line that makes it assume so.

    It stands in the place of the list that torch keeps: torch itself remembers lines of its own only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fixed_at: str | None = None
        self.last_at: str | None = None

    def watch(self, tokens: Tensor) -> None:
        """Begin anew, for these traced tokens."""
        self.clear()
        self.fixed_at = self.last_at = None
        length = tokens.shape[0]
        if isinstance(length, torch.SymInt):
            env: ShapeEnv = length.node.shape_env
            env.guards = self

    def append(self, guard: ShapeGuard) -> None:
        super().append(guard)
        self.last_at = own_line(traceback.extract_stack())
        if isinstance(guard.expr, sympy.Eq) and guard.expr.rhs.is_number:
            self.fixed_at = self.fixed_at or self.last_at

    def place(self) -> str:
        """Where the number of tokens is fixed, or was last asked about, for a message."""
        line = self.fixed_at or self.last_at
        return "" if line is None else f" ({line})"
