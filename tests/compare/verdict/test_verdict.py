"""A verdict on graphs of a dozen nodes: real runs, with graphs in the place of the real runtimes too."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from onnx_text import DECODER, DECODER_AXES, decoder_weights, save_text
from rich.console import Console

from opdiff.compare.saved import read_saved
from opdiff.compare.verdict.report import print_verdict
from opdiff.compare.verdict.verdict import Verdict, decide
from opdiff.graphs.decoding import Candidate, Contest, GraphDecoder, Prompt
from opdiff.graphs.errors import InputError
from opdiff.graphs.run import Runner
from opdiff.graphs.schedule.steps import WHOLE

PROMPTS = (Prompt("one", (1, 5, 3)), Prompt(None, (2,)))
OTHER = DECODER.replace("act1 = Relu(up1)", "act1 = Abs(up1)")
NOT_FINITE = DECODER.replace('"blk.1.ffn_down", head)', "infinite, head)").replace(
    "head =", 'zero = Sub("blk.1.ffn_down", "blk.1.ffn_down")\n  infinite = Div("blk.1.ffn_down", zero)\n  head ='
)


def graph(path: Path, text: str = DECODER, facts: dict[str, str] | None = None) -> Path:
    return save_text(path, text, DECODER_AXES, decoder_weights(), facts)


def contest(folder: Path, *texts: str, n_steps: int = 4, **changes) -> Contest:
    """DECODER as the real runtime and as the variant reference, and a named candidate of each text."""
    right = graph(folder / "reference.onnx")
    named = [Candidate(f"mine{n}", graph(folder / f"mine{n}.onnx", text), None, True) for n, text in enumerate(texts)]
    made = Contest(
        model="tiny",
        checkpoint="abc",
        prompts=PROMPTS,
        n_steps=n_steps,
        references=(GraphDecoder("real", right, Runner()),),
        candidates=(*named, Candidate("reference", right, None, False)),
        reference_graph=right,
        schedule=WHOLE,
        text=lambda ids: "".join(chr(97 + id) for id in ids),
        notes=(),
    )
    return replace(made, **changes)


def printed(verdict: Verdict, quiet: bool = False) -> str:
    out = io.StringIO()
    print_verdict(verdict, Console(file=out, width=150, soft_wrap=True, highlight=False), quiet)
    return out.getvalue()


def test_verdict_is_read_back_as_it_was_and_is_as_its_schema_says(tmp_path):
    verdict = decide(contest(tmp_path, OTHER, NOT_FINITE), 3)
    (tmp_path / "v.json").write_text(verdict.to_json())
    assert read_saved(tmp_path / "v.json").to_json() == verdict.to_json()
    schema = json.loads((Path(__file__).parents[3] / "docs" / "schema" / "verdict.json").read_text())
    jsonschema.validate(json.loads(verdict.to_json()), schema)


def test_quiet_verdict_is_its_answer(tmp_path):
    verdict = decide(contest(tmp_path, OTHER), 3)
    assert printed(verdict).startswith(printed(verdict, quiet=True))
    assert printed(verdict, quiet=True).count("\n") == 1


def test_path_is_the_first_references_greedy_continuation(tmp_path):
    made = contest(tmp_path, OTHER)
    for decoded in decide(made, 3).prompts:
        tokens = decoded.prompt.tokens
        for n, step in enumerate(decoded.steps):
            assert decoded.tokens_before(n) == tokens
            assert step.token == made.references[0].logits(tokens).argmax()
            tokens = (*tokens, step.token)
        assert decoded.continuation == made.text(tokens[len(decoded.prompt.tokens) :])


def test_graph_that_is_the_references_passes_with_nothing_between_them(tmp_path):
    verdict = decide(contest(tmp_path, DECODER), 3)
    assert verdict.passes
    (mine, _) = verdict.standings
    assert (mine.passes, mine.causes) == (True, None)
    assert all(tally.n_agree == tally.n_steps == 8 and tally.kl_max == 0 for tally in verdict.tallies)
    assert printed(verdict).startswith("match: mine0 decodes as real: same top-1 at 8 of 8 steps as real\n")


def test_another_operator_fails_and_is_named_with_its_place(tmp_path):
    verdict = decide(contest(tmp_path, OTHER, DECODER), 3)
    assert not verdict.passes
    wrong, right, _ = verdict.standings
    assert right.passes
    assert wrong.causes is not None
    assert (wrong.causes.against, wrong.causes.against_passes) == ("reference", True)
    assert [cause.taps for cause in wrong.causes.root_causes] == [("blk.1.ffn_down",)]
    assert wrong.causes.tokens == verdict.prompts[wrong.causes.prompt].tokens_before(4)
    lines = printed(verdict).splitlines()
    assert lines[0].startswith("match: mine1 ")
    assert lines[1].startswith("fail: mine0 does not decode as real: same top-1 at ")
    assert any(line.startswith("What to change in mine0") for line in lines)
    assert {one.disagreement for step in verdict.prompts[0].steps for one in step.judgements} == {None}
    assert "Note: with one real runtime" in printed(verdict)


def test_candidates_nobody_named_do_not_make_it_fail(tmp_path):
    made = contest(tmp_path, DECODER)
    along = Candidate("along", graph(tmp_path / "along.onnx", OTHER), None, False)
    verdict = decide(replace(made, candidates=(*made.candidates, along)), 3)
    assert verdict.passes
    assert [one.passes for one in verdict.standings] == [True, True, False]
    assert verdict.standings[-1].causes is None


def test_where_nothing_passes_the_causes_say_so(tmp_path):
    made = contest(tmp_path, OTHER)
    real = GraphDecoder("real", graph(tmp_path / "real.onnx", DECODER.replace("Relu", "Neg")), Runner())
    verdict = decide(replace(made, references=(real,)), 3)
    (mine, reference) = verdict.standings
    assert not reference.passes
    assert mine.causes is not None
    assert not mine.causes.against_passes
    assert "which does not decode as they do either" in printed(verdict)
    alone = [Candidate("reference", made.reference_graph, None, True)]
    (reference,) = decide(replace(made, references=(real,), candidates=tuple(alone)), 3).standings
    assert reference.causes is not None
    assert reference.causes.text.startswith("not known: there is nothing right to compare it with")


def test_side_that_is_not_finite_fails_and_every_step_says_so(tmp_path):
    verdict = decide(contest(tmp_path, NOT_FINITE), 3)
    assert not verdict.passes
    (tally,) = [tally for tally in verdict.tallies if tally.side == "mine0"]
    assert (tally.n_not_finite, tally.kl_mean) == (8, None)
    assert "0, and 8 NaN or Inf" in printed(verdict)
    json.loads(verdict.to_json(), parse_constant=lambda text: pytest.fail(text))


def test_reference_that_is_not_finite_is_refused(tmp_path):
    real = GraphDecoder("real", graph(tmp_path / "real.onnx", NOT_FINITE), Runner())
    with pytest.raises(InputError, match=r"real: its logits are not finite \(3 tokens, beginning 1,5,3\)"):
        decide(replace(contest(tmp_path, DECODER), references=(real,)), 3)


def test_other_vocabulary_is_refused(tmp_path):
    wider = DECODER.replace("table, tokens", "narrow, tokens").replace("embed =", "narrow = Identity(table)\n  embed =")
    wider = wider.replace("float[T,8] logits", "float[T,16] logits").replace(
        'logits = MatMul("blk.1.ffn_down", head)',
        'half = MatMul("blk.1.ffn_down", head)\n logits = Concat<axis=1>(half, half)',
    )
    with pytest.raises(InputError, match="mine0: gives 16 logits where real gives 8"):
        decide(contest(tmp_path, wider), 3)


def test_two_references_that_part_are_told_and_excuse_who_goes_with_one(tmp_path):
    """Both of two graphs stand as real runtimes; then each of them passes, and a third one does not."""
    made = contest(tmp_path, DECODER, OTHER, DECODER.replace("Relu", "Neg"))
    real = (made.references[0], GraphDecoder("another", made.candidates[1].path, Runner()))
    verdict = decide(replace(made, references=real), 3)
    assert [one.passes for one in verdict.standings] == [True, True, False, True]
    assert verdict.tallies[0].side == "another"
    assert verdict.tallies[0].n_flips > 0
    assert "the real runtimes themselves part: another has another top-1 than real at" in printed(verdict)


def test_twin_is_judged_by_its_own_candidate(tmp_path):
    made = contest(tmp_path, DECODER)
    twins = [replace(one, q8_0=graph(tmp_path / "twin.onnx", OTHER)) for one in made.candidates[:1]]
    verdict = decide(replace(made, candidates=(*twins, *made.candidates[1:])), 3)
    assert verdict.passes
    (tally,) = verdict.quantised
    assert (tally.side, tally.reference) == ("mine0 in Q8_0", "mine0")
    assert tally.kl_max is not None
    assert tally.kl_max > 0
    assert "What quantisation does by itself" in printed(verdict)


def test_graph_of_another_checkpoint_is_noted(tmp_path):
    made = contest(tmp_path, DECODER)
    other = Candidate("other", graph(tmp_path / "other.onnx", facts={"checkpoint": "def"}), None, True)
    same = Candidate("same", graph(tmp_path / "same.onnx", facts={"checkpoint": "abc"}), None, True)
    verdict = decide(replace(made, candidates=(*made.candidates, other, same)), 3)
    assert verdict.notes == ("other was exported from another checkpoint than tiny",)


def test_json_holds_the_top_tokens_of_every_side_at_every_step(tmp_path):
    found = json.loads(decide(contest(tmp_path, OTHER), 3).to_json())
    assert (found["schema"], found["passes"]) == ("opdiff.verdict/1", False)
    for prompt in found["prompts"]:
        assert len(prompt["steps"]) == 4
        for step in prompt["steps"]:
            assert set(step["top"]) == {"real", "mine0", "reference"}
            assert all(len(top) == 3 for top in step["top"].values())
            assert step["top"]["real"][0]["token"] == step["token"]
            assert {one["outcome"] for one in step["judgements"]} <= {"agree", "flip"}


def test_progress_reaches_the_number_of_steps_and_names_what_fails(tmp_path):
    told: list[tuple[str, int, int]] = []
    decide(contest(tmp_path, OTHER), 3, lambda *step: told.append(step))
    assert [step for step in told if step[0] == "decoding"] == [("decoding", n, 8) for n in range(8)]
    assert told[-1][0] == "why mine0 fails"


def test_text_that_looks_like_markup_is_printed_as_it_is(tmp_path):
    verdict = decide(contest(tmp_path, DECODER, prompts=(Prompt("[bold]x[/nothing]", (1,)),)), 3)
    assert "'[bold]x[/nothing]' (1 tokens)" in printed(verdict)
