"""Cutting: the pieces together are the whole graph, equal pieces are one program, and a replay changes no bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx_text import DECODER, FLAT, artifact_regions, decoder_weights, save_decoder, save_text

from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.regions import cut
from opdiff.graphs.run import Runner, Settings, run_regions

TOKENS = np.array([1, 5, 3, 2])


def in_pieces(path: Path, level: str = "all", runner: Runner | None = None) -> dict[str, np.ndarray]:
    """Every tap, computed region by region from the tokens on."""
    runner = runner or Runner(Settings(optimisation=level))
    values = run_regions(artifact_regions(load_artifact(path)), {"tokens": TOKENS}, runner)
    del values["tokens"]
    return values


def at_once(path: Path, level: str = "all") -> dict[str, np.ndarray]:
    """Every tap, as onnxruntime gives it for the file as it is."""
    options = ort.SessionOptions()
    if level == "none":
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"tokens": TOKENS}), strict=True))


def assert_close(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert set(ours) == set(theirs)
    for tap, value in theirs.items():
        finite = np.isfinite(value)
        np.testing.assert_array_equal(np.isfinite(ours[tap]), finite, err_msg=tap)
        scale = float(np.abs(value[finite]).max(initial=0.0))
        np.testing.assert_allclose(ours[tap][finite], value[finite], atol=2e-5 * scale, rtol=0, err_msg=tap)


@pytest.mark.parametrize("level", ["none", "all"])
def test_pieces_of_a_text_graph_give_the_whole_bit_for_bit(level, tmp_path):
    path = save_decoder(tmp_path / "decoder.onnx")
    whole = at_once(path, level)
    for tap, value in in_pieces(path, level).items():
        assert value.tobytes() == whole[tap].tobytes(), tap


VARIANTS = ["dsl", "legacy", "legacy.converter=on", "reference", "reference.weights=q8_0"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_pieces_of_an_exported_graph_give_onnxruntimes_own_values_at_every_tap(variant, seed):
    assert_close(in_pieces(seed / f"{variant}.onnx"), at_once(seed / f"{variant}.onnx"))


@pytest.mark.parametrize("variant", ["reference", "hf"])
def test_pieces_of_a_decoder_with_gqa_give_onnxruntimes_own_values(variant, qwen3):
    assert_close(in_pieces(qwen3 / f"{variant}.onnx"), at_once(qwen3 / f"{variant}.onnx"))


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("variant", ["reference", "legacy.head_dim=metadata", "hf"])
def test_replay_on_its_own_values_is_exactly_zero_at_every_tap(variant, precision, qwen3):
    names = {path.stem: path for path in qwen3.glob("*.onnx")}
    path = names.get(variant) or names[variant.split(".")[0]]
    regions, runner = artifact_regions(load_artifact(path)), Runner()
    values = run_regions(regions, {"tokens": TOKENS}, runner, precision)
    for tap, region in regions.items():
        again = runner.run(region, [values[name] for name in region.inputs], precision)
        assert again.tobytes() == values[tap].tobytes(), tap


def test_blocks_of_one_computation_are_one_program(tmp_path):
    regions = artifact_regions(load_artifact(save_decoder(tmp_path / "decoder.onnx")))
    first, second = regions["blk.0.ffn_down"], regions["blk.1.ffn_down"]
    assert first.program.signature == second.program.signature
    assert (first.inputs, second.inputs) == (("embed",), ("blk.0.ffn_down",))
    assert (first.weight_names, second.weight_names) == (("w0",), ("w1",))
    assert not first.is_identical_to(second)


@pytest.mark.parametrize("variant", ["reference", "hf"])
def test_four_blocks_need_no_more_sessions_than_two(variant, qwen3):
    artifact, counts = load_artifact(qwen3 / f"{variant}.onnx"), []
    for first_blocks in (("0", "1"), ("0", "1", "2", "3")):
        runner, regions = Runner(), artifact_regions(artifact)
        values = run_regions(regions, {"tokens": TOKENS}, Runner())
        for tap, region in regions.items():
            if tap.split(".")[0] != "blk" or tap.split(".")[1] in first_blocks:
                runner.run(region, [values[name] for name in region.inputs])
        counts.append(runner.n_sessions)
    assert counts[0] == counts[1]


def test_region_is_identical_to_itself_in_another_file_of_the_same_weights(tmp_path):
    one, other = (artifact_regions(load_artifact(save_decoder(tmp_path / f"{n}.onnx"))) for n in "ab")
    assert all(one[tap].is_identical_to(other[tap]) for tap in one)


def test_region_with_other_weights_is_not_identical(tmp_path):
    (tmp_path / "b").mkdir()
    one = artifact_regions(load_artifact(save_decoder(tmp_path / "a.onnx")))
    other = artifact_regions(load_artifact(save_decoder(tmp_path / "b" / "b.onnx", seed=1)))
    assert not any(one[tap].is_identical_to(other[tap]) for tap in one)


def test_only_the_regions_that_are_asked_for_are_made(tmp_path):
    artifact = load_artifact(save_decoder(tmp_path / "decoder.onnx"))
    (region,) = cut(artifact, ["embed", "logits"], only=["logits"]).values()
    assert region.inputs == ("embed",)
    assert region.program.operators.count("MatMul") == 3


def test_tap_that_is_another_outputs_sibling_is_read_through_the_cut(tmp_path):
    text = """g (int64[T] tokens) => (float[T,2] left, float[T,2] right, float[T,2] logits) {
      embed = Gather(table, tokens)
      left, right = Split<axis = 1, num_outputs = 2>(embed)
      logits = Sub(left, right)
    }"""
    axes = {"left": FLAT, "right": FLAT, "logits": FLAT}
    path = save_text(tmp_path / "a.onnx", text, axes, {"table": decoder_weights()["table"]})
    regions = artifact_regions(load_artifact(path))
    assert set(regions["logits"].inputs) == {"left", "right"}
    assert regions["left"].inputs == regions["right"].inputs == ("tokens",)
    for tap, value in at_once(path).items():
        np.testing.assert_array_equal(in_pieces(path)[tap], value)


BRANCH = """g (int64[T] tokens) => (float[T,4] embed, float[T,4] logits)
{
  embed = Gather(table, tokens)
  n = Size(tokens)
  two = Constant<value_int = 2>()
  long = Greater(n, two)
  logits = If (long) <
    then_branch = big () => (float[T,4] y) { y = Mul(embed, table_row) },
    else_branch = small () => (float[T,4] z) { z = Neg(embed) }
  >
}
"""
NESTED = BRANCH.replace(
    "y = Mul(embed, table_row)",
    "y = If (long) < then_branch = a () => (float[T,4] p) { p = Mul(embed, table_row) }, "
    "else_branch = b () => (float[T,4] q) { q = Abs(embed) } >",
)
SHADOWED = BRANCH.replace("y = Mul(embed, table_row)", "i0 = Mul(embed, table_row) y = Neg(i0)")


@pytest.mark.parametrize(
    "text",
    [BRANCH, NESTED, SHADOWED],
    ids=["branch", "branch in a branch", "a name that the cut gives"],
)
def test_what_a_branch_reads_from_outside_is_read_through_the_cut(text, tmp_path):
    weights = {"table": decoder_weights()["table"], "table_row": np.arange(4, dtype=np.float32)}
    path = save_text(tmp_path / "a.onnx", text, {"embed": FLAT, "logits": FLAT}, weights)
    assert "embed" in artifact_regions(load_artifact(path))["logits"].inputs
    for tap, value in at_once(path).items():
        np.testing.assert_array_equal(in_pieces(path)[tap], value)


def test_graph_order_of_the_regions_is_one_in_which_they_can_run(tmp_path):
    path = save_decoder(tmp_path / "decoder.onnx", text=DECODER)
    seen = {"tokens"}
    for tap, region in artifact_regions(load_artifact(path)).items():
        assert set(region.inputs) <= seen
        seen.add(tap)
