"""Public bug reports that opdiff once told wrongly: every fault once, at its regions, by its fix, and at the lines that hold it.

Once it named a node of shape arithmetic, a line of torch's own, a relation that was rounding, or one fault many times.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import made_once
from own_files import text_at

from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import export
from opdiff.exporters.variants.registry import parse_variant

VARIANTS = Path(__file__).parent / "variants.py"
TOKENS, PADDED_TOKENS = (1, 5, 3, 7, 2, 9, 11, 4), (0, 0, 0, 5, 3, 7, 2, 9)
# Exported for any length, which brings the shape arithmetic that was blamed; the others for these 8 tokens, which is quicker.
ANY_LENGTH = (
    *("Decoder", "PositionsClamped", "KeysCut", "Sinks", "SinksOfTheWrongHead", "Clipped", "Yarn"),
    *("Padded", "PaddingCounted", "PaddingSeen"),
)
TWINS = re.findall(r"^class (\w+)Again\(", VARIANTS.read_text(), re.MULTILINE)
ROPE = "return torch.cat((u * cos - v * sin, v * cos + u * sin), -1)"
SINKS = "return torch.cat((scores, self.sinks(scores.shape[1])), -1).softmax(-1)[..., :-1]"
NORM = 'h = tap(f"{b}.ffn_norm", self.norm(x, f"{b}.ffn_norm"), axes="token channel")'
LINEAR = "return x @ self.weight(name).T"


@dataclass(frozen=True)
class Case:
    """A right variant A, a wrong one B, and what must be told of them.

    Args:
        regions: exactly those at fault, for all blocks without `blk.N.`.
        says: what the cause's sentence must hold.
        a_line, b_line: the text of the line that is named; None: any in variants.py.
    """

    a: str
    b: str
    regions: str
    says: tuple[str, ...]
    a_line: str
    b_line: str | None
    n_blocks: int = 1

    @property
    def name(self) -> str:
        return f"{self.a} to {self.b}"

    def taps(self) -> set[str]:
        outside = {"embed", "final_norm"}
        stages = self.regions.split()
        in_blocks = {f"blk.{n}.{stage}" for n in range(self.n_blocks) for stage in stages if stage not in outside}
        return in_blocks | (outside & set(stages))


CASES = (
    Case(
        *("Decoder", "PositionsClamped", "q_rope k_rope", ("clip(x, max=4) is extra",)),
        a_line="return torch.arange(n_tokens).float()",
        b_line="return torch.arange(n_tokens).clamp(max=4).float()",
    ),
    Case(
        *("Decoder", "KeysCut", "attn_scores"),
        says=(
            "KeysCut masks keys after the token and keys from 5 on (the last 3), where Decoder masks keys after the token",
        ),
        a_line="return torch.ones(n_tokens, n_tokens, dtype=torch.bool).tril()",
        b_line="return super().visible(n_tokens) & (torch.arange(n_tokens) < 5)",
    ),
    Case(
        *("Sinks", "Decoder", "attn_probs"),
        says=("Decoder: softmax(attn_scores) where Sinks has softmax(concat(attn_scores, [0.9",),
        a_line=SINKS,
        b_line="return scores.softmax(-1)",
    ),
    Case(
        *("Decoder", "Sinks", "attn_probs"),
        says=("Sinks: softmax(concat(attn_scores, [0.9", "where Decoder has softmax(attn_scores)"),
        a_line="return scores.softmax(-1)",
        b_line=SINKS,
    ),
    Case(
        *("Sinks", "SinksOfTheWrongHead", "attn_probs"),
        says=("roll([0.9", "], 1, axis -3) where Sinks has [0.9"),
        a_line=SINKS,
        b_line="return super().sinks(n_tokens).roll(1, 0)",
    ),
    Case(
        *("Capped", "CappedAfterTheMask", "attn_scores"),
        says=("masks nothing; where Capped masks (keys after the token), CappedAfterTheMask holds -4",),
        a_line="capped = 4.0 * torch.tanh(q @ k.mT * 0.25 / 4.0)",
        b_line="masked = (q @ k.mT * 0.25).masked_fill(~self.visible(q.shape[1]), -torch.inf)",
    ),
    Case(
        *("Padded", "PaddingCounted", "embed", ("range(0, 8, 1) where Padded has clip(cumsum(",)),
        a_line="self.is_token = tokens != 0",
        b_line="return torch.arange(is_token.shape[0])",
    ),
    Case(
        *("Padded", "PaddingSeen", "attn_scores"),
        says=("PaddingSeen masks keys after the token", "is left out, x = tril(True) is taken as it is"),
        a_line="return super().visible(n_tokens) & (self.is_token | torch.eye(n_tokens, dtype=torch.bool))",
        b_line="return (q @ k.mT * 0.25).masked_fill(~self.visible(q.shape[1]), -torch.inf)",
    ),
    Case(
        *("Clipped", "Decoder", "q_rope k_rope attn_context", ("clip(x, -1, 1) is left out",)),
        a_line="return q.clamp(-1.0, 1.0), k.clamp(-1.0, 1.0), v.clamp(-1.0, 1.0)",
        b_line=None,
    ),
    Case(
        *("Yarn", "Decoder", "q_rope k_rope", ("x * 1.2772589 is left out, x = cos(",)),
        a_line="return cos * ATTENTION_FACTOR, sin * ATTENTION_FACTOR",
        b_line=ROPE,
    ),
    Case(
        *("Parallel", "Sequential", "ffn_norm"),
        says=("reads attn_residual where Parallel reads embed (sequential against parallel residual)",),
        a_line=NORM,
        b_line=NORM,
        n_blocks=2,
    ),
    Case(
        *("FourBits", "FourBitsOneTooLow", "q_proj k_proj v_proj o_proj ffn_gate ffn_up ffn_down"),
        says=("minus one constant per group of 32 along in", "which is one step of "),
        a_line=LINEAR,
        b_line=LINEAR,
        n_blocks=2,
    ),
    Case(
        *("LayerNorm", "LayerNormEpsilon", "attn_norm ffn_norm final_norm"),
        says=("LayerNormalization with epsilon=1e-07 where LayerNorm has 1e-05",),
        a_line="return F.layer_norm(x, x.shape[-1:], self.weight(name), bias, self.eps)",
        b_line="return F.layer_norm(x, x.shape[-1:], self.weight(name), bias, self.eps)",
        n_blocks=2,
    ),
    Case(
        *("Experts", "RouterBiasInTheWeights", "ffn_router_weights"),
        says=("takes y.values where Experts takes take_along_axis(z, y.indices", "z = sigmoid(ffn_router_logits)"),
        a_line="weights = scores.gather(1, experts)",
        b_line="weights, experts = (logits.sigmoid() + self.bias).topk(2, -1)",
        n_blocks=2,
    ),
    Case(
        *("Experts", "RouterBiasLeftOut", "ffn_router_weights"),
        says=("is left out, x = sigmoid(ffn_router_logits) is taken as it is",),
        a_line="experts = (scores + self.bias).topk(2, -1).indices",
        b_line="weights, experts = logits.sigmoid().topk(2, -1)",
        n_blocks=2,
    ),
)


def every_case(known: Mapping[str, str] | None = None) -> pytest.MarkDecorator:
    """All cases; `known` defects of opdiff, by case, are expected."""
    params = [
        pytest.param(case, id=case.name, marks=[pytest.mark.xfail(strict=True, reason=reason)] if reason else [])
        for case in CASES
        for reason in [(known or {}).get(case.name)]
    ]
    return pytest.mark.parametrize("case", params)


@pytest.fixture(scope="session")
def trial(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Every class of variants.py, of one checkpoint."""

    def make(folder: Path) -> None:
        from corpus.models import tiny_model, write_gguf

        checkpoint = open_checkpoint(str(write_gguf(tiny_model("qwen3_in_32s", 2), folder / "model.gguf")))
        names = re.findall(r"^class (\w+)", VARIANTS.read_text(), re.MULTILINE)
        for length in (None, len(TOKENS)):
            wanted = [name for name in names if (name in ANY_LENGTH) == (length is None)]
            export(checkpoint, [parse_variant(f"{VARIANTS}:{name}") for name in wanted], folder, length=length)

    return made_once(tmp_path_factory, worker_id, "trial", make)


@pytest.fixture(scope="session")
def compared(trial: Path) -> Callable[[str, str], Result]:
    """The comparison of two variants, made once, and without a warning of numpy's."""
    results: dict[tuple[str, str], Result] = {}

    def one(a: str, b: str) -> Result:
        if (a, b) not in results:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                tokens = PADDED_TOKENS if a.startswith("Padded") else TOKENS
                results[a, b] = compare(trial / f"{a}.onnx", trial / f"{b}.onnx", tokens)
        return results[a, b]

    return one


def is_false(sentence: str) -> bool:
    """Whether it tells rounding as a relation: a factor of 1, a constant of 0 or of 1e-8, a bound that only masking sets."""
    tiny = [digits for digits in re.findall(r"\de-(\d+)", sentence) if int(digits) > 7]
    return bool(tiny) or bool(re.search(r"constant factor, 1\b|times 1\b|constant, 0\b|clipped to", sentence))


@pytest.mark.parametrize("name", TWINS)
def test_another_way_to_write_the_same_is_not_accused(name, compared):
    result = compared(name, f"{name}Again")
    assert result.parity, [cause.text for cause in result.root_causes]
    assert result.root_causes == ()
    assert result.latent == ()


@every_case()
def test_one_fault_is_one_cause_in_exactly_its_regions(case, compared):
    result = compared(case.a, case.b)
    assert {d.tap for d in result.divergences} == case.taps()
    assert [set(cause.taps) for cause in result.root_causes] == [case.taps()]


@every_case()
def test_it_is_told_by_its_fix_and_nothing_is_left(case, compared):
    result = compared(case.a, case.b)
    (cause,) = result.root_causes
    assert cause.kind == "edit"
    assert [words for words in case.says if words not in cause.text] == [], cause.text
    assert result.closed.complete


@every_case()
def test_no_rounding_is_told_as_a_relation(case, compared):
    result = compared(case.a, case.b)
    said = [*(c.text for c in result.root_causes), *(text for d in result.divergences for text in d.relations)]
    assert [sentence for sentence in said if is_false(sentence)] == []


def test_the_check_of_relations_can_fail():
    old = ("A's times a constant factor, 1", "A's plus a constant, 0", "A's, clipped to ±1.98", "plus 3.056992e-08")
    assert all(map(is_false, old))
    assert not is_false("LayerNormalization with epsilon=1e-07 where A has 1e-05")


LINES = {
    "Yarn to Decoder": "A's line is that of rope, which reads cos times the factor, not the factor's own",
    "Experts to RouterBiasInTheWeights": "as a rewrite, it is told at the region's first step in A and its last in B",
}


@every_case(LINES)
def test_the_lines_are_those_that_hold_it(case, compared):
    (cause,) = compared(case.a, case.b).root_causes
    b_line = text_at(cause.source, VARIANTS)
    assert (text_at(cause.a_source, VARIANTS), b_line) == (case.a_line, b_line if case.b_line is None else case.b_line)


def test_a_residual_that_passes_65504_is_one_cause_and_its_token_and_magnitude_are_noted(compared):
    result = compared("Loud", "LoudInHalf")
    assert {d.tap for d in result.divergences} == {"blk.0.ffn_residual"}
    (cause,) = result.root_causes
    assert (cause.kind, cause.edit) == (
        "edit",
        ("to_float16(x) is extra, x = attn_residual, and x = ffn_down * 16000",),
    )
    assert text_at(cause.source, VARIANTS) == "sum_in_half = x.half() + self.feed_forward(h, b).half()"
    (one,) = result.nonfinite
    assert (one.side, one.tap, one.kind, one.element_type) == ("LoudInHalf", "blk.0.ffn_residual", "Inf", "float16")
    assert re.search(r"passes 65504 in float16 at token \d, channel \d+", one.text)
    assert one.exact is not None
    assert abs(one.exact) > 65504
    assert f"({one.exact:.6g} in double precision)" in one.text
    assert one.text in result.notes
    assert result.closed.complete
