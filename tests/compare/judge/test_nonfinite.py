"""NaN and Inf are followed to the region and node that makes them, and what is printed is what onnxruntime gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx_text import FLAT, save_text

from opdiff.compare.diagnose import compare
from opdiff.compare.report.sentences import effect_text
from opdiff.compare.result import Result

TOKENS = (1, 0, 2, 3)
AXES = {
    "embed": FLAT,
    "blk.0.ffn_down": FLAT,
    "blk.0.ffn_residual": FLAT,
    "final_norm": FLAT,
    "logits": ("token", "vocab"),
}
# A block that adds 300 times what it reads, and a norm.
RESIDUAL = """
decoder (int64[T] tokens) => (float[T,4] embed, float[T,4] "blk.0.ffn_down", float[T,4] "blk.0.ffn_residual", float[T,4] final_norm, float[T,6] logits)
{
  embed = Gather(table, tokens)
  loud = Constant<value = float {300.0}>()
  "blk.0.ffn_down" = Mul(embed, loud)
  RESIDUAL
  square = Mul("blk.0.ffn_residual", "blk.0.ffn_residual")
  axes = Constant<value = int64[1] {-1}>()
  mean = ReduceMean(square, axes)
  root = Sqrt(mean)
  final_norm = Div("blk.0.ffn_residual", root)
  logits = MatMul(final_norm, head)
}
"""
SINGLE = '"blk.0.ffn_residual" = Add(embed, "blk.0.ffn_down")'
HALF = """
  x = Cast<to = KIND>(embed)
  y = Cast<to = KIND>("blk.0.ffn_down")
  sum = Add(x, y)
  "blk.0.ffn_residual" = Cast<to = 1>(sum)
"""
FLOAT16, BFLOAT16 = HALF.replace("KIND", "10"), HALF.replace("KIND", "16")


def residual(folder: Path, name: str, how: str, loudest: float = 218.0) -> Path:
    """The decoder with its residual made so. At token 2 (the third of the input), channel 1, it is 301 times `loudest`."""
    random = np.random.default_rng(0)
    table, head = (random.standard_normal(shape).astype(np.float32) for shape in ((6, 4), (4, 6)))
    table[2, 1] = loudest
    return save_text(folder / f"{name}.onnx", RESIDUAL.replace("RESIDUAL", how), AXES, {"table": table, "head": head})


@pytest.fixture(scope="module", params=[SINGLE, BFLOAT16], ids=["float32", "bfloat16"])
def overflow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A residual in a type that holds it, against one in float16, which does not; 300 times the loudest still does."""
    folder = tmp_path_factory.mktemp("overflow")
    good, bad = residual(folder, "good", request.param), residual(folder, "bad", FLOAT16)
    return bad, compare(good, bad, TOKENS)


def test_the_region_that_overflows_is_the_first_accused(overflow):
    _, result = overflow
    assert (result.first_divergence, len(result.divergences)) == ("blk.0.ffn_residual", 1)
    assert result.root_causes[0].taps == ("blk.0.ffn_residual",)


def test_it_is_told_with_token_channel_magnitude_and_node(overflow):
    _, result = overflow
    (one,) = result.nonfinite
    assert (one.side, one.tap, one.kind, one.n, one.element_type) == ("bad", "blk.0.ffn_residual", "Inf", 1, "float16")
    assert one.position == (("token", 2), ("channel", 1))
    assert one.node is not None
    assert one.node.op_type == "Add"
    assert one.exact == 218 + np.float16(300 * 218)
    assert one.largest_input == 300 * 218
    start = "bad: the residual passes 65504 in float16 at token 2, channel 1 (65626 in double precision), at node Add"
    assert any(note.startswith(start) for note in result.notes)


def test_its_effect_is_that_the_logits_become_finite(overflow):
    _, result = overflow
    effect = result.root_causes[0].effect
    assert effect is not None
    assert (effect.changes_logits, effect.finite, effect.alone[2]) == (True, "made", None)
    assert effect_text(effect) == "mended alone: mending it makes the logits finite"
    assert result.closed.complete


def test_the_logits_shown_are_those_of_onnxruntime_for_the_file(overflow):
    path, result = overflow
    (logits,) = ort.InferenceSession(path).run(["logits"], {"tokens": np.array(TOKENS)})
    assert [position.b_first for position in result.positions] == logits[:, 0].tolist()
    assert [position.b_top[0][1] for position in result.positions] == logits.max(axis=1).tolist()


def test_where_the_whole_graph_gives_something_else_it_is_said(overflow):
    _, result = overflow
    (note,) = [note for note in result.notes if note.startswith("bad: onnxruntime, running the graph as a whole")]
    assert "at blk.0.ffn_residual its values go up to 65618, where that region by itself makes inf" in note


def test_a_graph_that_onnxruntime_cannot_run_whole_is_run_by_region_and_it_is_said(tmp_path):
    good, brain = residual(tmp_path, "good", SINGLE), residual(tmp_path, "brain", BFLOAT16)
    result = compare(good, brain, TOKENS)
    assert any(note.startswith("brain: onnxruntime cannot run the graph as it is (") for note in result.notes)
    assert [d.tap for d in result.divergences] == ["blk.0.ffn_residual"]
    assert result.nonfinite == ()


def test_the_same_overflow_on_both_sides_is_no_difference(tmp_path):
    first, second = residual(tmp_path, "first", FLOAT16), residual(tmp_path, "second", FLOAT16)
    result = compare(first, second, TOKENS)
    assert result.parity
    assert [one.side for one in result.nonfinite] == ["first", "second"]


def test_a_residual_that_float16_holds_is_told_by_its_rounding(tmp_path):
    result = compare(residual(tmp_path, "a", SINGLE, 2.0), residual(tmp_path, "b", FLOAT16, 2.0), TOKENS)
    assert result.nonfinite == ()
    assert result.first_divergence == "blk.0.ffn_residual"
    effect = result.root_causes[0].effect
    assert effect is not None
    assert (effect.finite, effect.changes_logits) == ("kept", True)


ATTENTION = """
decoder (int64[3] tokens) => (float[3,3] "blk.0.attn_scores", float[3,3] "blk.0.attn_probs", float[3,4] logits)
{
  embed = Gather(table, tokens)
  turned = Transpose<perm = [1, 0]>(embed)
  raw = MatMul(embed, turned)
  scale = Constant<value = float {SCALE}>()
  scaled = Mul(raw, scale)
  "blk.0.attn_scores" = Add(scaled, mask)
  "blk.0.attn_probs" = Softmax("blk.0.attn_scores")
  logits = MatMul("blk.0.attn_probs", embed)
}
"""
SCORES = ("token", "key")
CAUSAL = np.triu(np.full((3, 3), -np.inf, np.float32), 1)


def attention(folder: Path, name: str, scale: str = "0.5", mask: np.ndarray = CAUSAL) -> Path:
    """One head over three tokens, with the mask added."""
    table = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    axes = {"blk.0.attn_scores": SCORES, "blk.0.attn_probs": SCORES, "logits": ("token", "vocab")}
    (folder / name).mkdir()
    text = ATTENTION.replace("SCALE", scale)
    return save_text(folder / name / f"{name}.onnx", text, axes, {"table": table, "mask": mask.astype(np.float32)})


def test_a_mask_is_no_overflow(tmp_path):
    result = compare(attention(tmp_path, "a"), attention(tmp_path, "b", "0.25"), (1, 2, 3))
    assert result.nonfinite == ()
    assert result.first_divergence == "blk.0.attn_scores"


def test_a_row_that_is_masked_whole_is_nan_from_its_softmax_on(tmp_path):
    masked = CAUSAL.copy()
    masked[0] = -np.inf
    result = compare(attention(tmp_path, "a"), attention(tmp_path, "b", mask=masked), (1, 2, 3))
    (one,) = result.nonfinite
    assert (one.side, one.tap, one.kind, one.position) == ("b", "blk.0.attn_probs", "NaN", (("token", 0), ("key", 0)))
    assert one.node is not None
    assert one.node.op_type == "Softmax"
    assert "b: attn_probs becomes NaN at token 0, key 0, at node" in one.text
    assert one.text.endswith("everything below holds NaN or Inf")


def test_regions_that_were_judged_on_nan_are_counted(tmp_path):
    masked = CAUSAL.copy()
    masked[0] = -np.inf
    result = compare(attention(tmp_path, "a", mask=masked), attention(tmp_path, "b"), (1, 2, 3))
    assert any(note.startswith("1 region (logits) reads NaN or Inf of a") for note in result.notes)


def test_against_logits_that_are_nan_no_share_and_no_closure_is_told(tmp_path):
    masked = CAUSAL.copy()
    masked[0] = -np.inf
    result = compare(attention(tmp_path, "a", mask=masked), attention(tmp_path, "b", "0.25"), (1, 2, 3))
    effect = result.root_causes[0].effect
    assert effect is not None
    assert (effect.finite, effect.alone[0], effect.changes_logits) == ("lost", None, True)
    assert result.closed.complete is None
    assert "NaN" in result.closed.text


def test_no_numpy_warning_reaches_the_user(tmp_path):
    a, b = attention(tmp_path, "a"), attention(tmp_path, "b", "0.25")
    command = [
        sys.executable,
        "-W",
        "error::RuntimeWarning",
        "-m",
        "opdiff",
        "compare",
        str(a),
        str(b),
        "--tokens",
        "1,2,3",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=300)
    assert (done.returncode, done.stderr) == (1, "")


def test_float32_overflows_too(tmp_path):
    text = """
    decoder (int64[T] tokens) => (float[T,2] embed, float[T,2] logits)
    { embed = Gather(table, tokens) grown = Exp(embed) logits = Neg(grown) }
    """
    table = {"table": np.array([[1.0, 2.0], [3.0, 100.0]], np.float32)}
    path = save_text(tmp_path / "a.onnx", text, {"embed": FLAT, "logits": ("token", "vocab")}, table)
    (one, _) = compare(path, path, (0, 1)).nonfinite
    assert (one.kind, one.element_type, one.node and one.node.op_type) == ("Inf", "float32", "Exp")
    assert one.exact == pytest.approx(np.exp(100.0))
