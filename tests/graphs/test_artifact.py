"""Artifacts: what is saved is read, and what is missing, foreign, cut short or hostile is refused in one line."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_text import DECODER_AXES, decoder_weights, save_decoder, save_text

from opdiff.graphs.artifact import Artifact, load_artifact, save_artifact
from opdiff.graphs.errors import InputError

ONE_TAP = "g (int64[T] tokens) => (int64[T] logits) { logits = Identity(tokens) }"


@pytest.fixture
def path(tmp_path) -> Path:
    return save_decoder(tmp_path / "decoder.onnx")


def refusal(path: Path) -> str:
    """The message with which a file is refused: always one line that names the file."""
    with pytest.raises(InputError) as caught:
        load_artifact(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def rewrite(path: Path, change) -> Path:
    """Change a saved graph behind opdiff's back."""
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def point(path: Path, key: str, value: str) -> Path:
    """Set an entry of the first weight's external data."""

    def change(model: onnx.ModelProto) -> None:
        for entry in model.graph.initializer[0].external_data:
            if entry.key == key:
                entry.value = value

    return rewrite(path, change)


def test_taps_weights_and_facts_come_back(tmp_path):
    facts = {"runtime": "legacy", "options": '{"converter": "on"}'}
    text = "g (int64[T] tokens) => (float[T,4] logits) { logits = Gather(table, tokens) }"
    table = decoder_weights()["table"]
    artifact = load_artifact(
        save_text(tmp_path / "a.onnx", text, {"logits": ("token", "vocab")}, {"table": table}, facts)
    )
    assert artifact.runtime == "legacy:converter=on"
    assert [(tap.name, tap.axes, tap.node.op_type) for tap in artifact.taps] == [
        ("logits", ("token", "vocab"), "Gather")
    ]
    np.testing.assert_array_equal(artifact.weights["table"].array, table)
    assert artifact.facts.items() >= facts.items()


def test_file_without_facts_is_named_after_itself(path):
    assert load_artifact(path).runtime == "decoder"


def test_weights_are_mapped_and_not_copied(path):
    weight = load_artifact(path).weights["table"].array
    while weight.base is not None and not isinstance(weight, np.memmap):
        weight = weight.base
    assert isinstance(weight, np.memmap)


def test_missing_file_folder_and_text_are_refused(tmp_path):
    assert "cannot be read (No such file" in refusal(tmp_path / "missing.onnx")
    assert "a folder" in refusal(tmp_path)
    text = tmp_path / "text.onnx"
    text.write_text("This is no graph.\n" * 100)
    assert "not an ONNX file" in refusal(text)
    text.write_bytes(b"")
    assert "not an ONNX file" in refusal(text)


def test_file_cut_short_anywhere_is_refused(path):
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        refusal(path)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_graph_with_bytes_changed_is_read_or_refused_never_a_crash(data):
    with TemporaryDirectory() as folder:
        path = save_decoder(Path(folder) / "decoder.onnx")
        whole = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(whole)
        try:
            assert isinstance(load_artifact(path), Artifact)
        except InputError as e:
            assert str(e).startswith(str(path))


def test_graph_without_taps_is_refused(path):
    def forget(model: onnx.ModelProto) -> None:
        del model.metadata_props[:]

    assert "no taps in it" in refusal(rewrite(path, forget))


def test_graph_by_another_hand_has_the_outputs_that_are_named_as_stages_for_taps(path):
    def by_another_hand(model: onnx.ModelProto) -> None:
        del model.metadata_props[:]
        model.producer_name = "somebody"

    found = load_artifact(rewrite(path, by_another_hand))
    assert {tap.name: tap.axes for tap in found.taps} == {
        "embed": ("token", "channel"),
        "blk.0.ffn_down": ("token", "channel"),
        "blk.1.ffn_down": ("token", "channel"),
        "logits": ("token", "vocab"),
    }


@pytest.mark.parametrize("table", ["[]", "{", "7", '{"logits": 7}', "null"])
def test_table_of_taps_that_is_no_table_is_refused(tmp_path, table):
    path = save_text(tmp_path / "a.onnx", ONE_TAP, {"logits": ("token",)}, facts={"taps": table})
    assert "taps" in refusal(path)


def test_tap_that_is_no_output_is_refused_by_name(path):
    def hide(model: onnx.ModelProto) -> None:
        del model.graph.output[1]

    assert "tap blk.0.ffn_down" in refusal(rewrite(path, hide))


@pytest.mark.parametrize("location", ["../secret", "sub/../../secret", "/etc/passwd", ""])
def test_external_data_outside_of_the_folder_is_refused(tmp_path, location):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(bytes(4096))
    path = save_decoder(tmp_path / "in" / "decoder.onnx")
    assert "outside of the folder" in refusal(point(path, "location", location))


def test_external_data_through_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    path = save_decoder(tmp_path / "in" / "decoder.onnx")
    (tmp_path / "in" / "weights.safetensors").rename(tmp_path / "secret")
    (tmp_path / "in" / "weights.safetensors").symlink_to(tmp_path / "secret")
    assert "outside of the folder" in refusal(path)


def test_folder_that_is_itself_a_link_is_read(tmp_path):
    (tmp_path / "in").mkdir()
    save_decoder(tmp_path / "in" / "decoder.onnx")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert load_artifact(tmp_path / "link" / "decoder.onnx").taps


def test_weights_that_are_cut_short_or_gone_are_refused(path):
    weights = path.with_name("weights.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert "weight w1: reaches outside of weights.safetensors" in refusal(path)
    weights.write_bytes(b"")
    assert "weights.safetensors cannot be read" in refusal(path)
    weights.unlink()
    assert "weights.safetensors is not there" in refusal(path)


@pytest.mark.parametrize("value", ["-1", "999999999999999999999", "x", ""])
@pytest.mark.parametrize("key", ["offset", "length"])
def test_offset_and_length_that_do_not_fit_are_refused(path, key, value):
    assert "weight table" in refusal(point(path, key, value))


def test_length_of_another_shape_is_refused(path):
    assert "weight table" in refusal(point(path, "length", "1"))


def test_weight_of_an_unknown_type_is_refused(path):
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].data_type = 99

    assert "unknown data type" in refusal(rewrite(path, change))


def test_graph_that_is_not_valid_is_not_written(tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (int64[T] tokens) => (int64[T] logits) { logits = Nonsense(tokens) }'
    )
    with pytest.raises(onnx.checker.ValidationError):
        save_artifact(model, tmp_path / "a.onnx", {"logits": ("token",)}, {})
    assert list(tmp_path.iterdir()) == []


def test_saved_graph_passes_the_checker_with_its_weights(path):
    onnx.checker.check_model(str(path), full_check=True)
    assert {tap.name for tap in load_artifact(path).taps} == set(DECODER_AXES)
