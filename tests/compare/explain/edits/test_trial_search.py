"""Against a trace there are no nodes to compare: changes of the graph's own region are tried, and proved on its values."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_text import save_text
from region_text import AXES, TEXT, TOKENS, changed, weights

from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result
from opdiff.compare.sides.graph_side import GraphSide
from opdiff.graphs.artifact import load_artifact
from opdiff.graphs.run import Runner
from opdiff.graphs.trace import save_trace


@pytest.fixture
def against(tmp_path):
    """Compare TEXT with a trace of the same under replacements in its text, or with other weights."""

    def run(*replacements: tuple[str, str], **others: np.ndarray) -> Result:
        (tmp_path / "b").mkdir(exist_ok=True)
        a = save_text(tmp_path / "a.onnx", TEXT, AXES, weights())
        artifact = load_artifact(
            save_text(tmp_path / "b" / "b.onnx", changed(*replacements), AXES, {**weights(), **others})
        )
        side = GraphSide(artifact, artifact.tap_names, TOKENS, Runner())
        recorded = [(tap, np.asarray(side.values[name])) for name, tap in side.taps.items()]
        return compare(a, save_trace_to(tmp_path / "b.safetensors", recorded))

    def save_trace_to(path, recorded):
        save_trace(path, "b", TOKENS, recorded, {})
        return path

    return run


FOUND = [
    (("value_float = 0.5", "value_float = 0.25"), "0.25 where a has 0.5"),
    (("root = Sqrt(shifted)", "root = Identity(shifted)"), "sqrt(x) is left out"),
    (("act0 = Relu(up0)", "act0 = Softplus(up0)"), "softplus(x) where a has relu"),
    (("act1 = Mul(up1, gate)", "r = Relu(up1)\n  act1 = Mul(r, r)"), "relu(x)^2 where a has"),
    (("Add(embed, act0)", "Add(act0, act0)"), "takes relu(attn_norm @ w0) where a takes embed"),
    (("gate = Sigmoid(up1)", "n = Neg(up1)\n  gate = Sigmoid(n)"), "sigmoid(x) of -x"),
    (('up1 = MatMul("blk.0.ffn_down", w1)', 't = Transpose<perm = [1, 0]>(w1)\n  up1 = MatMul("blk.0.ffn_down", t)'), "transposed"),
    (("scaled = Mul(act1, half)", "h = Cast<to = 10>(act1)\n  f = Cast<to = 1>(h)\n  scaled = Mul(f, half)"), "is rounded to float16"),
    (("scaled = Mul(act1, half)", "scaled = Identity(act1)"), "x * 0.5 is left out"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), FOUND, ids=lambda value: value if isinstance(value, str) else "")
def test_a_change_that_gives_what_was_recorded_is_found_and_proved(change, said, against):
    result = against(change)
    (cause,) = result.root_causes
    assert cause.kind == "edit"
    assert said in cause.text
    assert cause.residual < 1 / 3
    assert result.closed.complete


def test_what_is_not_found_is_said_to_be_not_found(against):
    steps = "n = Sin(up1)\n  m = Mul(n, n)\n  o = Cos(m)\n  act1 = Mul(o, gate)"
    result = against(("act1 = Mul(up1, gate)", steps))
    (cause,) = result.root_causes
    assert cause.kind == "unexplained"
    assert cause.edit == ()
    assert result.closed.complete is False
    assert "no explanation was found" in result.closed.text
