"""Graphs that are none are refused in one line before anything is cut out of them, whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
from onnx_text import save_decoder

from opdiff.graphs.artifact import load_artifact, read_model
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


def unknown_operator(graph: onnx.GraphProto) -> None:
    graph.node[2].op_type = "Relu2"


def operator_without_a_version(graph: onnx.GraphProto) -> None:
    graph.node[2].domain = "com.microsoft"
    graph.node[2].op_type = "QuickGelu"


def operator_of_another_domain(graph: onnx.GraphProto) -> None:
    graph.node[2].domain = "evil.ops"


def unknown_type(graph: onnx.GraphProto) -> None:
    graph.initializer[0].data_type = 77


def unknown_type_of_a_value(graph: onnx.GraphProto) -> None:
    graph.output[0].type.tensor_type.elem_type = 77


def input_without_a_type(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.elem_type = 0


def negative_shape(graph: onnx.GraphProto) -> None:
    graph.initializer[0].dims[:] = [-8, -4]


def more_data_than_shape(graph: onnx.GraphProto) -> None:
    graph.initializer.add(name="more", data_type=1, dims=[2], raw_data=bytes(12))


def fewer_numbers_than_shape(graph: onnx.GraphProto) -> None:
    graph.initializer.add(name="fewer", data_type=1, dims=[2], float_data=[1.0])


def unknown_type_of_a_number(graph: onnx.GraphProto) -> None:
    graph.initializer.add(name="odd", data_type=77, dims=[1], float_data=[1.0])


def constant_with_less_data_than_its_shape(graph: onnx.GraphProto) -> None:
    value = onnx.TensorProto(name="short", data_type=1, dims=[2], float_data=[1.0])
    graph.node.add(op_type="Constant", name="c", output=["constant"]).attribute.append(
        onnx.helper.make_attribute("value", value)
    )


def output_without_a_type(graph: onnx.GraphProto) -> None:
    graph.output[0].type.tensor_type.elem_type = 0


def attribute_of_a_function(graph: onnx.GraphProto) -> None:
    transposed = next(node for node in graph.node if node.op_type == "Transpose")
    transposed.attribute[0].ref_attr_name = "perm"


def made_twice(graph: onnx.GraphProto) -> None:
    graph.node.append(graph.node[1])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (renamed_input, "nobody"),
        (circle, "circle"),
        (output_of_nothing, "output 'nothing' is made by nothing"),
        (unknown_operator, "Relu2, which this onnxruntime does not know"),
        (operator_without_a_version, "no version of that domain"),
        (operator_of_another_domain, "evil.ops.Relu, of a domain"),
        (unknown_type, "unknown data type"),
        (unknown_type_of_a_value, "value 'embed' has an unknown data type"),
        (input_without_a_type, "input 'tokens' has no data type"),
        (negative_shape, "cannot be"),
        (more_data_than_shape, "'more' has 12"),
        (fewer_numbers_than_shape, "'fewer' has 1"),
        (unknown_type_of_a_number, "'odd' has an unknown data type"),
        (constant_with_less_data_than_its_shape, "'short' has 1"),
        (output_without_a_type, "output 'embed' has no data type"),
        (attribute_of_a_function, "takes 'perm' from a function, and stands in none"),
        (made_twice, "no valid ONNX graph"),
    ],
)
def test_graph_that_cannot_be_is_refused(change, word, tmp_path):
    with pytest.raises(InputError, match=word):
        load_artifact(damaged(tmp_path / "g.onnx", change))


def test_every_operator_of_an_optimised_graph_is_known(tmp_path):
    """onnxruntime's optimiser writes operators of com.microsoft, which say their version."""
    path = save_decoder(tmp_path / "g.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    read_model(tmp_path / "optimised.onnx")


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
