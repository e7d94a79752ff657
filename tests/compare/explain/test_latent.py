"""What differs without effect on this input: listed apart, at its lines, with an input that shows it; other ways of writing are not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import made_once
from foreign.models import written
from own_files import text_at
from torch import nn

from opdiff.compare.diagnose import compare
from opdiff.compare.explain.latent.search import latent_differences
from opdiff.compare.report.diagnosis import diagnosis
from opdiff.compare.result import Result
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import export
from opdiff.exporters.variants.registry import parse_variant

VARIANTS = Path(__file__).parent / "latent_variants.py"
TOKENS = (1, 5, 3, 7, 2, 9, 11, 4)


@dataclass(frozen=True)
class Case:
    """Two right variants that differ without effect, and what must be told: words, A's line and B's, and what shows it."""

    a: str
    b: str
    says: str
    a_line: str
    b_line: str
    shown_by: str | None


CASES = (
    Case(
        *("Plain", "Clipped50", "clip(x, -50, 50) is extra, x = embed * 2"),
        *("return x * 2 + 1", "return (x * 2).clamp(-50.0, 50.0) + 1", "embed 1000 times as large"),
    ),
    Case(
        *("Clipped50", "Plain", "clip(x, -50, 50) is left out, x = embed * 2"),
        *("return (x * 2).clamp(-50.0, 50.0) + 1", "return x * 2 + 1", "embed 1000 times as large"),
    ),
    Case(
        *("Clipped50", "Clipped100", "clip(embed * 2, -100, 100) where Clipped50 has clip(embed * 2, -50, 50)"),
        *("return (x * 2).clamp(-50.0, 50.0) + 1", "return (x * 2).clamp(-100.0, 100.0) + 1"),
        "embed 1000 times as large",
    ),
    Case(
        *("Clipped100", "ClippedAbove", "clip(embed * 2, max=100) where Clipped100 has clip(embed * 2, -100, 100)"),
        *("return (x * 2).clamp(-100.0, 100.0) + 1", "return (x * 2).clamp(max=100.0) + 1"),
        "embed 1000 times as large",
    ),
    Case(
        *("Plain", "Chosen", "where(less(abs(embed), 100), x, 0) is extra, x = embed * 2"),
        *("return x * 2 + 1", "return torch.where(x.abs() < 100.0, x * 2, 0.0) + 1", "embed 1000 times as large"),
    ),
    Case(  # a square is never negative, so none can show it
        *("Positive", "PositiveRelu", "relu(x) is extra, x = embed * embed"),
        *("return x * x + 1", "return (x * x).relu() + 1", None),
    ),
    Case(
        *("Whole", "WholeInHalf", "to_float16(x) is extra, x = round(embed) + 0.5"),
        *("return (x.round() + 0.5) * 2", "return (x.round() + 0.5).half().float() * 2", "embed 1000 times as large"),
    ),
    Case(
        *("Linear", "LinearWithZeros", "x + zeros [32] is extra (all zeros), x = embed @ constant [32, 32]"),
        *("return x @ self.weight", "return x @ self.weight + self.zeros", None),
    ),
    Case(
        *(
            "Window4096",
            "Window8192",
            "8192 where Window4096 has 4096, in greater_or_equal(positions - positions, 8192)",
        ),
        *(
            "return (far < 0) | (far >= 4096)",
            "return (far < 0) | (far >= 8192)",
            "4097 tokens, for which it alone was run",
        ),
    ),
    Case(
        *("Attention", "Window40", "or(x, greater_or_equal(positions - positions, 40)) is extra"),
        *("return far < 0", "return (far < 0) | (far >= 40)", "41 tokens"),
    ),
    Case(
        *("AttentionByTriangle", "Window40", "or(x, greater_or_equal(positions - positions, 40)) is extra"),
        "return (x @ x.T / 32).masked_fill(~visible, -torch.inf).softmax(-1) @ x",
        *("return (far < 0) | (far >= 40)", "41 tokens"),
    ),
    Case(  # written otherwise: an edit of what both give for more tokens
        *("AttentionByAddition", "Window40", "greater_or_equal(positions - positions, 40)), -inf, x) is extra"),
        "return (x @ x.T / 32 + torch.full((n, n), -torch.inf).triu(1)).softmax(-1) @ x",
        *("return (x @ x.T / 32).masked_fill(hidden, self.fill).softmax(-1) @ x", "41 tokens"),
    ),
    Case(  # longer than the masks that are made
        *("Window8192", "Attention", "or(x, greater_or_equal(positions - positions, 8192)) is left out"),
        *("return (far < 0) | (far >= 8192)", "return far < 0", None),
    ),
    Case(
        *("Attention", "FilledLow", "-1e+09 where Attention has -inf, in where("),
        *("return (x @ x.T / 32).masked_fill(hidden, self.fill).softmax(-1) @ x",) * 2,
        None,
    ),
    Case(
        *("Positioned", "PositionedUpTo2047", "clip(x, max=2047) is extra, x = positions"),
        "return x * torch.arange(x.shape[0])[:, None].float()",
        *(
            "return x * torch.arange(x.shape[0]).clamp(max=2047)[:, None].float()",
            "2049 tokens, for which it alone was run",
        ),
    ),
)
BENIGN = (
    ("Attention", "FilledWithTheLowest"),
    ("Attention", "AttentionByTriangle"),
    ("AttentionByTriangle", "AttentionByTable"),
    ("AttentionByAddition", "Attention"),
    ("AttentionByTable", "FilledWithTheLowest"),
    ("Eighth", "EighthByProduct"),
    ("Eighth", "EighthOfNothingMore"),
    ("Norm", "NormByRoot"),
    ("Linear", "LinearByColumns"),
    ("Clipped50", "Clipped50"),
    ("Halves", "HalvesOfSizes"),
)


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Every class of latent_variants.py, for any number of tokens."""

    def make(folder: Path) -> None:
        names = re.findall(r"^class (\w+)", VARIANTS.read_text(), re.MULTILINE)
        wanted = [parse_variant(f"{VARIANTS}:{name}") for name in names if name != "Small"]
        export(open_checkpoint("seed", folder), wanted, folder)

    return made_once(tmp_path_factory, worker_id, "latent", make)


@pytest.fixture(scope="session")
def compared(variants: Path) -> Callable[[str, str], Result]:
    results: dict[tuple[str, str], Result] = {}

    def one(a: str, b: str) -> Result:
        if (a, b) not in results:
            results[a, b] = compare(variants / f"{a}.onnx", variants / f"{b}.onnx", TOKENS)
        return results[a, b]

    return one


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.a} to {case.b}")
def test_what_has_no_effect_is_listed_at_its_lines_and_with_what_shows_it(case, compared):
    result = compared(case.a, case.b)
    assert result.parity
    (one,) = result.latent
    assert case.says in one.text
    assert one.taps == ("body",)
    assert (text_at(one.a_source, VARIANTS), text_at(one.source, VARIANTS)) == (case.a_line, case.b_line)
    assert one.shown_by == case.shown_by


@pytest.mark.parametrize(("a", "b"), BENIGN)
def test_another_way_of_writing_is_not_listed(a, b, compared):
    result = compared(a, b)
    assert result.parity
    assert result.latent == ()


def test_what_has_an_effect_is_a_fault_and_not_listed(compared):
    result = compared("Capped30", "Capped50")
    assert not result.parity
    assert result.latent == ()


def test_what_shows_a_window_is_a_fault_there(variants):
    tokens = [n % 16 for n in range(64)]
    result = compare(variants / "Attention.onnx", variants / "Window40.onnx", tokens)
    assert not result.parity
    assert result.latent == ()


def test_reports_list_it_apart(compared):
    text = diagnosis(compared("Plain", "Clipped50"))
    assert "Differs without effect on this input, which is no fault:\n- Clipped50: clip(x, -50, 50) is extra" in text
    assert "shown by embed 1000 times as large" in text
    assert "no input was found that shows it" in diagnosis(compared("Linear", "LinearWithZeros"))
    assert "without effect" not in diagnosis(compared("Eighth", "EighthByProduct"))


class Gated(nn.Module):
    """Another's graph, without taps."""

    def __init__(self, limit: float | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.down, self.limit = nn.Linear(8, 16), nn.Linear(16, 8), limit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.gate(x)
        return self.down(nn.functional.silu(x if self.limit is None else x.clamp(max=self.limit)))


def test_graphs_without_taps_have_theirs_listed(tmp_path):
    x = torch.randn(4, 8, generator=torch.manual_seed(0))
    plain, limited, wider = (
        written(Gated(limit), x, tmp_path / f"{name}.onnx", 18, "x")
        for name, limit in (("plain", None), ("limited", 100.0), ("wider", 200.0))
    )
    given = {"x": x.numpy()}
    (extra,) = compare(plain, limited, inputs=(given, {})).latent
    assert "clip(x, max=100) is extra, x = step.01.Gemm" in extra.text
    assert extra.shown_by is not None
    assert "1000 times as large" in extra.shown_by
    (other,) = compare(limited, wider, inputs=(given, {})).latent
    assert "200 where limited has 100, in clip(step.01.Gemm, max=200)" in other.text
    assert compare(plain, plain, inputs=(given, {})).latent == ()


def test_nothing_is_said_of_a_trace(variants, tmp_path):
    values = tmp_path / "values"
    compare(variants / "Plain.onnx", variants / "Clipped50.onnx", TOKENS, values=values)
    result = compare(variants / "Plain.onnx", values / "b.safetensors")
    assert result.parity
    assert result.latent == ()


def test_equal_programs_cost_nothing(variants, monkeypatch):
    monkeypatch.setattr(
        "opdiff.compare.sides.graph_side.GraphSide.network", lambda *_: pytest.fail("a region was looked into")
    )
    assert compare(variants / "Plain.onnx", variants / "Plain.onnx", TOKENS).latent == ()
    assert latent_differences.__doc__
