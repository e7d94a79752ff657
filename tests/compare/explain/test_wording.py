"""Formulas told shortly."""

import pytest

from opdiff.compare.explain.edits.wording import are_reordered, in_another_order, with_letters


def test_what_is_repeated_gets_a_letter():
    y = "Conv(pad(x, [0, 3]), w, group=8)[0]"
    right, left, told = with_letters(f"concat({y}[part 1] * sigmoid({y}[part 1]), {y}[part 2])", f"{y} * sigmoid({y})")
    assert (right, left) == ("concat(y[part 1] * sigmoid(y[part 1]), y[part 2])", "y * sigmoid(y)")
    assert told == f", y = {y}"


def test_a_bracket_around_it_all_is_dropped_where_it_is_told():
    right, left, told = with_letters("cos((gain * (q * scale))[part 1]) + 1", "sin((gain * (q * scale))[part 2])")
    assert (right, left, told) == ("cos(y[part 1]) + 1", "sin(y[part 2])", ", y = gain * (q * scale)")


@pytest.mark.parametrize(("right", "left"), [("exp(q) + 1", "exp(q) - 1"), ("a * b", "a + b"), ("sin(q", "cos(q))")])
def test_what_is_short_or_broken_stays(right, left):
    assert with_letters(right, left) == (right, left, "")


def test_steps_in_another_order_are_found():
    turned = "concat({0}[part 1] * c - {0}[part 2] * s, {0}[part 2] * c)"
    normed = "gain * ({0} * r)"
    right, left = normed.format(turned.format("q")), turned.format("(" + normed.format("q") + ")")
    assert in_another_order(right, left) == (turned.format("x"), normed.format("x"))
    assert in_another_order("cast(log(q)) * 4", "cast(log(q) * 4)") is None
    assert in_another_order("gelu(x) + b", "gelu(x + b)") is None  # no call is moved: the text says it
    assert are_reordered("gelu(x) + b", "gelu(x + b)")
    assert are_reordered("mean(q)^2", "mean(q^2)")
    assert not are_reordered("mean(q)^2", "mean(k^2)")
    assert in_another_order("exp(q)", "log(q)") is None
