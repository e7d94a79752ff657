"""Names: every node and value stands under the tap that it belongs to, and two stages that are one tensor stay two."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx.reference import ReferenceEvaluator

from opdiff.graphs.naming import MARK_DOMAIN, MARK_OPERATOR, named_by_region
from opdiff.graphs.slices import implicit_inputs, producers, sliced

HEADER = f'<ir_version: 10, opset_import: ["" : 21, "{MARK_DOMAIN}" : 1]>\n'
MARK = f"{MARK_DOMAIN}.{MARK_OPERATOR}"


def named(text: str, **taps: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEADER + text)
    named_by_region(model, taps)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=tap) for tap in taps)
    return model


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    return ReferenceEvaluator(model).run(None, {"x": np.array([1.0, -2.0], np.float32)})


PLAIN = "g (float[2] x) => (float[2] b) <float[2] c = {3, 4}> { a = Neg(x) h = Add(a, c) b = Mul(h, h) dead = Abs(x) }"


def test_nodes_and_values_are_named_after_their_taps():
    graph = named(PLAIN, embed="a", logits="b").graph
    assert [node.name for node in graph.node] == ["embed/Neg", "logits/Add", "logits/Mul"]
    assert [name for node in graph.node for name in node.output] == ["embed", "logits/Add", "logits"]
    assert [initializer.name for initializer in graph.initializer] == ["logits/const"]
    assert graph.input[0].name == "x"


def test_nodes_that_no_tap_depends_on_are_dropped():
    assert "Abs" not in {node.op_type for node in named(PLAIN, logits="b").graph.node}


def test_naming_changes_no_value():
    a, b = run(named(PLAIN, embed="a", logits="b"))
    np.testing.assert_array_equal(a, [-1, 2])
    np.testing.assert_array_equal(b, [4, 36])


def test_two_nodes_of_one_operator_get_two_names():
    text = "g (float[2] x) => (float[2] b) { a = Neg(x) h = Neg(a) b = Neg(h) }"
    names = [node.name for node in named(text, logits="b").graph.node]
    assert names == ["logits/Neg", "logits/Neg_2", "logits/Neg_3"]


def test_two_taps_of_one_tensor_stay_two_that_can_be_cut():
    text = f"""g (float[2] x) => (float[2] b) {{
      a = Neg(x) m = {MARK}(a) n = {MARK}(m) b = Abs(n)
    }}"""
    graph = named(text, attn_norm="m", q_proj="n", logits="b").graph
    assert {node.output[0]: node.op_type for node in graph.node} == {
        "attn_norm": "Neg",
        "q_proj": "Identity",
        "logits": "Abs",
    }
    assert {node.output[0]: list(node.input) for node in graph.node}["logits"] == ["q_proj"]


def test_mark_on_a_graph_input_becomes_a_node():
    graph = named(f"g (float[2] x) => (float[2] b) {{ m = {MARK}(x) b = Abs(m) }}", embed="m", logits="b").graph
    assert [(node.op_type, *node.input) for node in graph.node] == [("Identity", "x"), ("Abs", "embed")]


def test_reader_from_before_the_mark_reads_the_same_tap():
    """A residual path reads the tensor itself, and not what the mark returned: it belongs to the tap all the same."""
    text = f"g (float[2] x) => (float[2] b) {{ a = Neg(x) m = {MARK}(a) h = Abs(m) b = Add(a, h) }}"
    model = named(text, embed="m", logits="b")
    assert {name for node in model.graph.node[1:] for name in node.input} == {"embed", "logits/Abs"}
    np.testing.assert_array_equal(run(model)[1], [0, 4])


def test_no_mark_is_left_and_its_domain_is_gone():
    model = named(f"g (float[2] x) => (float[2] b) {{ m = {MARK}(x) b = Abs(m) }}", logits="b")
    assert MARK_DOMAIN not in {opset.domain for opset in model.opset_import}
    np.testing.assert_array_equal(run(model), [[1, 2]])


IF = """g (float[2] x, bool p) => (float[2] b) {
  a = Neg(x)
  b = If (p) < then_branch = t () => (float[2] y) { y = Abs(a) }, else_branch = e () => (float[2] z) { z = Neg(x) } >
}"""


def test_what_a_branch_reads_follows_its_new_name():
    model = named(IF, embed="a", logits="b")
    found = ReferenceEvaluator(model).run(["logits"], {"x": np.array([1.0, -2.0], np.float32), "p": np.array(True)})
    np.testing.assert_array_equal(found[0], [1, 2])


def test_slice_goes_through_branches_and_stops_where_it_is_told():
    graph = onnx.parser.parse_model(HEADER + IF).graph
    maker = producers(graph)
    assert implicit_inputs(maker["b"]) == ("a", "x")
    assert [node.op_type for node in sliced(maker, ["b"], stop=lambda name: False)] == ["Neg", "If"]
    assert [node.op_type for node in sliced(maker, ["b"], stop=lambda name: name == "a")] == ["If"]
