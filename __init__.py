"""opdiff names the op at which two runtimes of one model part, says why, and says which one is right."""

from __future__ import annotations

from . import compare  # both a package and the function: the module can be called
from .api import align, assert_parity, export, trace, verdict
from .exporters.tapping import past, tap

__version__ = "0.1.0"
__all__ = ["__version__", "align", "assert_parity", "compare", "export", "past", "tap", "trace", "verdict"]
