"""A choice between experts that rounding decides is told as that, with its margin and its effect, and is no fault."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from onnx_text import save_text

from opdiff.compare.diagnose import compare

# One router of four experts, of which two are chosen, on a table whose rows are the router's logits; each expert adds a number.
ROUTED = """
routed (int64[T] tokens) => (float[T,4] embed, float[T,4] "blk.0.router_logits", int64[T,2] "blk.0.expert_choice",
  float[T,1] "blk.0.expert_out", float[T,4] logits)
{
  embed = Gather(table, tokens)
  more = Add(embed, sixteen)
  lossy = Sub(more, sixteen)
  "blk.0.router_logits" = Identity(embed)
  two = Constant<value = int64[1] {2}>()
  best, "blk.0.expert_choice" = TopK<axis = -1>("blk.0.router_logits", two)
  of_chosen = Gather(numbers, "blk.0.expert_choice")
  last = Constant<value = int64[1] {-1}>()
  "blk.0.expert_out" = ReduceSum<keepdims = 1>(of_chosen, last)
  logits = Add(embed, "blk.0.expert_out")
}
"""
AXES = {
    "embed": ("token", "channel"),
    "blk.0.router_logits": ("token", "expert"),
    "blk.0.expert_choice": ("token", "choice"),
    "blk.0.expert_out": ("token", "channel"),
    "logits": ("token", "vocab"),
}
LAST_PLACE = 2.0**-23  # of float32 at 1; adding 16 and taking it away loses it in single precision, and not in double


# The same, whose choice has a batch in front, as HF's modules give it.
IN_BATCH = (
    ROUTED.replace('int64[T,2] "blk.0.expert_choice"', 'int64[1,T,2] "blk.0.expert_choice"')
    .replace('best, "blk.0.expert_choice" =', "best, chosen =")
    .replace(
        'of_chosen = Gather(numbers, "blk.0.expert_choice")',
        'front = Constant<value = int64[1] {0}>() "blk.0.expert_choice" = Unsqueeze(chosen, front) '
        'flat = Squeeze("blk.0.expert_choice", front) of_chosen = Gather(numbers, flat)',
    )
)
WITH_BATCH = {**AXES, "blk.0.expert_choice": ("batch", "token", "choice")}


def routed(folder: Path, name: str, table: np.ndarray, change: str = "", in_batch: bool = False) -> Path:
    weights = {
        "table": table.astype(np.float32),
        "numbers": np.array([1, 10, 100, 1000], np.float32),
        "sixteen": np.array([16], np.float32),
    }
    folder = folder / name
    folder.mkdir()
    text, axes = (IN_BATCH, WITH_BATCH) if in_batch else (ROUTED, AXES)
    text = text.replace(*change.split(" -> ")) if change else text
    return save_text(folder / f"{name}.onnx", text, axes, weights)


NEAR_TIE = np.array([[3, 1, 0, 2], [3, 1, 1 + LAST_PLACE, 0]])  # of the second token


@pytest.fixture(params=[(False, False), (True, True), (False, True)], ids=["plain", "in a batch", "B in a batch"])
def flipped(tmp_path, request):
    """B loses the last place of its router's logits, and so takes the first of two experts that are equal then."""
    lossy = '"blk.0.router_logits" = Identity(embed) -> "blk.0.router_logits" = Identity(lossy)'
    a, b = request.param
    return compare(
        routed(tmp_path, "a", NEAR_TIE, in_batch=a), routed(tmp_path, "b", NEAR_TIE, lossy, in_batch=b), (0, 1)
    )


def test_flip_within_rounding_is_told_with_its_place_margin_and_effect_and_is_no_fault(flipped):
    (note,) = [note for note in flipped.notes if "flips" in note]
    found = re.fullmatch(
        r"blk\.0\.expert_choice: the choice of experts flips by rounding at position 1 \(margin (\S+) of the router's logits\); "
        r"with A's choice, B's logits move by up to (\S+)",
        note,
    )
    assert found, note
    assert float(found[1]) < 1e-6
    assert float(found[2]) == pytest.approx(90)
    assert "blk.0.expert_choice" not in [one.tap for one in flipped.divergences]


def test_flip_for_a_reason_is_a_fault_and_no_flip(tmp_path):
    least = "TopK<axis = -1> -> TopK<axis = -1, largest = 0>"
    result = compare(routed(tmp_path, "a", NEAR_TIE), routed(tmp_path, "b", NEAR_TIE, least), (0, 1))
    assert result.first_divergence == "blk.0.expert_choice"
    assert not any("flips" in note for note in result.notes)


def test_same_choice_is_not_told(tmp_path):
    result = compare(routed(tmp_path, "a", NEAR_TIE), routed(tmp_path, "b", NEAR_TIE), (0, 1))
    assert result.parity
    assert not any("flips" in note for note in result.notes)
