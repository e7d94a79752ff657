"""Opens a graph and its node data in the real Model Explorer, and takes a picture of it: one to look at, as its graph is drawn by WebGL.

It fails where Model Explorer shows no node data of the node, or another figure than the file's. Wants Chromium, and an environment of its own:

    python -m venv explorer
    explorer/bin/pip install ai-edge-model-explorer==0.1.34 model-explorer-onnx==0.4.2 playwright==1.65.2
    explorer/bin/python tests/model_explorer_screenshot.py GRAPH.onnx NODE_DATA.json NODE PICTURE.png

NODE is the name of the node at which to look. The picture shows it, among the nodes around it.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright


@contextmanager
def explorer(graph: Path, data: Path) -> Iterator[str]:
    """The address at which Model Explorer shows the graph with this node data."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    program = Path(sys.executable).with_name("model-explorer")
    options = ["--node_data_paths", data, "--extensions", "model_explorer_onnx", "--no_open_in_browser", "--port", port]
    command = [program, graph, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            yield next(line.strip() for line in process.stdout if "http://" in line)
        finally:
            process.kill()


def look(page: Page, node: str) -> str:
    """Go to the node, which opens the layers around it, and select it; the text that the page then shows of it."""
    page.get_by_text("Aggregated stats").wait_for()
    page.get_by_placeholder("Search nodes/layers by regex").fill(re.escape(node))
    page.locator(f".search-results-container [data-id={json.dumps(node)}] .node-label").click(modifiers=["Alt"])
    page.get_by_text(re.compile("node info", re.IGNORECASE)).wait_for()
    page.wait_for_timeout(3_000)  # the graph moves to its place
    return page.inner_text("body").split("NODE DATA PROVIDERS")[1]


def main(graph: Path, data: Path, node: str, picture: Path) -> None:
    value = json.loads(data.read_text())["results"][node]["value"]
    with explorer(graph, data) as address, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--enable-unsafe-swiftshader"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(400_000)
        page.goto(address)
        text = look(page, node)
        page.screenshot(path=picture)
        browser.close()
    shown = text.split("INPUTS")[0].split()
    assert str(value) in shown, f"Model Explorer shows {' '.join(shown)} of {node}, and the file has {value}"
    print(f"Model Explorer shows {value} of {node}; look at {picture}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
