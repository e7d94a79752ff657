"""Graphs that are none are refused in one line before anything is cut out of them, whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx_text import save_decoder

from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.errors import InputError


def damaged(path: Path, change) -> Path:
    model = onnx.load(save_decoder(path), load_external_data=False)
    change(model.graph)
    path.write_bytes(model.SerializeToString())
    return path


def renamed_input(graph: onnx.GraphProto) -> None:
    graph.node[3].input[0] = "nobody"


def circle(graph: onnx.GraphProto) -> None:
    graph.node[1].input[0] = graph.node[4].output[0]


def output_of_nothing(graph: onnx.GraphProto) -> None:
    graph.output[0].name = "nothing"


@pytest.mark.parametrize(
    ("change", "word"), [(renamed_input, "nobody"), (circle, "circle"), (output_of_nothing, "nothing")]
)
def test_graph_that_hangs_together_by_nothing_is_refused(change, word, tmp_path):
    with pytest.raises(InputError, match=word):
        load_artifact(damaged(tmp_path / "g.onnx", change))


def test_name_that_is_no_text_is_refused(tmp_path):
    path = save_decoder(tmp_path / "g.onnx")
    path.write_bytes(path.read_bytes().replace(b"Relu", b"Re\xff\xfe"))
    with pytest.raises(InputError, match="UTF-8"):
        load_artifact(path)


def test_value_that_a_branch_captures_is_made_and_so_is_one_that_stands_later(tmp_path):
    def reversed_nodes(graph: onnx.GraphProto) -> None:
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(graph.node)]
        del graph.node[:]
        graph.node.extend(nodes)

    load_artifact(damaged(tmp_path / "g.onnx", reversed_nodes))
