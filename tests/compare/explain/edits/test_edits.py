"""Edits on graphs of a dozen nodes: each mistake is told by what to change, proved, and at its node."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_text import save_text
from region_text import AXES, TEXT, TOKENS, changed, weights

from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result, RootCause


@pytest.fixture
def against(tmp_path):
    """Compare TEXT with the same under replacements in its text, or with other weights."""

    def run(*replacements: tuple[str, str], **others: np.ndarray) -> Result:
        (tmp_path / "b").mkdir(exist_ok=True)
        a = save_text(tmp_path / "a.onnx", TEXT, AXES, weights())
        b = save_text(tmp_path / "b" / "b.onnx", changed(*replacements), AXES, {**weights(), **others})
        return compare(a, b, TOKENS)

    return run


def only(result: Result) -> RootCause:
    (cause,) = result.root_causes
    return cause


MISTAKES = [
    # where, what is written there instead, what is said, B's operator
    (("value_float = 1e-06", "value_float = 1e-03"), "0.001 where a has 1e-06, in mean(embed * embed) + 0.001", "Add"),
    (("root = Sqrt(shifted)", "root = Identity(shifted)"), "sqrt(x) is left out, x = mean(embed * embed) + 1e-06", "Div"),
    (("act0 = Relu(up0)", "t = Tanh(up0)\n  act0 = Relu(t)"), "tanh(x) is extra, x = attn_norm @ w0", "Tanh"),
    (("act0 = Relu(up0)", "act0 = LeakyRelu<alpha = 0.1>(up0)"), "leakyrelu(attn_norm @ w0, alpha=0.1) where a has relu(attn_norm @ w0)", "LeakyRelu"),
    (("Add(embed, act0)", 'Add("blk.0.attn_norm", act0)'), "reads attn_norm where a reads embed", "Add"),
    (("act1 = Mul(up1, gate)", "r = Relu(up1)\n  act1 = Mul(r, r)"), "relu(", "Relu"),
    (("scaled = Mul(act1, half)", "scaled = Identity(act1)"), "x * 0.5 is left out", "Add"),
    (('up1 = MatMul("blk.0.ffn_down", w1)', 'up1 = MatMul("blk.0.ffn_down", w0)'), "takes w0 where a takes w1", "MatMul"),
    (("gate = Sigmoid(up1)", "n = Neg(up1)\n  gate = Sigmoid(n)"), "-x is extra, x = blk.0.ffn_down @ w1", "Neg"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said", "operator"), MISTAKES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_mistake_is_told_by_what_to_change_at_its_node_and_closed(change, said, operator, against):
    result = against(change)
    cause = only(result)
    assert cause.kind == "edit"
    assert said in cause.text
    (divergence,) = result.divergences
    assert divergence.b_node.op_type == operator
    assert cause.residual < 1e-8
    assert result.closed.complete
    assert result.closed.text.startswith("complete: ")


WEIGHTS = [
    ("gain", lambda w: -w, "the sign turned"),
    ("gain", lambda w: 3 * w, "times 3"),
    ("w0", lambda w: w[[1, 0, 3, 2]], "permuted"),
    ("w1", lambda w: np.where(np.arange(16).reshape(4, 4) == 6, w + 1, w), "1, 2"),
]


@pytest.mark.parametrize(("name", "change", "said"), WEIGHTS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_weight_that_differs_is_compared_with_the_right_one(name, change, said, against):
    result = against(**{name: change(weights()[name]).astype(np.float32)})
    cause = only(result)
    assert cause.kind == "edit"
    assert f"the weight {name} is a's" in cause.text
    assert said in cause.text
    assert cause.steps == 0
    assert result.closed.complete


def test_two_mistakes_in_one_region_are_told_apart(against):
    result = against(("gate = Sigmoid(up1)", "gate = Tanh(up1)"), ("value_float = 0.5", "value_float = 0.25"))
    texts = [cause.text for cause in result.root_causes]
    assert len(texts) == 2, texts
    assert any("tanh" in text for text in texts)
    assert any("0.25 where a has 0.5" in text for text in texts)
    assert {cause.taps for cause in result.root_causes} == {("blk.1.ffn_down",)}


def test_one_mistake_in_two_regions_is_one_cause(against):
    extra = ("act0 = Relu(up0)", "r = Relu(up0)\n  act0 = Clip(r, eps, half)")
    also = ("act1 = Mul(up1, gate)", "m = Mul(up1, gate)\n  act1 = Clip(m, eps, half)")
    cause = only(against(extra, also))
    assert cause.taps == ("blk.0.ffn_down", "blk.1.ffn_down")
    assert "clip(x, 1e-06, 0.5) is extra" in cause.text


def test_every_piece_of_an_edit_is_needed(against):
    """What is only written otherwise beside a mistake is no part of what is said."""
    result = against(
        ("value_float = 1e-06", "value_float = 1e-03"),
        ("normed = Div(embed, root)", "inverse = Reciprocal(root)\n  normed = Mul(inverse, embed)"),
    )
    cause = only(result)
    assert cause.edit == ("0.001 where A has 1e-06, in mean(embed * embed) + 0.001",)


def test_what_is_rewritten_altogether_is_called_so_and_every_region_is_found(against):
    steps = "\n  ".join(
        f"s{n + 1} = {op}(s{n})" for n, op in enumerate(("Sin", "Tanh", "Exp", "Cos", "Abs", "Sqrt") * 2)
    )
    result = against(("act1 = Mul(up1, gate)", f"s0 = Identity(up1)\n  {steps}\n  act1 = Identity(s12)"))
    cause = only(result)
    assert cause.kind == "rewrite"
    assert cause.steps == 12
    assert result.closed.complete is False
    assert result.closed.all_found
    assert "every region is found, and mending them leaves" in result.closed.text
    assert "for 1 of 1, no smaller explanation than the region itself was found" in result.closed.text
