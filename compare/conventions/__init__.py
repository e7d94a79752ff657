"""The catalogue of conventions: a float64 decoder in numpy whose choices of mathematics are settings.

`evaluate` computes any tap from A's values, `explain` names the settings that reproduce what a runtime put out.
One file for each family. A new convention is one decorated function with its docstring, which a stage's model function
reads.
"""

from . import attention, cache, embedding, experts, feed_forward, head, heads, linear, norm, residual, rope, rounding  # noqa: F401
from .case import Case, Weights
from .distance import distance, is_masked
from .evaluate import CannotEvaluate, Memo, evaluate
from .explain import Deviation, Explanation, explain
from .registry import Convention, conventions, standard_settings
from .settings import Settings, Value

CONVENTIONS: tuple[Convention, ...] = tuple(conventions())

__all__ = [
    "CONVENTIONS",
    "CannotEvaluate",
    "Case",
    "Convention",
    "Deviation",
    "Explanation",
    "Memo",
    "Settings",
    "Value",
    "Weights",
    "distance",
    "evaluate",
    "explain",
    "is_masked",
    "standard_settings",
]
