"""What an input cannot show is told of stages whose values do not matter, and of no others, however few taps there are."""

from __future__ import annotations

from opdiff.compare.align.by_name import Alignment
from opdiff.compare.mend.blind import blind_stages
from opdiff.compare.opening import graph_side
from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.run import Runner


def blind(path, taps, tokens):
    return blind_stages(graph_side(load_artifact(path), Alignment(taps, (), ()), tokens, Runner()))


def test_tap_that_the_logits_read_beside_others_is_seen(seed):
    taps = ("embed", "blk.0.q_rope", "logits")
    assert blind(seed / "reference.onnx", taps, [1, 5, 3]) == ()
    assert blind(seed / "reference.onnx", taps, [1]) == ("q_rope",)


def test_single_token_shows_no_query_and_no_key(seed):
    taps = tuple(tap.name for tap in load_artifact(seed / "reference.onnx").taps)
    assert {"q_rope", "k_rope", "attn_scores"} <= set(blind(seed / "reference.onnx", taps, [1]))
    assert blind(seed / "reference.onnx", taps, [1, 5, 3]) == ()
