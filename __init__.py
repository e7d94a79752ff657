"""opdiff names the op at which two runtimes of one model part, says why, and says which one is right."""

from .exporters.tapping import past, tap

__version__ = "0.1.0"
__all__ = ["__version__", "past", "tap"]
