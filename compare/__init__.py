"""The diagnosis: align, measure, locate, explain, judge, report. `opdiff.compare(a, b, tokens=...)` calls this module."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Compare(ModuleType):
    """`opdiff.compare` is this package and the function of the API, whichever is imported first."""

    def __call__(self, a: Any, b: Any, **how: Any) -> Any:
        from ..api import compare

        return compare(a, b, **how)


sys.modules[__name__].__class__ = _Compare
