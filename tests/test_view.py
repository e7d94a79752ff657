"""`opdiff view` shows a graph, and what was found of it, on the real Netron's page, which asks nothing of any other machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from opdiff.compare.report.findings import findings
from opdiff.graphs.annotated import Finding
from opdiff.graphs.artifact import load_artifact, refer_to_external
from opdiff.graphs.errors import InputError
from opdiff.graphs.view import serve

netron = pytest.importorskip("netron")
HOSTILE = "<script>alert(1)</script>"
FOREIGN = """<ir_version: 10, opset_import: ["" : 21]>
g (float[n,16] x) => (float[n,16] y) <float[16] w = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}> { y = Add(x, w) }"""
Open = Callable[..., Any]  # a page of Playwright, and what it asked of others


def got(address: str) -> bytes:
    return urllib.request.urlopen(address, timeout=30).read()


def shown(path: Path, found: dict[str, Finding] | None = None) -> tuple[str, onnx.ModelProto]:
    """The address at which the graph is served, and the graph as Netron's page gets it there."""
    address = serve(path, browse=False, findings=found)
    return address, onnx.load_from_string(got(f"{address}/data/{urllib.parse.quote(path.stem)}.onnx"))


def metadata(node: onnx.NodeProto) -> dict[str, str]:
    return {prop.key: prop.value for prop in node.metadata_props}


def foreign(path: Path, offset: int = 0, location: str = "w.bin") -> Path:
    """A graph that opdiff did not export; its weight stands at the end of a file that is as long as that takes."""
    model = onnx.parser.parse_model(FOREIGN)
    model.graph.node[0].name = f"{HOSTILE}/Add"
    with path.with_name("w.bin").open("wb") as file:
        file.seek(offset)
        file.write(np.arange(16, dtype=np.float32).tobytes())
    refer_to_external(model.graph.initializer[0], location, offset, 64)
    model.graph.initializer[0].ClearField("float_data")
    path.write_bytes(model.SerializeToString())
    return path


def test_view_prints_an_address_at_which_netron_answers(seed):
    command = [sys.executable, "-u", "-m", "opdiff", "view", str(seed / "dsl.onnx"), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = next(line.strip() for line in process.stdout if "http" in line)
            assert b"netron" in got(address).lower()
        finally:
            process.terminate()


def test_nodes_are_named_by_block_and_stage(seed):
    names = [node.name for node in load_artifact(seed / "dsl.onnx").model.graph.node]
    assert "blk.0.q_proj/MatMul" in names
    assert all(name.split("/")[0] in {"embed", "final_norm", "logits"} or name.startswith("blk.0.") for name in names)


def test_the_copy_carries_the_findings_before_what_the_exporter_left_and_the_file_does_not(seed, diagnosis):
    path = seed / "legacy.onnx"
    before = path.read_bytes()
    nodes = {node.name: node for node in shown(path, findings(diagnosis, "b"))[1].graph.node}
    culprit = metadata(nodes["blk.0.q_proj/MatMul"])
    assert culprit["opdiff.verdict"] == "semantic"
    assert next(iter(culprit)) == "opdiff.verdict"
    assert "pkg.torch.onnx.stack_trace" in culprit
    assert nodes["blk.0.q_proj/MatMul"].doc_string.startswith("At fault: cause 1")
    assert metadata(nodes["blk.0.v_proj/MatMul"])["opdiff.verdict"] == "same"
    assert path.read_bytes() == before


@pytest.mark.parametrize("variant", ["dsl", "legacy", "reference", "legacy.converter=on"])
def test_open_dimensions_are_called_by_their_axes(seed, variant):
    graph = shown(seed / f"{variant}.onnx")[1].graph
    dims = {}
    for info in (*graph.input, *graph.output, *graph.value_info):
        dims[info.name] = [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]
        assert all(dim.WhichOneof("value") for dim in info.type.tensor_type.shape.dim), info.name
    assert {word for words in dims.values() for word in words if isinstance(word, str)} == {"token", "key"}
    assert dims["tokens"] == ["token"]
    assert dims["logits"] == ["token", 64]
    assert dims["blk.0.attn_probs"] == [2, "token", "key"]


def test_every_weight_is_found_at_its_place_and_is_the_graphs_own(seed):
    weights = load_artifact(seed / "dsl.onnx").weights
    address, model = shown(seed / "dsl.onnx")
    places = {i.name: i.external_data[0].value for i in model.graph.initializer if i.external_data}
    assert set(places) == set(weights)
    assert all(got(f"{address}/data/{place}") == weights[name].array.tobytes() for name, place in places.items())


def test_a_weight_in_a_file_of_5_gb_is_served_without_the_rest_of_it(tmp_path):
    start = time.monotonic()
    address, model = shown(foreign(tmp_path / "big.onnx", offset=5 << 30))
    content = got(f"{address}/data/{model.graph.initializer[0].external_data[0].value}")
    assert content == np.arange(16, dtype=np.float32).tobytes()
    assert time.monotonic() - start < 5


def test_nothing_else_of_the_folder_is_served(seed):
    address, _ = shown(seed / "dsl.onnx")
    for place in ("data/legacy.onnx", "data/../legacy.onnx", "data/%2e%2e/legacy.onnx", "weights.safetensors"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            got(f"{address}/{place}")


def test_weights_outside_of_the_folder_and_a_port_that_is_taken_are_refused(tmp_path):
    with pytest.raises(InputError, match="points outside of the folder"):
        serve(foreign(tmp_path / "one.onnx", location="../w.bin"), browse=False)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="choose another --port"):
        serve(foreign(tmp_path / "two.onnx"), browse=False, port=taken.getsockname()[1])


@pytest.fixture
def open_page(browser) -> Iterator[Open]:
    """Opens an address in Chromium: the page, and a list of the other hosts that it asks, which it does not reach."""
    context = browser.new_context()

    def opened(address: str, script: str = ""):
        page, others = context.new_page(), []
        page.add_init_script(script)

        def asked(route) -> None:
            if route.request.url.startswith(address):
                route.continue_()
            else:
                others.append(urllib.parse.urlsplit(route.request.url).hostname)
                route.abort()

        page.route("**/*", asked)
        page.on("pageerror", lambda error: others.append(f"error: {error}"))
        page.on("console", lambda message: others.append(message.text) if message.type == "error" else None)
        page.goto(address)
        return page, others

    yield opened
    context.close()


def find(page, name: str) -> str:
    """Paste a name into Netron's search, open what it finds, and return the text of the side bar."""
    page.locator("body.default").wait_for()
    page.keyboard.press("Control+f")
    page.locator("#search").fill(name)
    page.locator(".sidebar-find-content li").first.dblclick()
    page.get_by_text("Node Properties").wait_for()
    return page.locator("#sidebar").inner_text()


def test_the_culprits_name_pasted_into_netrons_search_finds_it_with_its_findings(seed, diagnosis, open_page):
    first = diagnosis.divergences[0]
    page, others = open_page(serve(seed / "legacy.onnx", browse=False, findings=findings(diagnosis, "b")))
    text = find(page, first.b_node.name)
    for words in (first.b_node.name, "linear.layout", "1 of 3, at this node", first.a_node.source, first.b_node.source):
        assert words in text
    assert others == []
    assert page.context.cookies() == []


def test_a_graph_without_taps_opens_and_a_hostile_name_is_text(tmp_path, open_page):
    path = foreign(tmp_path / "a <b> & 'c' #1.onnx")
    finding = Finding(f"found {HOSTILE}", {"verdict": HOSTILE})
    page, others = open_page(shown(path, {f"{HOSTILE}/Add": finding})[0])
    text = find(page, HOSTILE)
    assert f"found {HOSTILE}" in text
    assert page.title() == path.name
    assert others == []


def test_netrons_own_page_stops_to_ask_and_reaches_other_hosts_where_ours_does_neither(seed, open_page):
    ask = "addEventListener('load', () => fetch('http://elsewhere.example').catch(() => null))"
    path = seed / "dsl.onnx"
    host, port = netron.start(str(path), browse=False)
    try:
        page, others = open_page(f"http://{host}:{port}", ask)
        page.locator("#message-button").wait_for()
        assert "elsewhere.example" in others
    finally:
        netron.stop((host, port))
    page, others = open_page(serve(path, browse=False), ask)
    page.locator("body.default").wait_for()
    assert not page.locator("#message-button").is_visible()
    assert "elsewhere.example" not in others
    assert "Content Security Policy" in " ".join(others)
