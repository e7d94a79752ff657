"""`opdiff view` serves the graph with the real Netron."""

from __future__ import annotations

import subprocess
import sys
import urllib.request

from opdiff.graphs.artifact import load_artifact


def test_view_prints_an_address_at_which_netron_answers(seed):
    command = [sys.executable, "-u", "-m", "opdiff", "view", str(seed / "dsl.onnx"), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = next(line.strip() for line in process.stdout if "http" in line)
            page = urllib.request.urlopen(address[address.index("http") :], timeout=30).read()
            assert b"netron" in page.lower()
        finally:
            process.terminate()


def test_nodes_are_named_by_block_and_stage(seed):
    names = [node.name for node in load_artifact(seed / "dsl.onnx").model.graph.node]
    assert "blk.0.q_proj/MatMul" in names
    assert all(name.split("/")[0] in {"embed", "final_norm", "logits"} or name.startswith("blk.0.") for name in names)
