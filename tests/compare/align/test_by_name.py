"""Alignment: taps are matched by their whole name, in graph order, and what is unmatched is told."""

from __future__ import annotations

import re

import numpy as np
import pytest
from onnx_text import DECODER, DECODER_AXES, decoder_weights, save_decoder, save_text

from opdiff.compare.align.by_name import align
from opdiff.compare.diagnose import compare
from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.errors import InputError
from opdiff.graphs.stages import IN_BLOCK, STAGES, graph_order, split_tap_name, tap_name


def renamed(tmp_path, names: dict[str, str], file: str = "b.onnx"):
    """DECODER with some of its taps under other names."""
    text = DECODER
    for old, new in names.items():
        text = re.sub(rf'"?(?<![\w.]){re.escape(old)}(?![\w.])"?', f'"{new}"', text)
    axes = {names.get(name, name): words for name, words in DECODER_AXES.items()}
    return save_text(tmp_path / file, text, axes, decoder_weights())


def test_common_taps_are_in_graph_order_and_the_others_are_named(tmp_path):
    a = load_artifact(save_decoder(tmp_path / "a.onnx"))
    b = load_artifact(renamed(tmp_path, {"blk.1.ffn_down": "blk.10.ffn_down"}))
    found = align(a, b)
    assert found.common == ("embed", "blk.0.ffn_down", "logits")
    assert found.only_a == ("blk.1.ffn_down",)
    assert found.only_b == ("blk.10.ffn_down",)
    assert found.matched_by == "tap name"


def test_names_are_never_matched_by_a_part_of_them(tmp_path):
    """Block 1 is not block 10, and `blk.1.ffn_down` is no `ffn_down`."""
    a = load_artifact(save_decoder(tmp_path / "a.onnx"))
    names = {"embed": "embed_1", "blk.0.ffn_down": "blk.00", "blk.1.ffn_down": "ffn_down", "logits": "blk.1"}
    with pytest.raises(InputError, match=r"a\.onnx and .*b\.onnx: no taps in common \(embed, .*\)"):
        align(a, load_artifact(renamed(tmp_path, names)))


def test_unmatched_taps_are_in_the_result(tmp_path):
    a, b = save_decoder(tmp_path / "a.onnx"), renamed(tmp_path, {"blk.1.ffn_down": "mine"})
    result = compare(a, b, [1, 2])
    assert (result.only_a, result.only_b) == (("blk.1.ffn_down",), ("mine",))
    assert result.parity


def test_a_graph_cut_more_finely_agrees_with_one_cut_less(tmp_path):
    """A's tap is inside B's region: the common taps are where both are cut."""
    (tmp_path / "b").mkdir()
    a, b = save_decoder(tmp_path / "a.onnx"), renamed(tmp_path / "b", {"blk.0.ffn_down": "mine"})
    assert [row.tap for row in compare(a, b, [1, 2]).rows] == ["embed", "blk.1.ffn_down", "logits"]
    for left, right in ((a, b), (b, a)):
        assert compare(left, right, [1, 2]).parity


def test_graph_order_is_that_of_a_decoder():
    names = ["embed", *(tap_name(stage, n) for n in (0, 1, 2, 10) for stage in IN_BLOCK), "final_norm", "logits"]
    shuffled = list(np.random.default_rng(0).permutation(names))
    assert sorted(shuffled, key=graph_order) == names


def test_tap_name_and_its_parts_are_one_to_one():
    for stage in STAGES:
        for block in (None, 0, 31):
            assert split_tap_name(tap_name(stage, block)) == (block, stage)
    assert split_tap_name("blk.0.attn_q.weight") == (0, "attn_q.weight")
    assert split_tap_name("what/ever") == (None, "what/ever")
