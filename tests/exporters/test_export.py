"""The export: whole files or none, one weight file, taps that stay what they were, and a user's module in his own words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from corpus.models import tiny_model, write_gguf
from onnx_text import artifact_regions
from torch import nn

import opdiff
from opdiff.exporters.bound import BoundCheckpoint
from opdiff.exporters.checkpoints import Checkpoint, open_checkpoint
from opdiff.exporters.export import WEIGHT_FILE, export, shared_weights
from opdiff.exporters.tapping import collected
from opdiff.exporters.to_onnx import INLINE_BYTES
from opdiff.exporters.variants import reference
from opdiff.exporters.variants.registry import VariantRequest, parse_variant
from opdiff.graphs.artifact import Artifact, load_artifact
from opdiff.graphs.errors import InputError
from opdiff.graphs.run import Runner, run_regions
from opdiff.graphs.weights import SharedWeights

TOKENS = np.array([1, 5, 3])


@pytest.fixture
def checkpoint(tmp_path) -> Checkpoint:
    return open_checkpoint("seed", tmp_path)


class Small(nn.Module):
    """An embedding and a head, whose forward a test gives."""

    def __init__(self, checkpoint: BoundCheckpoint, body) -> None:
        super().__init__()
        self.embedding = nn.Parameter(checkpoint["token_embd.weight"], requires_grad=False)
        self.head = nn.Parameter(checkpoint["output.weight"], requires_grad=False)
        self.body = body

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = opdiff.tap("embed", self.embedding[tokens], axes="token channel")
        return opdiff.tap("logits", self.body(self, x) @ self.head.T, axes="token vocab")


def small(body, name: str = "small", change=lambda module: None) -> VariantRequest:
    """A variant with this body between the embedding and the head."""

    def build(checkpoint: BoundCheckpoint) -> nn.Module:
        module = Small(checkpoint, body)
        change(module)
        return module

    return VariantRequest(name, build, {})


def exported(checkpoint: Checkpoint, folder: Path, body, **others) -> Artifact:
    return load_artifact(export(checkpoint, [small(body, **others)], folder)[0])


def values(artifact: Artifact) -> dict[str, np.ndarray]:
    return run_regions(artifact_regions(artifact), {"tokens": TOKENS}, Runner())


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_two_stages_that_are_one_tensor_stay_two_taps_that_can_be_cut(checkpoint, tmp_path):
    def body(module, x):
        x = opdiff.tap("blk.0.attn_norm", x, axes="token channel")
        return opdiff.tap("blk.0.q_proj", x, axes="token channel")

    artifact = exported(checkpoint, tmp_path, body)
    regions, found = artifact_regions(artifact), values(artifact)
    assert regions["blk.0.q_proj"].inputs == ("blk.0.attn_norm",)
    assert regions["logits"].inputs == ("blk.0.q_proj",)
    np.testing.assert_array_equal(found["embed"], found["blk.0.q_proj"])


def test_tap_inside_of_what_an_exporter_would_fuse_or_fold_stays_a_tap(checkpoint, tmp_path):
    def body(module, x):
        turned = opdiff.tap("blk.0.q_proj", x.T, axes="channel token")
        again = opdiff.tap("blk.0.q_norm", turned.T, axes="token channel")
        return opdiff.tap("blk.0.q_rope", again + 0, axes="token channel") * 1

    artifact = exported(checkpoint, tmp_path, body)
    regions = artifact_regions(artifact)
    assert regions["blk.0.q_norm"].inputs == ("blk.0.q_proj",)
    assert regions["blk.0.q_rope"].inputs == ("blk.0.q_norm",)
    found = values(artifact)
    np.testing.assert_array_equal(found["blk.0.q_proj"].T, found["embed"])


def test_graph_holds_what_a_reader_needs(seed):
    artifact = load_artifact(seed / "legacy.converter=on.onnx")
    assert artifact.runtime == "legacy:converter=on"
    assert json.loads(artifact.facts["config"])["head_dim"] == 16
    assert artifact.facts["checkpoint"] == open_checkpoint(str(seed / "seed.gguf")).sha256
    assert artifact.tap("blk.0.attn_scores").axes == ("head", "token", "key")
    assert {tap.name for tap in artifact.taps} >= {"embed", "blk.0.q_rope", "logits"}


def test_logits_are_the_first_output(seed):
    for path in seed.glob("*.onnx"):
        assert onnx.load(path, load_external_data=False).graph.output[0].name == "logits"


@pytest.mark.parametrize("length", [1, 2, 7, 16])
def test_graph_runs_at_any_length(length, seed):
    session = ort.InferenceSession(str(seed / "dsl.onnx"))
    assert session.run(["logits"], {"tokens": np.arange(length)})[0].shape == (length, 64)


def test_every_tap_of_ours_has_the_line_of_its_variants_file(seed):
    for name in ("dsl", "legacy", "reference"):
        artifact = load_artifact(seed / f"{name}.onnx")
        for tap in artifact.taps:
            file, line = tap.node.source.rsplit(":", 1)
            assert name in (Path(file).stem, Path(file).parent.name), tap
            assert int(line) <= len(Path(file).read_text().splitlines())


def test_source_line_is_the_one_that_computes(checkpoint, tmp_path):
    def body(module, x):
        return opdiff.tap("blk.0.attn_norm", torch.sin(x) / 3, axes="token channel")  # this line

    wanted = next(
        n for n, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.endswith("# this line")
    )
    assert exported(checkpoint, tmp_path, body).tap("blk.0.attn_norm").node.source == f"{__file__}:{wanted}"


def test_weights_of_the_checkpoint_are_read_from_the_shared_file_and_stand_once(checkpoint, tmp_path):
    def twice(module):
        module.again = nn.Parameter(module.head.data, requires_grad=False)

    artifact = exported(checkpoint, tmp_path, lambda module, x: x @ module.again.T @ module.head, change=twice)
    assert set(artifact.weights) == {"token_embd.weight", "output.weight"}
    assert left_in(tmp_path) == {"seed.gguf", "small.onnx", WEIGHT_FILE}


def test_weights_of_a_module_that_the_checkpoint_has_not_go_to_a_file_of_its_own(checkpoint, tmp_path):
    large = torch.randn(32, INLINE_BYTES // 128 + 32)

    def change(module):
        module.register_buffer("large", large)
        module.register_buffer("little", torch.full((32,), 0.5))

    artifact = exported(
        checkpoint, tmp_path, lambda module, x: (x @ module.large @ module.large.T) * module.little, change=change
    )
    np.testing.assert_array_equal(artifact.weights["variant.large"].array, large.numpy())
    assert any(re.fullmatch(r"small\.[0-9a-f]{16}\.weights\.safetensors", name) for name in left_in(tmp_path))
    assert not any("little" in name for name in artifact.weights)
    expected = (values(artifact)["embed"] @ large.numpy() @ large.numpy().T * 0.5) @ artifact.weights[
        "output.weight"
    ].array.T
    np.testing.assert_allclose(values(artifact)["logits"], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_folder_whose_graphs_read_the_weights_as_they_are_takes_no_others(checkpoint, tmp_path):
    """dsl first, reference:weights=q8_0 later: the first graph's weights would lie elsewhere in the file."""
    artifact = exported(checkpoint, tmp_path, lambda module, x: x)
    before = {name: weight.array.copy() for name, weight in artifact.weights.items()}
    with pytest.raises(InputError, match="export all variants together"):
        shared_weights(checkpoint, tmp_path / WEIGHT_FILE, with_q8_0=True)
    after = load_artifact(artifact.path).weights
    for name, array in before.items():
        np.testing.assert_array_equal(after[name].array, array, err_msg=name)


def test_tied_head_in_q8_0_is_a_tap_of_its_own_beside_the_embedding(tmp_path):
    model = tiny_model("qwen3_in_32s")
    model.lm_head = nn.Identity()  # a file without output.weight
    path = write_gguf(model, tmp_path / "model.gguf")
    checkpoint = open_checkpoint(str(path))
    assert checkpoint.config.tied_head
    (graph,) = export(checkpoint, [parse_variant("reference:weights=q8_0")], tmp_path / "out", length=len(TOKENS))
    values = run_regions(artifact_regions(load_artifact(graph)), {"tokens": TOKENS}, Runner())
    integers, scales = checkpoint.q8_0("token_embd.weight")
    expected = integers.astype(np.float32) * np.repeat(scales, 32, axis=1)
    np.testing.assert_array_equal(values["output.weight"], expected)
    np.testing.assert_array_equal(values["embed"], checkpoint.tensor("token_embd.weight")[TOKENS])


def test_weight_file_is_not_written_again_where_it_holds_all_that_is_wanted(checkpoint, tmp_path):
    path = tmp_path / WEIGHT_FILE
    shared_weights(checkpoint, path, with_q8_0=True)
    first = path.stat().st_mtime_ns, path.stat().st_ino
    shared_weights(checkpoint, path, with_q8_0=False)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == first


def test_weight_file_that_is_damaged_is_written_anew(checkpoint, tmp_path):
    path = tmp_path / WEIGHT_FILE
    path.write_bytes(b"damaged")
    shared_weights(checkpoint, path, with_q8_0=False)
    np.testing.assert_array_equal(SharedWeights(path)["output.weight"], checkpoint.tensor("output.weight"))


def test_graph_whose_weights_were_written_anew_in_another_order_is_refused(checkpoint, tmp_path):
    (path,) = export(checkpoint, [small(lambda module, x: x)], tmp_path, link=False)
    load_artifact(path)
    (tmp_path / WEIGHT_FILE).write_bytes(b"damaged")
    shared_weights(checkpoint, tmp_path / WEIGHT_FILE, with_q8_0=True, link=False)
    with pytest.raises(InputError, match=r"small\.onnx: its weight file weights\.safetensors was written anew since"):
        load_artifact(path)


def test_graph_beside_the_weights_of_another_checkpoint_is_refused(checkpoint, tmp_path):
    (path,) = export(checkpoint, [small(lambda module, x: x)], tmp_path, link=False)
    (tmp_path / WEIGHT_FILE).unlink()
    other = tmp_path / "other.gguf"
    other.write_bytes(checkpoint.path.read_bytes().replace(b"opdiff seed", b"opdiff need"))
    shared_weights(open_checkpoint(str(other)), tmp_path / WEIGHT_FILE, with_q8_0=False, link=False)
    with pytest.raises(InputError, match="for another checkpoint"):
        load_artifact(path)


def test_folder_of_another_checkpoint_is_refused_and_left_as_it_is(checkpoint, tmp_path):
    path = tmp_path / WEIGHT_FILE
    export(checkpoint, [small(lambda module, x: x)], tmp_path)
    before = path.read_bytes()
    other = tmp_path / "other.gguf"
    other.write_bytes(checkpoint.path.read_bytes().replace(b"opdiff seed", b"opdiff need"))
    with pytest.raises(InputError, match="another checkpoint"):
        shared_weights(open_checkpoint(str(other)), path, with_q8_0=False)
    assert path.read_bytes() == before


def test_weights_that_no_graph_reads_are_no_hindrance(checkpoint, tmp_path):
    shared_weights(checkpoint, tmp_path / WEIGHT_FILE, with_q8_0=False)
    other = tmp_path / "other.gguf"
    other.write_bytes(checkpoint.path.read_bytes().replace(b"opdiff seed", b"opdiff need"))
    (path,) = export(open_checkpoint(str(other)), [small(lambda module, x: x)], tmp_path)
    assert load_artifact(path)


def tapped_twice(module, x):
    return opdiff.tap("embed", x, axes="token channel")


def tapped_with_other_axes(module, x):
    return opdiff.tap("blk.0.attn_norm", x, axes="token")


def tapped_like_the_input(module, x):
    return opdiff.tap("tokens", x, axes="token channel")


def tapped_like_a_tensor(module, x):
    return opdiff.tap("output.weight", x, axes="token channel")


def decided_by_a_value(module, x):
    return x if x.sum() > 0 else -x


def wrong_shape(module, x):
    return x @ torch.ones(7)


def missing_attribute(module, x):
    return module.no_such_thing(x)


def missing_key(module, x):
    return {}["no such key"]


def failed_assertion(module, x):
    raise AssertionError("shapes\nof two lines")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (tapped_twice, "tap embed: marked twice"),
        (tapped_with_other_axes, "tap blk.0.attn_norm: 1 axes"),
        (tapped_like_the_input, "tap tokens: an input of the graph has this name"),
        (tapped_like_a_tensor, "tap output.weight: a tensor of the checkpoint has this name"),
        (decided_by_a_value, "cannot be exported"),
        (wrong_shape, "cannot be exported"),
        (missing_attribute, "no_such_thing"),
        (missing_key, "no such key"),
        (failed_assertion, "shapes"),
    ],
)
def test_module_that_cannot_be_exported_is_refused_in_one_line_and_leaves_no_graph(body, words, checkpoint, tmp_path):
    with pytest.raises(InputError) as caught:
        exported(checkpoint, tmp_path, body)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path) == {"seed.gguf", WEIGHT_FILE}


def test_failed_export_leaves_the_graph_of_the_last_one(checkpoint, tmp_path):
    before = exported(checkpoint, tmp_path, lambda module, x: x).path.read_bytes()
    with pytest.raises(InputError):
        exported(checkpoint, tmp_path, wrong_shape)
    assert (tmp_path / "small.onnx").read_bytes() == before


def test_one_variant_twice_is_refused_before_anything_is_written(checkpoint, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="two variants are called dsl"):
        export(checkpoint, [parse_variant("dsl"), parse_variant("dsl")], out)
    assert not out.exists()


def test_tap_outside_of_an_export_is_the_value_itself():
    value = torch.ones(2)
    assert opdiff.tap("embed", value, axes="any words at all") is value


def test_taps_are_collected_in_order_and_only_inside(tmp_path):
    with collected() as taps:
        opdiff.tap("b", torch.ones(2, 3), axes="token channel")
        opdiff.tap("a", torch.ones(2), axes="token")
    opdiff.tap("c", torch.ones(2), axes="token")
    assert {name: tap.axes for name, tap in taps.items()} == {"b": ("token", "channel"), "a": ("token",)}
    assert list(taps) == ["b", "a"]


def test_blocks_made_from_two_are_those_of_a_whole_export(tmp_path):
    """A builder that the registry does not know is exported block by block; `reference` from two."""
    model = str(write_gguf(tiny_model("qwen3", n_blocks=3), tmp_path / "model.gguf"))
    whole = VariantRequest("whole", lambda checkpoint: reference.reference(checkpoint), {})
    variants = [parse_variant("reference"), whole]
    paths = export(open_checkpoint(model), variants, tmp_path, length=len(TOKENS))
    made, all_of_it = map(load_artifact, paths)
    assert [tap.name for tap in made.taps] == [tap.name for tap in all_of_it.taps]
    assert {tap.name: tap.axes for tap in made.taps} == {tap.name: tap.axes for tap in all_of_it.taps}
    ours, theirs = artifact_regions(made), artifact_regions(all_of_it)
    for tap in ours:
        assert ours[tap].inputs == theirs[tap].inputs, tap
        assert ours[tap].weight_names == theirs[tap].weight_names, tap
    left, right = values(made), values(all_of_it)
    for tap in ours:
        np.testing.assert_allclose(left[tap], right[tap], rtol=1e-5, atol=1e-5, err_msg=tap)
