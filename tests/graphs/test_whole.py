"""What onnxruntime makes of a whole graph: where it may be other than what it makes of the regions, it is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx_text import FLAT, HEADER, save_decoder, save_text

from opdiff.graphs import whole
from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.inputs import graph_inputs
from opdiff.graphs.regions import cut
from opdiff.graphs.run import Runner, Settings, run_regions
from opdiff.graphs.whole import is_changed_when_whole, run_whole

TOKENS = (1, 5, 3)
ROUNDING = 1e-4  # float32's over some blocks; half precision's is 2e-4 in each


def model_of(body: str, functions: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(f"{HEADER} g (float[T,4] x) => (float[T,4] y) {{ {body} }} {functions}")


def plainly(path: Path, taps: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The taps, as onnxruntime gives them for the file."""
    session = ort.InferenceSession(path)
    feeds = {info.name: np.array(TOKENS) for info in session.get_inputs()}
    return dict(zip(taps, session.run(list(taps), feeds), strict=True))


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    seen = np.isfinite(theirs) & (np.abs(theirs) < 1e30)
    assert np.array_equal(np.isfinite(ours), np.isfinite(theirs))
    return float(np.linalg.norm((ours - theirs)[seen]) / np.linalg.norm(theirs[seen]))


@pytest.mark.parametrize(
    "folder, name",
    [
        *(("seed", name) for name in ("dsl", "legacy", "reference", "reference.weights=q8_0")),
        *(("qwen3", name) for name in ("hf", "legacy", "reference")),
    ],
)
def test_where_the_whole_is_not_asked_the_regions_give_the_same(folder, name, request):
    path = request.getfixturevalue(folder) / f"{name}.onnx"
    artifact = load_artifact(path)
    assert not is_changed_when_whole(artifact.model)
    regions = cut(artifact, artifact.tap_names)
    ours, theirs = run_regions(regions, graph_inputs(artifact, TOKENS), Runner()), plainly(path, artifact.tap_names)
    far = {tap: apart(ours[tap], theirs[tap]) for tap in regions}
    assert max(far.values()) < ROUNDING, max(far, key=far.__getitem__)


@pytest.mark.parametrize("inside_below", [1 << 28, 0])
def test_a_whole_run_is_onnxruntimes_own(tmp_path, monkeypatch, inside_below):
    monkeypatch.setattr(whole, "_INSIDE_BELOW", inside_below)
    path = save_decoder(tmp_path / "decoder.onnx")
    artifact = load_artifact(path)
    ours = run_whole(artifact, graph_inputs(artifact, TOKENS), artifact.tap_names, Settings())
    for tap, value in plainly(path, artifact.tap_names).items():
        assert apart(ours[tap], value) < (1e-6 if inside_below == 0 else 1e-12)


@pytest.mark.parametrize(
    "body, may_change",
    [
        ("y = Add(x, x)", False),
        ("h = Cast<to = 10>(x) y = Cast<to = 1>(h)", True),
        ("h = Cast<to = 16>(x) s = Add(h, h) y = Cast<to = 1>(s)", True),
        ("c = Constant<value = float16[4] {1, 2, 3, 4}>() w = Cast<to = 1>(c) y = Add(x, w)", False),
        ("s = Constant<value = float {0.5}>() q = QuantizeLinear(x, s) y = DequantizeLinear(q, s)", True),
    ],
)
def test_which_graphs_may_be_changed(body, may_change):
    assert is_changed_when_whole(model_of(body)) is may_change


def test_a_tap_in_float16_comes_as_float32(tmp_path):
    text = """
    g (int64[T] tokens) => (float16[T,2] embed, float[T,2] logits)
    { rows = Gather(table, tokens) embed = Cast<to = 10>(rows) logits = Cast<to = 1>(embed) }
    """
    weights = {"table": np.arange(12, dtype=np.float32).reshape(6, 2) / 3}
    artifact = load_artifact(save_text(tmp_path / "g.onnx", text, {"embed": FLAT, "logits": FLAT}, weights))
    values = run_whole(artifact, graph_inputs(artifact, TOKENS), artifact.tap_names, Settings())
    assert values["embed"].dtype == np.float32
    assert np.array_equal(values["embed"], weights["table"][list(TOKENS)].astype(np.float16))
