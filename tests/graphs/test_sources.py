"""Where a node comes from, as the exporter's metadata says it."""

from __future__ import annotations

import ast

import onnx
import pytest

from opdiff.graphs.sources import source_of


@pytest.mark.parametrize(
    "names",
    [
        ["", "blk.0", "linear"],
        ["", "it's", "node"],
        ["", 'a "quoted" name', "node"],
        ["", "back\\slash", "node"],
        ["", "two\nlines", "node"],
        ["", "a', 'b", "node"],
        ["", "größe", "node"],
        ["only"],
        [],
    ],
)
def test_scope_is_the_last_module_whatever_its_name(names):
    """The list is read as Python writes it, plain or with escapes."""
    text = str(names)
    assert ast.literal_eval(text) == names
    node = onnx.helper.make_node("Add", ["a", "b"], ["c"])
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=text)
    assert source_of(node).scope == (names[-2] if len(names) > 1 else None)


@pytest.mark.parametrize("text", ["", "['a', 'b'", "['a' 'b'", "{'a': 1, 'b': 2}", "['a', print('b')]", "[1, 2"])
def test_scope_that_is_no_list_is_none(text):
    node = onnx.helper.make_node("Add", ["a", "b"], ["c"])
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=text)
    assert source_of(node).scope is None


def test_attributes_are_written_out_and_a_long_one_is_cut():
    node = onnx.helper.make_node("Softmax", ["x"], ["y"], axis=-1)
    assert source_of(node).attributes == "axis = -1"
    long = onnx.helper.make_node("Any", ["x"], ["y"], domain="own", numbers=list(range(100)))
    assert source_of(long).attributes.endswith("...")
