"""Files that lie: each function writes one into a folder of valid files and returns the command that reads it."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from .valid import TOKENS, decoder_values, save_safetensors

Lie = Callable[[Path], list[str]]
LIES: dict[str, Lie] = {}
_TOKENS = ["--tokens", ",".join(map(str, TOKENS))]
_COMPARE = ["compare", "right.onnx", "decoder.onnx", *_TOKENS]
_FOREIGN = ["compare", "foreign.right.onnx", "foreign.onnx", *_TOKENS]
_TRACE = ["compare", "right.onnx"]
_DEEP = 100_000


def lie(function: Lie) -> Lie:
    LIES[function.__name__] = function
    return function


def _changed(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.ModelProto.FromString(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())


def _in_decoder(change: Callable[[onnx.ModelProto], None]) -> Lie:
    def make(folder: Path) -> list[str]:
        _changed(folder / "decoder.onnx", change)
        return _COMPARE

    return make


def _in_foreign(change: Callable[[onnx.ModelProto], None]) -> Lie:
    def make(folder: Path) -> list[str]:
        _changed(folder / "foreign.onnx", change)
        return _FOREIGN

    return make


def _dims(*dims: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].dims[:] = dims

    return change


def _location(text: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for entry in model.graph.initializer[0].external_data:
            entry.value = text if entry.key == "location" else entry.value

    return change


LIES["shape_whose_product_overflows"] = _in_decoder(_dims(1 << 62, 1 << 62))
LIES["shape_of_2_to_the_40"] = _in_decoder(_dims(1 << 40))
LIES["shape_that_is_negative"] = _in_decoder(_dims(-8, -4))
LIES["shape_that_is_empty"] = _in_decoder(_dims(0, 4))
LIES["shape_of_a_thousand_dimensions"] = _in_decoder(_dims(*([1] * 1000), 8, 4))
for _name, _text in {
    "outside_by_dots": "../right.onnx",
    "outside_by_a_path": "/etc/passwd",
    "outside_by_a_device": "/dev/zero",
    "outside_in_a_name_with_nul": "weights\0.safetensors",
    "outside_in_a_name_that_is_too_long": "w" * 5000,
    "outside_in_the_folder_itself": ".",
    "outside_with_an_escape": "\x1b[2J.safetensors",
}.items():
    LIES[_name] = _in_decoder(_location(_text))


def _linked(make: Callable[[Path], None]) -> Lie:
    def made(folder: Path) -> list[str]:
        (folder / "weights.safetensors").rename(folder / "kept.safetensors")
        _changed(folder / "right.onnx", lambda model: [_kept(one) for one in model.graph.initializer] and None)
        make(folder / "weights.safetensors")
        return _COMPARE

    return made


def _kept(tensor: onnx.TensorProto) -> None:
    for entry in tensor.external_data:
        entry.value = "kept.safetensors" if entry.key == "location" else entry.value


LIES["weights_are_a_link_to_outside"] = _linked(lambda path: path.symlink_to("/etc/passwd"))
LIES["weights_are_a_link_to_themselves"] = _linked(lambda path: path.symlink_to(path.name))
LIES["weights_are_a_link_to_a_device"] = _linked(lambda path: path.symlink_to("/dev/zero"))
LIES["weights_are_a_pipe"] = _linked(lambda path: os.mkfifo(path))
LIES["weights_are_a_folder"] = _linked(lambda path: path.mkdir())
LIES["weights_are_empty"] = _linked(lambda path: path.touch())
LIES["weights_are_a_hard_link"] = _linked(lambda path: os.link(path.with_name("kept.safetensors"), path))


def _pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@lie
def graph_is_a_pipe(folder: Path) -> list[str]:
    _pipe(folder / "decoder.onnx")
    return _COMPARE


@lie
def graph_is_a_device(folder: Path) -> list[str]:
    return ["compare", "right.onnx", "/dev/zero", *_TOKENS]


@lie
def graph_is_standard_input(folder: Path) -> list[str]:
    return ["compare", "right.onnx", "/dev/stdin", *_TOKENS]


@lie
def trace_is_a_pipe(folder: Path) -> list[str]:
    _pipe(folder / "pipe.npz")
    return [*_TRACE, "pipe.npz"]


@lie
def name_map_is_a_pipe(folder: Path) -> list[str]:
    _pipe(folder / "names.toml")
    return [*_TRACE, "t.npz", "--names", "names.toml"]


@lie
def result_is_a_pipe(folder: Path) -> list[str]:
    _pipe(folder / "r.json")
    return ["report", "r.json"]


@lie
def result_is_a_device(folder: Path) -> list[str]:
    return ["report", "/dev/zero"]


def _many_nodes(model: onnx.ModelProto) -> None:
    one = helper.make_node("Relu", ["x"], ["x"]).SerializeToString()
    graph = b"".join(b"\x0a" + bytes([len(one)]) + one for _ in range(1_000_001))
    model.graph.MergeFromString(graph)


def _many_keys(model: onnx.ModelProto) -> None:
    for n in range(100_000):
        model.metadata_props.add(key=f"opdiff.{n}", value="x" * 20)


def _circle(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = model.graph.node[5].output[0]


def _itself(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = model.graph.node[1].output[0]


def _deep(model: onnx.ModelProto) -> None:
    """As deep as protobuf itself lets it be, which takes a few messages for each graph."""
    inner = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["b"])], "g", [], [helper.make_tensor_value_info("b", 1, None)]
    )
    for n in range(24):
        node = helper.make_node("If", ["big"], [f"b{n}"], then_branch=inner)
        inner = helper.make_graph([node], "g", [], [helper.make_tensor_value_info(f"b{n}", 1, None)])
    model.graph.node.append(helper.make_node("If", ["big"], ["deep"], then_branch=inner, else_branch=inner))


def _functions_in_a_circle(model: onnx.ModelProto) -> None:
    other = model.functions.add()
    other.CopyFrom(model.functions[0])
    other.name = "thrice"
    for one, called in ((other, "twice"), (model.functions[0], "thrice")):
        one.opset_import.add(domain="own", version=1)
        one.node.append(helper.make_node(called, [one.input[0]], ["again"], domain="own"))


def _functions_that_double(model: onnx.ModelProto) -> None:
    """Forty functions, each of which calls the one before it twice: 2^40 nodes."""
    for n in range(40):
        called = f"f{n - 1}" if n else "twice"
        nodes = [
            helper.make_node(called, ["p"], ["a"], domain="own"),
            helper.make_node(called, ["a"], ["q"], domain="own"),
        ]
        model.functions.append(
            helper.make_function(
                "own", f"f{n}", ["p"], ["q"], nodes, [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
            )
        )
    next(node for node in model.graph.node if node.op_type == "twice").op_type = "f39"


def _twice_made(model: onnx.ModelProto) -> None:
    model.graph.node[3].output[0] = model.graph.node[1].output[0]


def _twice_given(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _twice_an_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.output[0])


def _names_with_escapes(model: onnx.ModelProto) -> None:
    for n, node in enumerate(model.graph.node):
        node.name = f"\x1b[2J\x1b]0;owned\x07<script>alert(1)</script>]]>{n}\u202e"
    model.graph.node[5].op_type = "Abs"


def _domain(domain: str, op_type: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[2].domain, model.graph.node[2].op_type = domain, op_type
        model.opset_import.add(domain=domain, version=1)

    return change


def _size_of_an_output(op_type: str, *numbers: int, kind: int = TensorProto.INT64) -> Callable[[onnx.ModelProto], None]:
    """A node that makes as much as a constant says, beside what the graph computes."""

    def change(model: onnx.ModelProto) -> None:
        data = model.graph.node[-1].output[0]
        dims = [] if op_type == "Range" else [len(numbers)]
        for array in (
            helper.make_tensor("lie.size", kind, dims, numbers),
            helper.make_tensor("lie.zero", kind, [], [0]),
            helper.make_tensor("lie.step", kind, [], [1]),
            helper.make_tensor("lie.one", TensorProto.FLOAT, [1] * len(numbers), [1.0]),
        ):
            model.graph.initializer.append(array)
        inputs = {"ConstantOfShape": ["lie.size"], "Range": ["lie.zero", "lie.size", "lie.step"]}
        model.graph.node.append(helper.make_node(op_type, inputs.get(op_type, ["lie.one", "lie.size"]), ["huge"]))
        model.graph.node.append(helper.make_node("Cast", ["huge"], ["huge_float"], to=TensorProto.FLOAT))
        model.graph.node.append(helper.make_node("ReduceMax", ["huge_float"], ["largest"], keepdims=0))
        model.graph.node.append(helper.make_node("Add", [data, "largest"], ["sum"]))
        output = next(one for one in model.graph.output if one.name == data)
        output.name = "sum"

    return change


@lie
def graphs_too_deep_for_protobuf(folder: Path) -> list[str]:
    """Ten thousand graphs, each in an attribute of the node of the one around it, written by hand."""
    data = b""
    for _ in range(10_000):
        for field in (6, 5, 1):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            data = bytes([field << 3 | 2]) + _varint(len(data)) + data
    (folder / "decoder.onnx").write_bytes(bytes([7 << 3 | 2]) + _varint(len(data)) + data)
    return _COMPARE


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


LIES["a_million_nodes"] = _in_decoder(_many_nodes)
LIES["a_hundred_thousand_keys"] = _in_decoder(_many_keys)
LIES["nodes_in_a_circle"] = _in_decoder(_circle)
LIES["node_that_reads_itself"] = _in_decoder(_itself)
LIES["graphs_that_are_deep"] = _in_foreign(_deep)
LIES["functions_in_a_circle"] = _in_foreign(_functions_in_a_circle)
LIES["functions_that_double"] = _in_foreign(_functions_that_double)
LIES["value_made_twice"] = _in_decoder(_twice_made)
LIES["initializer_given_twice"] = _in_decoder(_twice_given)
LIES["output_given_twice"] = _in_decoder(_twice_an_output)
LIES["names_with_escapes"] = _in_decoder(_names_with_escapes)
LIES["operator_of_another_domain"] = _in_decoder(_domain("evil.ops", "Relu"))
LIES["operator_of_training"] = _in_decoder(_domain("ai.onnx.preview.training", "Adam"))
LIES["operator_that_there_is_not"] = _in_decoder(_domain("com.microsoft", "SoftmaxGrad"))
for _op in ("ConstantOfShape", "Expand", "Tile"):
    LIES[f"{_op}_of_16_gb"] = _in_foreign(_size_of_an_output(_op, 1 << 16, 1 << 16))
LIES["Range_to_2_to_the_40"] = _in_foreign(_size_of_an_output("Range", 1 << 40))


@lie
def json_of_depth_100_000(folder: Path) -> list[str]:
    (folder / "r.json").write_text("[" * _DEEP + "]" * _DEEP)
    return ["report", "r.json"]


@lie
def json_of_tables_of_depth_100_000(folder: Path) -> list[str]:
    (folder / "r.json").write_text('{"schema": "opdiff.result/3", "a":' + '{"a":' * _DEEP + "1" + "}" * _DEEP + "}")
    return ["report", "r.json"]


@lie
def toml_of_depth_100_000(folder: Path) -> list[str]:
    (folder / "names.toml").write_text("[names]\nx = " + "[" * _DEEP + "]" * _DEEP)
    return [*_TRACE, "t.npz", "--names", "names.toml"]


@lie
def taps_of_depth_100_000(folder: Path) -> list[str]:
    def change(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            if entry.key in ("opdiff.taps", "opdiff.config", "opdiff.cache", "opdiff.options"):
                entry.value = "[" * _DEEP + "]" * _DEEP

    _changed(folder / "decoder.onnx", change)
    return _COMPARE


@lie
def scopes_of_depth_100_000(folder: Path) -> list[str]:
    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="(" * _DEEP + ")" * _DEEP)

    _changed(folder / "right.onnx", change)
    return _COMPARE


@lie
def header_of_depth_100_000(folder: Path) -> list[str]:
    text = b"[" * _DEEP + b"]" * _DEEP
    (folder / "t.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    return [*_TRACE, "t.safetensors"]


@lie
def header_of_2_to_the_63_bytes(folder: Path) -> list[str]:
    (folder / "t.safetensors").write_bytes(struct.pack("<Q", 1 << 63) + b"{}")
    return [*_TRACE, "t.safetensors"]


@lie
def tensors_that_overlap(folder: Path) -> list[str]:
    header = {name: {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]} for name in ("embed", "logits")}
    text = json.dumps(header).encode()
    (folder / "t.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(32))
    return [*_TRACE, "t.safetensors"]


@lie
def npz_of_zeros_packed_a_thousandfold(folder: Path) -> list[str]:
    with (
        zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("embed.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 30,)})
        for _ in range(300):
            file.write(bytes(1 << 22))
    return [*_TRACE, "bomb.npz"]


@lie
def npz_whose_array_says_2_to_the_50(folder: Path) -> list[str]:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 50,)})
    _npz(folder / "big.npz", {"embed.npy": file.getvalue()})
    return [*_TRACE, "big.npz"]


@lie
def npz_whose_array_says_4_gb(folder: Path) -> list[str]:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 30,)})
    _npz(folder / "big.npz", {"embed.npy": file.getvalue()})
    return [*_TRACE, "big.npz"]


class Trap:
    """Leaves a mark where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("unpickled",)


@lie
def npz_of_pickles(folder: Path) -> list[str]:
    np.savez(folder / "pickled.npz", embed=np.array([Trap()], object))
    return [*_TRACE, "pickled.npz"]


@lie
def npz_that_is_a_pickle(folder: Path) -> list[str]:
    import pickle

    (folder / "pickled.npz").write_bytes(pickle.dumps(Trap()))
    return [*_TRACE, "pickled.npz"]


@lie
def npz_with_one_name_twice(folder: Path) -> list[str]:
    array = io.BytesIO()
    np.save(array, decoder_values()["embed"])
    with zipfile.ZipFile(folder / "twice.npz", "w") as archive:
        archive.writestr("embed.npy", array.getvalue())
        archive.writestr("embed.npy", array.getvalue())
    return [*_TRACE, "twice.npz", *_TOKENS]


@lie
def npz_with_a_path_outside(folder: Path) -> list[str]:
    array = io.BytesIO()
    np.save(array, decoder_values()["embed"])
    _npz(folder / "slip.npz", {"../../slip.npy": array.getvalue(), "embed.npy": array.getvalue()})
    return [*_TRACE, "slip.npz", *_TOKENS]


def _npz(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@lie
def tensors_named_with_escapes(folder: Path) -> list[str]:
    values = decoder_values()
    values["\x1b[2J\x1b]0;owned\x07\u202e"] = values["embed"]
    save_safetensors(folder / "t.safetensors", values, {"opdiff.runtime": "\x1b[31mred\x1b[0m\n\r\x07"})
    return [*_TRACE, "t.safetensors", "--tables"]


@lie
def names_that_are_not_utf8(folder: Path) -> list[str]:
    path = folder / "decoder.onnx"
    path.write_bytes(path.read_bytes().replace(b"act0", b"\xff\xfe\xc0\x80"))
    return _COMPARE


@lie
def gguf_of_2_to_the_60_strings(folder: Path) -> list[str]:
    key = b"x.names"
    data = (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", 9, 8, 1 << 60)
    )
    (folder / "plain.gguf").write_bytes(data + bytes(64))
    return ["read-checkpoint", "plain.gguf"]


@lie
def gguf_of_2_to_the_60_tensors(folder: Path) -> list[str]:
    (folder / "plain.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0) + bytes(64))
    return ["read-checkpoint", "plain.gguf"]


@lie
def gguf_trace_whose_shape_overflows(folder: Path) -> list[str]:
    name = b"embed"
    entry = struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, 1 << 33, 1 << 33, 0, 0)
    (folder / "t.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + entry + bytes(64))
    return [*_TRACE, "t.gguf", *_TOKENS]


@lie
def shards_outside_of_the_folder(folder: Path) -> list[str]:
    index = folder / "hf" / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("a.safetensors", "../../t.safetensors"))
    return ["read-checkpoint", "hf"]


@lie
def shard_is_a_link_to_outside(folder: Path) -> list[str]:
    shard = folder / "hf" / "a.safetensors"
    shard.rename(folder / "elsewhere.safetensors")
    shard.symlink_to(folder / "elsewhere.safetensors")
    return ["read-checkpoint", "hf"]


@lie
def configuration_is_a_pipe(folder: Path) -> list[str]:
    _pipe(folder / "hf" / "config.json")
    return ["read-checkpoint", "hf"]


@lie
def configuration_of_2_to_the_31_blocks(folder: Path) -> list[str]:
    path = folder / "hf" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": (1 << 31) - 1}))
    return ["read-checkpoint", "hf"]


@lie
def tokenizer_is_a_pipe(folder: Path) -> list[str]:
    _pipe(folder / "hf" / "tokenizer.json")
    return ["tokenize", "hf", "abc"]


@lie
def tokenizer_with_a_pattern_that_never_ends(folder: Path) -> list[str]:
    path = folder / "hf" / "tokenizer.json"
    content = json.loads(path.read_text())
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps({**content, "pre_tokenizer": split}))
    return ["tokenize", "hf", "a" * 40 + "b"]


@lie
def name_map_with_a_pattern(folder: Path) -> list[str]:
    (folder / "names.toml").write_text(
        '[names]\n"(a+)+$" = "embed"\n"{N}{N}{N}{N}{N}{N}{N}{N}{N}" = "blk.{N}.ffn_down"\n'
    )
    np.savez(folder / "t.npz", **{"a" * 200 + "b": np.ones((2, 4), "f"), "1" * 200: np.ones((2, 4), "f")})
    return [*_TRACE, "t.npz", "--names", "names.toml", *_TOKENS]


@lie
def result_with_scripts_in_it(folder: Path) -> list[str]:
    path = folder / "d.json"
    text = path.read_text().replace("blk.1.ffn_down", "<script>x</script>]]>\\u001b[2J\\u202e")
    path.write_text(text)
    return ["report", "d.json", "--html", "o.html", "--junit", "o.xml", "--summary", "o.md"]


# What the line says of each that is refused; the others are used.
SAYS = {
    "shape_whose_product_overflows": "cannot be",
    "shape_of_2_to_the_40": "reaches outside of weights.safetensors",
    "shape_that_is_negative": "cannot be",
    "shape_that_is_empty": "reaches outside of weights.safetensors",
    "shape_of_a_thousand_dimensions": "cannot be",
    "outside_by_dots": "points outside of the folder",
    "outside_by_a_path": "points outside of the folder",
    "outside_by_a_device": "points outside of the folder",
    "outside_in_a_name_with_nul": "is none",
    "outside_in_a_name_that_is_too_long": "is not there, or is no file",
    "outside_in_the_folder_itself": "is not there, or is no file",
    "outside_with_an_escape": r"\x1b[2J.safetensors is not there",
    "weights_are_a_link_to_outside": "points outside of the folder",
    "weights_are_a_link_to_themselves": "is none",
    "weights_are_a_link_to_a_device": "points outside of the folder",
    "weights_are_a_pipe": "is not there, or is no file",
    "weights_are_a_folder": "is not there, or is no file",
    "weights_are_empty": "cannot be read",
    "graph_is_a_pipe": "neither a file nor a link to one",
    "graph_is_a_device": "neither a file nor a link to one",
    "graph_is_standard_input": "neither a file nor a link to one",
    "trace_is_a_pipe": "no such file",
    "name_map_is_a_pipe": "neither a file nor a link to one",
    "result_is_a_pipe": "neither a file nor a link to one",
    "result_is_a_device": "neither a file nor a link to one",
    "configuration_is_a_pipe": "neither a file nor a link to one",
    "tokenizer_is_a_pipe": "no such file",
    "graphs_too_deep_for_protobuf": "not an ONNX file",
    "a_million_nodes": "nodes, where 1000000 are the most",
    "nodes_in_a_circle": "in a circle",
    "node_that_reads_itself": "in a circle",
    "graphs_that_are_deep": "graphs inside of graphs",
    "functions_in_a_circle": "functions call each other in a circle",
    "functions_that_double": "nodes with those of its functions",
    "value_made_twice": "which nothing makes",
    "initializer_given_twice": "no valid ONNX graph",
    "operator_of_another_domain": "evil.ops.Relu, of a domain",
    "operator_of_training": "ai.onnx.preview.training.Adam, of a domain",
    "operator_that_there_is_not": "com.microsoft.SoftmaxGrad, which this onnxruntime does not know",
    "ConstantOfShape_of_16_gb": "out of memory",
    "Expand_of_16_gb": "out of memory",
    "Tile_of_16_gb": "more than 4294967296 bytes",
    "Range_to_2_to_the_40": "out of memory",
    "json_of_depth_100_000": "not JSON",
    "json_of_tables_of_depth_100_000": "not JSON",
    "toml_of_depth_100_000": "no TOML",
    "taps_of_depth_100_000": "its table of taps cannot be read",
    "header_of_depth_100_000": "its header is no JSON",
    "header_of_2_to_the_63_bytes": "not a safetensors file, or cut short",
    "tensors_that_overlap": "no tokens",
    "npz_of_zeros_packed_a_thousandfold": "would unpack to",
    "npz_whose_array_says_2_to_the_50": "out of memory",
    "npz_whose_array_says_4_gb": "EOF",
    "npz_of_pickles": "Object arrays cannot be loaded",
    "npz_that_is_a_pickle": "not an .npz",
    "names_that_are_not_utf8": "not UTF-8",
    "gguf_of_2_to_the_60_strings": "cut short or damaged",
    "gguf_of_2_to_the_60_tensors": "has 0 dimensions",
    "gguf_trace_whose_shape_overflows": "not a GGUF file, or damaged",
    "shards_outside_of_the_folder": "is no file name",
    "shard_is_a_link_to_outside": "leads outside its folder",
    "configuration_of_2_to_the_31_blocks": "10000 at most",
    "tokenizer_with_a_pattern_that_never_ends": "retry-limit",
    "name_map_with_a_pattern": "no stage in it",
}
