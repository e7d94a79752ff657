"""A comparison from files to its result, on graphs of a dozen nodes: what differs is a result, never an exception."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx_text import DECODER, DECODER_AXES, decoder_weights, save_decoder, save_text

from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result

TOKENS = [1, 5, 3, 2]


@pytest.fixture
def against(tmp_path):
    """Compare DECODER with the same under replacements in its text, or with other weights or axes."""

    def run(*replacements: tuple[str, str], weights=None, axes=None, swapped=False, tokens=TOKENS) -> Result:
        text = DECODER
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "b").mkdir(exist_ok=True)
        b = save_text(tmp_path / "b" / "b.onnx", text, axes or DECODER_AXES, {**decoder_weights(), **(weights or {})})
        a = save_decoder(tmp_path / "a.onnx")
        return compare(*((b, a) if swapped else (a, b)), tokens)

    return run


def faulty(result: Result) -> list[str]:
    return [divergence.tap for divergence in result.divergences]


ABS = ("act1 = Relu(up1)", "act1 = Abs(up1)")


def test_graph_is_the_same_as_itself(against):
    result = against()
    assert result.parity
    assert result.first_divergence is None
    assert result.divergences == result.root_causes == ()
    assert result.closed.complete
    assert {row.verdict for row in result.rows} == {"same"}


@pytest.mark.parametrize("swapped", [False, True])
def test_fault_is_placed_in_its_region_and_in_no_later_one(swapped, against):
    result = against(ABS, swapped=swapped)
    assert not result.parity
    assert faulty(result) == [result.first_divergence] == ["blk.1.ffn_down"]
    verdicts = {row.tap: row.verdict for row in result.rows}
    assert verdicts == {"embed": "same", "blk.0.ffn_down": "same", "blk.1.ffn_down": "semantic", "logits": "same"}
    assert {row.tap: row.propagated.max_abs > 0 for row in result.rows}["logits"]


def test_fault_without_a_name_is_told_by_its_node_and_a_proved_edit(against):
    result = against(ABS)
    (cause,) = result.root_causes
    assert cause.convention is None
    assert cause.kind == "edit"
    (divergence,) = result.divergences
    assert (divergence.a_node.op_type, divergence.b_node.op_type) == ("Relu", "Abs")
    assert "abs(" in divergence.difference
    assert "relu(" in divergence.difference
    assert result.closed.complete
    assert cause.effect.alone == pytest.approx((1.0,) * 4)


def test_two_faults_are_two_divergences_in_one_run(against):
    assert faulty(against(ABS, ("act0 = Relu(up0)", "act0 = Neg(up0)"))) == ["blk.0.ffn_down", "blk.1.ffn_down"]


def test_fault_that_changes_nothing_on_this_input_is_none(against):
    """|x| is relu(x) where x is positive."""
    weights = {
        "table": np.abs(decoder_weights()["table"]),
        "w1": np.abs(decoder_weights()["w1"]),
        "w0": np.eye(4, dtype=np.float32),
    }
    result = against(ABS, weights=weights)
    assert "blk.1.ffn_down" not in {d.tap for d in result.divergences if d.b_node and d.b_node.op_type == "Abs"}


@pytest.mark.parametrize(
    "other",
    [
        ("up1 = MatMul", "other_name = MatMul"),
        ("blk.0.ffn_down\" = Add(embed, act0)", "blk.0.ffn_down\" = Add(act0, embed)"),
        ("head = Transpose<perm = [1, 0]>(table)\n  logits = MatMul(\"blk.1.ffn_down\", head)",
         "h = Gemm<transB = 1>(\"blk.1.ffn_down\", table)\n  logits = Identity(h)"),
        ("act1 = Relu(up1)", "zero = Constant<value_float = 0.0>()\n  act1 = Max(up1, zero)"),
        ("up0 = MatMul(embed, w0)", "e = Transpose<perm = [1, 0]>(embed)\n  v = Transpose<perm = [1, 0]>(w0)\n  "
         "u = MatMul(v, e)\n  up0 = Transpose<perm = [1, 0]>(u)"),
    ],
    ids=["other names", "other order of operands", "fused", "another operator", "transposed there and back"],
)  # fmt: skip
def test_another_way_to_write_the_same_is_no_fault(other, against):
    replacements = [other] if "other_name" not in other[1] else [other, ("Relu(up1)", "Relu(other_name)")]
    result = against(*replacements)
    assert result.parity, [cause.text for cause in result.root_causes]


def test_axes_in_another_order_are_no_fault(against):
    turned = (
        'blk.1.ffn_down" = Add("blk.0.ffn_down", act1)',
        'blk.1.ffn_down" = Transpose<perm = [1, 0]>(sum)',
    )
    before = ("act1 = Relu(up1)", 'act1 = Relu(up1)\n  sum = Add("blk.0.ffn_down", act1)')
    head = (
        'logits = MatMul("blk.1.ffn_down", head)',
        'l = MatMul(table, "blk.1.ffn_down")\n  logits = Transpose<perm = [1, 0]>(l)',
    )
    shape = ('float[T,4] "blk.1.ffn_down"', 'float[4,T] "blk.1.ffn_down"')
    axes = {**DECODER_AXES, "blk.1.ffn_down": ("channel", "token")}
    assert against(before, turned, head, shape, axes=axes).parity


def test_nan_on_one_side_is_a_divergence_and_never_an_average(against):
    table = decoder_weights()["table"].copy()
    table[5, 2] = np.nan
    result = against(weights={"table": table})
    assert result.first_divergence == "embed"
    row = next(row for row in result.rows if row.tap == "embed")
    assert row.propagated.status == "not finite"
    assert (row.propagated.n_nonfinite_a, row.propagated.n_nonfinite_b) == (0, 1)
    json.loads(result.to_json(), parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))


def test_nan_of_both_sides_is_told_and_no_fault(tmp_path):
    text = DECODER.replace("act1 = Relu(up1)", "act1 = Log(up1)")
    a = save_decoder(tmp_path / "a.onnx", text=text)
    b = save_decoder(tmp_path / "b.onnx", text=text.replace("Add(embed, act0)", "Add(act0, embed)"))
    result = compare(a, b, TOKENS)
    assert result.parity
    assert {row.tap for row in result.rows if row.propagated.status == "not finite"} == {"blk.1.ffn_down", "logits"}


def test_tap_of_another_shape_is_a_divergence(against):
    wide = (
        'logits = MatMul("blk.1.ffn_down", head)',
        'l = MatMul("blk.1.ffn_down", head)\n  logits = Concat<axis = 1>(l, l)',
    )
    result = against(wide, ("float[T,8] logits", "float[T,16] logits"))
    assert faulty(result) == ["logits"]
    assert "shapes [4, 8] against [4, 16]" in {row.propagated.status for row in result.rows}


@pytest.mark.parametrize(("reader", "same"), [("Add(left, right)", True), ("Sub(left, right)", False)])
def test_inner_tap_of_another_shape_is_told_and_a_fault_unless_its_readers_make_up_for_it(reader, same, against):
    wide = ('blk.0.ffn_down" = Add(embed, act0)', 'blk.0.ffn_down" = Concat<axis = 1>(embed, act0)')
    narrow = (
        'up1 = MatMul("blk.0.ffn_down", w1)',
        f"""k = Constant<value_ints = [4, 4]>()
            left, right = Split<axis = 1>("blk.0.ffn_down", k)
            whole = {reader}
            up1 = MatMul(whole, w1)""",
    )
    rest = ('Add("blk.0.ffn_down", act1)', "Add(whole, act1)")
    result = against(wide, narrow, rest, ('float[T,4] "blk.0.ffn_down"', 'float[T,8] "blk.0.ffn_down"'))
    assert {row.tap: row for row in result.rows}["blk.0.ffn_down"].propagated.status == "shapes [4, 4] against [4, 8]"
    assert result.parity == same
    if same:
        assert any("ffn_down" in note for note in result.notes)
    else:
        assert result.first_divergence == "blk.0.ffn_down"
        assert result.closed.complete is not True


def test_graphs_without_logits_are_compared_and_closing_says_that_it_cannot_know(tmp_path):
    axes = {("mine" if name == "logits" else name): words for name, words in DECODER_AXES.items()}
    text = DECODER.replace("logits", "mine")
    a = save_text(tmp_path / "a.onnx", text, axes, decoder_weights())
    b = save_text(tmp_path / "b.onnx", text.replace(*ABS), axes, decoder_weights())
    result = compare(a, b, TOKENS)
    assert faulty(result) == ["blk.1.ffn_down"]
    assert result.closed.complete is None
    assert result.positions == ()
    assert result.divergences[0].effect is None


def test_reference_says_whose_region_it_shares(tmp_path):
    a, r = save_decoder(tmp_path / "a.onnx"), save_decoder(tmp_path / "r.onnx")
    b = save_decoder(tmp_path / "b.onnx", text=DECODER.replace(*ABS))
    c = save_decoder(tmp_path / "c.onnx", text=DECODER.replace(ABS[0], "act1 = Neg(up1)"))
    assert [cause.reference_agrees_with for cause in compare(a, b, TOKENS, r).root_causes] == ["a"]
    assert [cause.reference_agrees_with for cause in compare(b, a, TOKENS, r).root_causes] == ["b"]
    assert [cause.reference_agrees_with for cause in compare(a, b, TOKENS, c).root_causes] == ["neither"]
    assert [cause.reference_agrees_with for cause in compare(a, b, TOKENS).root_causes] == [None]


def test_every_position_has_the_logits_of_both_sides(against):
    result = against(ABS)
    assert [(p.position, p.token) for p in result.positions] == list(enumerate(TOKENS))
    for position in result.positions:
        assert len(position.a_top) == len(position.b_top) == 5
        assert position.a_top[0][1] == max(logit for _, logit in position.a_top)


def test_result_says_what_it_rests_on(against):
    result = against(ABS)
    assert {"opdiff", "onnx", "onnxruntime", "numpy", "provider", "optimisation"} <= set(result.provenance)
    assert len(result.a.sha256) == 64
    assert result.a.sha256 != result.b.sha256
    assert result.tokens == tuple(TOKENS)


def test_json_is_strict_and_holds_every_field(against):
    result = against(ABS)
    found = json.loads(result.to_json(), parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert found["schema"] == "opdiff.result/3"
    assert set(found) == {"schema", *type(result).__slots__}
    assert found["tokens"] == TOKENS
    assert [row["tap"] for row in found["rows"]] == [row.tap for row in result.rows]


def test_blind_spot_names_stages_whose_values_do_not_reach_the_logits(tmp_path):
    text = DECODER.replace('MatMul("blk.1.ffn_down", head)', 'MatMul("blk.0.ffn_down", head)')
    a, b = save_decoder(tmp_path / "a.onnx", text=text), save_decoder(tmp_path / "b.onnx", text=text.replace(*ABS))
    result = compare(a, b, TOKENS)
    assert [spot.stages for spot in result.blind_spots] == [("ffn_down",)]
    assert not result.divergences[0].effect.changes_logits
