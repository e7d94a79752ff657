"""Opening a graph in Netron."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from .artifact import load_artifact
from .errors import InputError


def serve(path: Path, browse: bool, port: int | None = None) -> str:
    """Serve the graph with Netron and return its address; `browse` opens the browser too. `netron.wait()` then waits.

    Raises:
        InputError: not a graph with taps, or Netron is not installed.
    """
    load_artifact(path)
    if find_spec("netron") is None:
        raise InputError("Netron is not installed; pip install 'opdiff[view]'")
    import netron

    try:
        host, bound_port = netron.start(str(path), address=port, browse=browse)
    except OSError as e:
        raise InputError(f"port {port}: Netron cannot serve there ({e.strerror}); choose another --port") from e
    return f"http://{host}:{bound_port}"


def wait() -> None:
    """Serve until interrupted."""
    import netron

    netron.wait()
