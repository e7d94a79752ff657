"""Versions of what the numbers rest on."""

from importlib.metadata import version

_LIBRARIES = ("opdiff", "onnx", "onnxruntime", "numpy")


def versions() -> dict[str, str]:
    """The installed version of each library that takes part in a comparison."""
    return {name: version(name) for name in _LIBRARIES}
