"""What to capture next: the one thing that settles what a comparison leaves open, and nothing where all is settled."""

from __future__ import annotations

from onnx_text import DECODER, DECODER_AXES, decoder_weights, save_decoder, save_text

from opdiff.compare.diagnose import compare

ABS = ("act1 = Relu(up1)", "act1 = Abs(up1)")


def saved(folder, name, *replacements, taps=tuple(DECODER_AXES)):
    text = DECODER
    for old, new in replacements:
        text = text.replace(old, new)
    folder.joinpath(name).mkdir()
    axes = {tap: DECODER_AXES[tap] for tap in taps}
    return save_text(folder / name / f"{name}.onnx", text, axes, decoder_weights())


def test_nothing_is_open_where_all_is_the_same(tmp_path):
    a = save_decoder(tmp_path / "a.onnx")
    assert compare(a, a, [1, 5, 3]).next_capture is None


def test_two_that_part_want_a_third_that_says_who_is_right(tmp_path):
    a, b = saved(tmp_path, "a"), saved(tmp_path, "b", ABS)
    assert compare(a, b, [1, 5, 3]).next_capture.kind == "reference"
    assert compare(a, b, [1, 5, 3], a).next_capture is None


def test_tap_that_only_one_side_has_is_asked_of_the_other(tmp_path):
    a, b = saved(tmp_path, "a"), saved(tmp_path, "b", taps=("embed", "blk.1.ffn_down", "logits"))
    asked = compare(a, b, [1, 5, 3]).next_capture
    assert (asked.kind, asked.side, asked.taps) == ("taps", "b", ("blk.0.ffn_down",))
    assert "ffn_down in block 0" in asked.text


def test_region_without_an_explanation_is_cut_where_the_other_side_has_a_tap(tmp_path):
    random = (
        ("act0 = Relu(up0)", "s0 = Sin(up0)\n  act0 = Cos(s0)"),
        ("act1 = Relu(up1)", "s1 = Erf(up1)\n  q1 = Sin(s1)\n  z1 = Tanh(q1)\n  act1 = Cos(z1)"),
    )
    few = ("embed", "blk.1.ffn_down", "logits")
    a, b = saved(tmp_path, "a"), saved(tmp_path, "b", *random, taps=few)
    result = compare(a, b, [1, 5, 3])
    if result.root_causes[0].kind in (
        "convention",
        "edit",
    ):  # a small edit was found after all: then nothing is open but who is right
        assert result.next_capture.kind == "reference"
    else:
        assert (result.next_capture.side, result.next_capture.taps) == ("b", ("blk.0.ffn_down",))


def test_stages_that_the_input_cannot_show_ask_for_the_tokens_that_do(seed):
    result = compare(seed / "dsl.onnx", seed / "legacy.onnx", [1], seed / "reference.onnx")
    asked = result.next_capture
    assert asked.kind == "tokens"
    again = compare(seed / "dsl.onnx", seed / "legacy.onnx", list(asked.tokens), seed / "reference.onnx")
    assert again.next_capture is None
    assert len(again.root_causes) > len(result.root_causes)
