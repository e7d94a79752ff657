"""Feed-forward, residual, embedding and head: every way to differ is named, from formulas written out here."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

ACTIVATIONS = {
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_erf": F.gelu,
    "gelu_sigmoid": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x) ** 2,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}


def active(name, x):
    return ACTIVATIONS[name](torch.tensor(x)).numpy()


def silu(x):
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_another_activation_is_named(name, qwen3, names):
    gate, up = qwen3.values["blk.1.ffn_gate"], qwen3.values["blk.1.ffn_up"]
    assert names(qwen3, "ffn_act", active(name, gate) * up) == [{"ffn.activation": name}]


def test_the_activation_on_up_is_named(qwen3, names):
    gate, up = qwen3.values["blk.1.ffn_gate"], qwen3.values["blk.1.ffn_up"]
    assert names(qwen3, "ffn_act", silu(up) * gate) == [{"ffn.gate_up": "swapped"}]


def test_gate_and_up_otherwise_combined_are_named(qwen3, names):
    gate, up = qwen3.values["blk.1.ffn_gate"], qwen3.values["blk.1.ffn_up"]
    assert names(qwen3, "ffn_act", silu(gate)) == [{"ffn.combine": "gate_only"}]
    assert names(qwen3, "ffn_act", silu(gate) + up) == [{"ffn.combine": "sum"}]


def test_swapped_weights_of_gate_and_up_are_named_and_that_it_may_be_only_this_one(qwen3, names):
    x = qwen3.values["blk.1.ffn_norm"]
    for stage, other in (("ffn_gate", "ffn_up"), ("ffn_up", "ffn_gate")):
        output = x @ qwen3.weights[f"blk.1.{other}.weight"].astype(np.float64).T
        assert names(qwen3, stage, output) == [
            {"ffn.gate_up": "swapped"},
            {"linear.tensor": f"{stage} <- {other}"},
        ]


def test_swapped_gate_and_up_and_another_activation_are_both_named(qwen3, names):
    gate, up = qwen3.values["blk.1.ffn_gate"], qwen3.values["blk.1.ffn_up"]
    found = names(qwen3, "ffn_act", active("gelu_erf", up) * gate)
    assert found == [{"ffn.activation": "gelu_erf", "ffn.gate_up": "swapped"}]


def test_gate_and_up_swapped_are_found_where_neither_is_tapped(qwen3, names):
    gate, up = qwen3.values["blk.1.ffn_gate"], qwen3.values["blk.1.ffn_up"]
    found = names(qwen3, "ffn_act", silu(up) * gate, without=("ffn_gate", "ffn_up"))
    assert found == [{"ffn.gate_up": "swapped"}]


@pytest.mark.parametrize(("stage", "branch"), [("attn_residual", "o_proj"), ("ffn_residual", "ffn_down")])
def test_a_residual_that_is_missing_scaled_or_taken_elsewhere_is_named(stage, branch, qwen3, names):
    values, part = qwen3.values, stage.split("_")[0]
    stream = values["blk.0.ffn_residual"] if part == "attn" else values["blk.1.attn_residual"]
    y = values[f"blk.1.{branch}"]
    assert names(qwen3, stage, y) == [{f"residual.{part}": "missing"}]
    assert names(qwen3, stage, values[f"blk.1.{part}_norm"] + y) == [{f"residual.{part}": "normed"}]
    assert names(qwen3, stage, stream) == [{"residual.branch_scale": 0.0}]
    assert names(qwen3, stage, stream - y) == [{"residual.branch_scale": -1.0}]
    assert names(qwen3, stage, stream + 0.22 * y) == [{"residual.branch_scale": 0.22}]
    assert names(qwen3, stage, 0.5 * stream + y) == [{"residual.stream_scale": 0.5}]


def test_a_residual_from_before_attention_is_named(qwen3, names):
    output = qwen3.values["blk.0.ffn_residual"] + qwen3.values["blk.1.ffn_down"]
    assert names(qwen3, "ffn_residual", output) == [{"residual.ffn": "block_input"}]


@pytest.mark.parametrize(("factor", "value"), [(24**0.5, "sqrt(width)"), (12.0, 12.0), (1.2345, 1.2345)])
def test_a_scaled_embedding_is_named(factor, value, qwen3, names):
    rows = qwen3.weights["token_embd.weight"][qwen3.tokens].astype(np.float64)
    assert names(qwen3, "embed", rows * factor) == [{"embedding.scale": value}]


def test_the_heads_rows_as_embedding_are_named(qwen3, names):
    rows = qwen3.weights["output.weight"][qwen3.tokens].astype(np.float64)
    assert names(qwen3, "embed", rows) == [{"embedding.table": "head"}]


def test_a_rounded_embedding_is_named(qwen3, names):
    rows = qwen3.weights["token_embd.weight"][qwen3.tokens].astype(np.float16).astype(np.float64)
    assert names(qwen3, "embed", rows) == [{"linear.weight": "float16"}]


def test_a_head_tied_or_not_against_the_configuration_is_named(qwen3, tied, names):
    embedding = qwen3.weights["token_embd.weight"].astype(np.float64)
    assert names(qwen3, "logits", qwen3.values["final_norm"] @ embedding.T) == [{"head.tensor": "tied"}]
    own = np.random.default_rng(9).normal(size=(50, 24))
    tied.weights["output.weight"] = own
    try:
        assert names(tied, "logits", tied.values["final_norm"] @ own.T) == [{"head.tensor": "own"}]
    finally:
        del tied.weights["output.weight"]


def test_scaled_and_capped_logits_are_named(qwen3, names):
    logits = qwen3.values["logits"]
    assert names(qwen3, "logits", logits / 16) == [{"logits.scale": 0.0625}]
    assert names(qwen3, "logits", logits * 24**-0.5) == [{"logits.scale": "1/sqrt(width)"}]
    assert names(qwen3, "logits", 30 * np.tanh(logits / 30)) == [{"logits.softcap": 30.0}]
    assert names(qwen3, "logits", 4.5 * np.tanh(logits / 4.5)) == [{"logits.softcap": 4.5}]
    found = names(qwen3, "logits", 30 * np.tanh(logits * 0.4 / 30))
    assert found == [{"logits.scale": 0.4, "logits.softcap": 30.0}]


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "q8_0"])
def test_a_rounded_head_is_named_alone_and_with_a_scale(kind, square, names):
    """Sieved by its first rows, because a real head is large."""
    from opdiff.compare.conventions.rounding import ROUNDINGS

    head = ROUNDINGS[kind](square.weights["output.weight"]).astype(np.float64)
    logits = square.values["final_norm"] @ head.T
    assert names(square, "logits", logits) == [{"linear.weight": kind}]
    assert names(square, "logits", logits * 0.3) == [{"linear.weight": kind, "logits.scale": 0.3}]
