"""The checkpoint as the weight file: nothing is copied, its bytes are never changed, and what cannot be linked is copied."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import safetensors.torch
import torch
from corpus.models import TOKENS, loadable_gguf, tiny_model, write_gguf
from corpus.vocabulary import N_TOKENS
from onnx_text import artifact_regions

from opdiff.compare.diagnose import compare
from opdiff.exporters.checkpoints import Checkpoint, open_checkpoint
from opdiff.exporters.export import WEIGHT_FILE, export, shared_weights
from opdiff.exporters.variants.registry import VariantRequest, parse_variant
from opdiff.graphs.artifact import Artifact, load_artifact
from opdiff.graphs.errors import InputError
from opdiff.graphs.run import Runner, run_regions
from opdiff.graphs.weights import LINKED, SharedWeights, write_safetensors

DSL, REFERENCE = parse_variant("dsl"), parse_variant("reference")


@pytest.fixture(params=["F32", "F16", "BF16"])
def gguf(request, tmp_path) -> Path:
    return write_gguf(tiny_model("qwen3", n_blocks=1), tmp_path / "model.gguf", request.param)


@pytest.fixture(
    params=[("qwen3", torch.bfloat16, "1GB"), ("llama", torch.float32, "1GB"), ("qwen2", torch.float16, "60KB")]
)
def hf_folder(request, tmp_path) -> Path:
    kind, dtype, shard = request.param
    tiny_model(kind, n_blocks=1).to(dtype).save_pretrained(tmp_path / "hf", max_shard_size=shard)
    return tmp_path / "hf"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def logits(artifact: Artifact) -> np.ndarray:
    return run_regions(artifact_regions(artifact), {"tokens": np.array(TOKENS)}, Runner())["logits"]


def exported(checkpoint: Checkpoint, variant: VariantRequest, out: Path, link: bool = True) -> Path:
    (path,) = export(checkpoint, [variant], out, link=link, length=len(TOKENS))
    return path


def written(folder: Path) -> int:
    """The bytes of the weights that have no other name."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors") if file.stat().st_nlink == 1)


def test_gguf_is_linked_and_no_weight_is_written(gguf, tmp_path):
    before = sha256(gguf)
    path = exported(open_checkpoint(str(gguf)), DSL, tmp_path / "out")
    assert {file.name for file in path.parent.iterdir()} == {"dsl.onnx", "model.gguf", WEIGHT_FILE}
    assert (path.parent / "model.gguf").stat().st_ino == gguf.stat().st_ino
    artifact = load_artifact(path)
    assert {Path(weight.identity[0]).name for weight in artifact.weights.values()} == {"model.gguf"}
    assert list(SharedWeights(path.parent / WEIGHT_FILE)) == list(open_checkpoint(str(gguf)).names)
    assert len(json.dumps(SharedWeights(path.parent / WEIGHT_FILE).metadata)) + 4096 > written(path.parent)
    copied = exported(open_checkpoint(str(gguf)), DSL, tmp_path / "copied", link=False)
    np.testing.assert_array_equal(logits(artifact), logits(load_artifact(copied)))
    session = ort.InferenceSession(str(path))
    found = session.run(["logits"], {"tokens": np.array(TOKENS)})[0]
    np.testing.assert_allclose(found, logits(artifact), rtol=1e-3, atol=1e-3)
    assert sha256(gguf) == before


def test_exporting_again_over_the_link_leaves_the_checkpoint_as_it_is(tmp_path):
    gguf, out = write_gguf(tiny_model("qwen3", n_blocks=1), tmp_path / "model.gguf", "BF16"), tmp_path / "out"
    before = sha256(gguf), gguf.stat().st_mtime_ns
    export(open_checkpoint(str(gguf)), [DSL, REFERENCE], out)
    (out / WEIGHT_FILE).write_bytes(b"damaged")
    exported(open_checkpoint(str(gguf)), DSL, out)
    compare(out / "dsl.onnx", out / "reference.onnx", TOKENS)
    weights = SharedWeights(out / WEIGHT_FILE)
    weights["blk.0.attn_q.weight"][:] = 7  # a copy of the page
    assert (sha256(gguf), gguf.stat().st_mtime_ns) == before
    assert (out / "model.gguf").stat().st_ino == gguf.stat().st_ino


def test_folder_of_hf_is_linked_but_for_rows_in_another_order(hf_folder, tmp_path):
    checkpoint = open_checkpoint(str(hf_folder))
    before = {file.name: sha256(file) for file in hf_folder.glob("*.safetensors")}
    path = exported(checkpoint, REFERENCE, tmp_path / "out")
    for name in before:
        assert (path.parent / name).stat().st_ino == (hf_folder / name).stat().st_ino
    own = SharedWeights(path.parent / WEIGHT_FILE)
    permuted = {n for n in own if own.file_of(n).name == WEIGHT_FILE}
    llama = checkpoint.config.architecture == "llama"
    assert permuted == ({n for n in own if ".attn_q." in n or ".attn_k." in n} if llama else set())
    for name in checkpoint.names:
        np.testing.assert_array_equal(own[name], checkpoint.stored(name), err_msg=name)
    copied = exported(checkpoint, REFERENCE, tmp_path / "copied", link=False)
    np.testing.assert_array_equal(logits(load_artifact(path)), logits(load_artifact(copied)))
    assert {file.name: sha256(file) for file in hf_folder.glob("*.safetensors")} == before


def test_only_what_is_quantised_anew_is_written_beside_the_link(tmp_path):
    checkpoint = open_checkpoint("seed", tmp_path)
    weights = shared_weights(checkpoint, tmp_path / WEIGHT_FILE, with_q8_0=True)
    beside = {name for name in weights if weights.file_of(name).name == WEIGHT_FILE}
    assert beside == set(weights) - set(checkpoint.names)
    assert "blk.0.attn_q.weight.q8_0.quants" in beside
    shared_weights(checkpoint, tmp_path / WEIGHT_FILE, with_q8_0=False)
    with pytest.raises(InputError, match="choose another --out folder"):
        (tmp_path / "dsl.onnx").touch()
        shared_weights(checkpoint, tmp_path / WEIGHT_FILE, with_q8_0=True, link=False)


def test_file_that_is_mostly_quantised_is_not_linked(tmp_path):
    model = loadable_gguf(tiny_model("llama", 1, N_TOKENS), tmp_path / "model.gguf", "Q8_0")
    (tmp_path / "out").mkdir()
    weights = shared_weights(open_checkpoint(str(model)), tmp_path / "out" / WEIGHT_FILE, with_q8_0=False)
    assert not weights.linked
    assert [file.name for file in (tmp_path / "out").iterdir()] == [WEIGHT_FILE]


def taken(checkpoint: Checkpoint, out: Path, monkeypatch) -> None:
    (out / "model.gguf").write_bytes(b"something else of the user's")


def other_file_system(checkpoint: Checkpoint, out: Path, monkeypatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)


@pytest.mark.parametrize("obstacle", [taken, other_file_system])
def test_what_cannot_be_linked_is_copied_and_said(obstacle, tmp_path, monkeypatch):
    checkpoint = open_checkpoint(str(write_gguf(tiny_model("qwen3", n_blocks=1), tmp_path / "model.gguf", "BF16")))
    out, notes = tmp_path / "out", []
    out.mkdir()
    obstacle(checkpoint, out, monkeypatch)
    others = {file.name: file.read_bytes() for file in out.iterdir()}
    weights = shared_weights(checkpoint, out / WEIGHT_FILE, False, notes.append)
    assert not weights.linked
    (note,) = notes
    assert "model.gguf" in note
    assert "copied" in note
    for name in checkpoint.names:
        assert weights[name].tobytes() == checkpoint.stored(name).tobytes(), name
    assert {name: (out / name).read_bytes() for name in others} == others


def test_checkpoint_in_the_folder_itself_is_read_there(gguf):
    weights = shared_weights(open_checkpoint(str(gguf)), gguf.parent / WEIGHT_FILE, with_q8_0=False)
    assert {weights.file_of(name) for name in weights} == {gguf}
    assert gguf.stat().st_nlink == 1


def test_tensors_at_odd_offsets_are_copied(tmp_path):
    """A safetensors file whose header ends at an odd byte."""
    tiny_model("qwen3", n_blocks=1).save_pretrained(tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    file.write_bytes((length + 1).to_bytes(8, "little") + content[8 : 8 + length] + b" " + content[8 + length :])
    assert safetensors.torch.load_file(file)
    checkpoint = open_checkpoint(str(tmp_path / "hf"))
    (tmp_path / "out").mkdir()
    weights = shared_weights(checkpoint, tmp_path / "out" / WEIGHT_FILE, with_q8_0=False)
    assert not weights.linked
    np.testing.assert_array_equal(weights["output_norm.weight"], checkpoint.stored("output_norm.weight"))


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "listed",
    [
        "[",
        "7",
        '{"a.bin": 7}',
        json.dumps({"a.bin": {"w": 7}}),
        json.dumps({"a.bin": {"w": {**ENTRY, "data_offsets": [0, 8]}}}),
        json.dumps({"a.bin": {"w": {**ENTRY, "data_offsets": [4, 8]}}}),
        json.dumps({"a.bin": {"w": {**ENTRY, "data_offsets": [-4, 0]}}}),
        json.dumps({"missing.bin": {"w": ENTRY}}),
        json.dumps({"../outside.bin": {"w": ENTRY}}),
        json.dumps({"link.bin": {"w": ENTRY}}),
        json.dumps({"": {"w": ENTRY}}),
        json.dumps({"a\0": {"w": ENTRY}}),
    ],
)
def test_list_of_linked_tensors_that_does_not_fit_is_refused(listed, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.bin").write_bytes(bytes(4))
    (tmp_path / "outside.bin").write_bytes(bytes(4))
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    write_safetensors(folder / WEIGHT_FILE, [], {LINKED: json.dumps({"a.bin": {"w": ENTRY}})})
    assert SharedWeights(folder / WEIGHT_FILE)["w"].tolist() == [0.0]
    write_safetensors(folder / WEIGHT_FILE, [], {LINKED: listed})
    with pytest.raises(InputError) as caught:
        SharedWeights(folder / WEIGHT_FILE)
    assert "\n" not in str(caught.value)
