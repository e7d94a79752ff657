"""Opening a graph in Netron: its page, served to this machine alone, which asks nothing of any other.

Netron's page asks an address service where its reader is, wants cookies accepted, reports what it opens, and 180 days after
its release does nothing but ask for an update. All of that is one method of its `Host`, which ours goes without; what is
left is kept to this machine by a Content-Security-Policy.
"""

from __future__ import annotations

import html
import threading
import time
import webbrowser
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import onnx

from .annotated import Finding, annotated, name_dimensions
from .artifact import NoTaps, load_artifact, read_model
from .errors import InputError
from .weights import inside

_LOOPBACK = "127.0.0.1"
_POLICY = "default-src 'self' data: blob:; style-src 'self' 'unsafe-inline'"
_QUIET_HOST = b"""import { Host } from './browser.js?of=netron';
Host.prototype.view = async function(view) { this._view = view; };
"""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a file: of a weight file, one tensor. `length` is None up to the end."""

    file: Path
    offset: int
    length: int | None

    def read(self) -> bytes:
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(-1 if self.length is None else self.length)


def serve(path: Path, browse: bool, port: int | None = None, findings: Mapping[str, Finding] | None = None) -> str:
    """Serve a copy of the graph to Netron's page, and return its address; `browse` opens the browser too. `wait()` then waits.

    The copy is in memory and holds only the graph: a weight is read from its own file when the page shows it.

    Args:
        findings: what the nodes are to show, by their names.
    Raises:
        InputError: no ONNX graph, weights outside of its folder, a port that is taken, or Netron is not installed.
    """
    spec = find_spec("netron")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("Netron is not installed; pip install 'opdiff[view]'")
    model = _copy(path, findings or {})
    files = {**_weights(path, model), f"/data/{path.stem}.onnx": model.SerializeToString()}
    handler = partial(_Handler, netron=Path(spec.submodule_search_locations[0]), name=path.stem, files=files)
    try:
        server = ThreadingHTTPServer((_LOOPBACK, port or 0), handler)
    except OSError as e:
        raise InputError(f"port {port}: cannot serve there ({e.strerror}); choose another --port") from e
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://{_LOOPBACK}:{server.server_port}"
    if browse:
        webbrowser.open(address)
    return address


def wait() -> None:
    """Serve until interrupted."""
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(1)


def _copy(path: Path, findings: Mapping[str, Finding]) -> onnx.ModelProto:
    try:
        artifact = load_artifact(path)
    except NoTaps:
        return annotated(read_model(path)[0], findings)
    model = annotated(artifact.model, findings)
    name_dimensions(model.graph, artifact)
    return model


def _weights(path: Path, model: onnx.ModelProto) -> dict[str, _Piece]:
    """Where the page finds each weight that lies beside the graph; it is given a place of its own, `weights.bin@64+4096`.

    Netron reads a whole file for any tensor in it, and no browser takes one of several GB.
    """
    pieces = {}
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        piece = _piece(path, tensor)
        place = f"{piece.file.relative_to(path.resolve().parent).as_posix()}@{piece.offset}"
        place += "" if piece.length is None else f"+{piece.length}"
        pieces[f"/data/{place}"] = piece
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value=quote(place, safe="/@+"))
    return pieces


def _piece(path: Path, tensor: onnx.TensorProto) -> _Piece:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    where = f"{path}: weight {tensor.name}"
    file = inside(path, entries.get("location", ""), where)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries["length"]) if "length" in entries else None
    except ValueError as e:
        raise InputError(f"{where}: its offset or length is no number; export it again") from e
    if offset < 0 or (length is not None and length < 0):
        raise InputError(f"{where}: its offset or length is below 0; export it again")
    return _Piece(file, offset, length)


class _Handler(SimpleHTTPRequestHandler):
    """Netron's files, the graph and its weights."""

    def __init__(self, *args: Any, netron: Path, name: str, files: Mapping[str, bytes | _Piece]) -> None:
        self._netron, self._name, self._files = netron, name, files
        super().__init__(*args, directory=str(netron))

    def handle(self) -> None:
        with suppress(ConnectionError):  # a page that is closed while it reads
            super().handle()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        if path in ("/", "/index.html"):
            self._send("text/html", self._page())
        elif path == "/browser.js" and url.query != "of=netron":
            self._send("text/javascript", _QUIET_HOST)
        elif path in self._files:
            self._send_file(self._files[path])
        else:
            super().do_GET()

    def _page(self) -> bytes:
        """Netron's page, with the name of what it opens."""
        file = html.escape(f"/data/{quote(self._name)}.onnx")
        meta = f'<meta name="file" content="{file}"><meta name="identifier" content="{html.escape(self._name)}.onnx">'
        page = (self._netron / "index.html").read_text(encoding="utf-8")
        return page.replace("<head>", f"<head>{meta}", 1).encode()

    def _send_file(self, file: bytes | _Piece) -> None:
        try:
            self._send("application/octet-stream", file if isinstance(file, bytes) else file.read())
        except OSError as e:
            self.send_error(404, e.strerror)

    def _send(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each request."""
