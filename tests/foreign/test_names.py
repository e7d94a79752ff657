"""Graphs without taps whose stages show a decoder get the catalogue's names, as those that opdiff exported do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import made_once
from foreign.models import without_taps

from opdiff.compare.diagnose import compare

N_HEADS = 4  # of the random Qwen3: with as many tokens, the sizes of axes do not tell heads from tokens


@pytest.fixture(scope="session")
def both(qwen3: Path, tmp_path_factory, worker_id) -> Path:
    """The variants of a random Qwen3, dsl.onnx and others, and each without taps: dsl.bare.onnx."""

    def make(folder: Path) -> None:
        shutil.copytree(qwen3, folder, dirs_exist_ok=True)
        for name in ("dsl", "hf", "reference"):
            without_taps(folder / f"{name}.onnx")

    return made_once(tmp_path_factory, worker_id, "both", make)


@pytest.mark.parametrize("n_tokens", [3, N_HEADS, 9, 256])
@pytest.mark.parametrize(("a", "b"), [("dsl", "reference"), ("reference", "dsl")])
def test_faults_have_the_names_that_they_have_with_taps(a, b, n_tokens, both):
    tokens = [(7 * n + 1) % 50 for n in range(n_tokens)]
    bare, tapped = (compare(both / f"{a}{end}", both / f"{b}{end}", tokens) for end in (".bare.onnx", ".onnx"))
    assert [one.convention for one in bare.root_causes] == ["qk_norm.eps", "rope.pairing"]
    told, expected = (
        {(one.convention, one.a_value, one.b_value, frozenset(one.taps)) for one in result.root_causes}
        for result in (bare, tapped)
    )
    assert told == expected
    assert bare.closed.complete


@pytest.mark.parametrize("n_tokens", [3, N_HEADS, 9])
def test_another_order_of_heads_and_tokens_is_no_difference(n_tokens, both):
    tokens = [(7 * n + 1) % 50 for n in range(n_tokens)]
    result = compare(both / "hf.bare.onnx", both / "reference.bare.onnx", tokens)
    assert result.parity, [one.text for one in result.root_causes]


@pytest.mark.parametrize("reference", ["hf.bare.onnx", "hf.onnx"])
def test_a_third_graph_says_who_is_right(reference, both):
    """With taps or without: it is aligned with A, and its regions run on A's values."""
    a, b = both / "dsl.bare.onnx", both / "reference.bare.onnx"
    for left, right, agrees in ((a, b, "b"), (b, a, "a")):
        result = compare(left, right, [1, 8, 15, 22, 29], both / reference)
        assert [one.convention for one in result.root_causes] == ["qk_norm.eps", "rope.pairing"]
        assert {one.reference_agrees_with for one in result.root_causes} == {agrees}


def test_a_reference_that_is_wrong_too_agrees_with_the_side_that_is(both):
    result = compare(both / "dsl.bare.onnx", both / "reference.bare.onnx", [1, 8, 15], both / "dsl.onnx")
    assert {one.reference_agrees_with for one in result.root_causes} == {"a"}
