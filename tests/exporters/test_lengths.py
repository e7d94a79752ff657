"""How many tokens a graph takes: any number, as many as a table has rows, or the one that was asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from own_files import expected, exported, line_of, logits, written

from opdiff.__main__ import main
from opdiff.graphs.artifact import Lengths
from opdiff.graphs.errors import InputError

LOOP = """h, out = torch.zeros_like(x[0]), []
for t in range(x.shape[0]):  # the loop
    h = h / 2 + x[t]
    out.append(h)
return torch.stack(out)"""
MASKED = """T = x.shape[0]
scores = (x @ x.T).masked_fill(~self.causal[:T, :T], float("-inf"))
return scores.softmax(-1) @ x"""
POSITIONS = """at = torch.arange(64)[None, : x.shape[0]]
return x + torch.nn.functional.embedding(at, self.wpe)[0]"""
BOUNDED = {
    "slice": ("return x + self.wpe[: x.shape[0]]", Lengths(1, 64)),
    "narrow": ("return x + self.wpe.narrow(0, 0, x.shape[0])", Lengths(1, 64)),
    "position ids": (POSITIONS, Lengths(1, 64)),
    "a check of the user's own": ("assert x.shape[0] <= 20\nreturn x * 2", Lengths(1, 20)),
    "mask": (MASKED, Lengths(1, 63)),  # of the whole mask torch makes a case of its own
    "another case for long inputs": ("return x if x.shape[0] < 10 else -x", Lengths(1, 9)),
    "another case for short inputs": ("return x if x.shape[0] > 3 else -x", Lengths(4, None)),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_graph_takes_as_many_tokens_as_the_module_is_of_one_mind_about(name, tmp_path):
    body, lengths = BOUNDED[name]
    path = written(tmp_path, body)
    artifact = exported(path)
    assert artifact.lengths == lengths
    for n in {lengths.least, 7, lengths.most or 200}:
        tokens = [i % 60 for i in range(n)]
        artifact.check_tokens(tokens)
        np.testing.assert_allclose(logits(artifact, tokens), expected(path, tokens), rtol=1e-3, atol=1e-4)
    if lengths.most is not None:
        with pytest.raises(InputError, match=rf"Mine.*takes {lengths.least} to {lengths.most} tokens.*give fewer"):
            artifact.check_tokens([1] * (lengths.most + 1))
    if lengths.least > 1:
        with pytest.raises(InputError, match="give more"):
            artifact.check_tokens([1] * (lengths.least - 1))


def test_graph_for_any_number_of_tokens_records_no_limit(tmp_path):
    artifact = exported(written(tmp_path, "return x * 2"))
    assert artifact.lengths == Lengths(1, None)
    assert not {"min_tokens", "max_tokens"} & set(artifact.facts)


FIXED = {
    "loop": (LOOP, "# the loop"),
    "slice of as many rows as were traced": ("y = x\nreturn y + self.wpe[:5]  # here", "# here"),
    "other shape": ("y = x\nreturn y + self.wpe[:8]  # here", "# here"),
    "halves": ("return x.view(2, -1, 32).flatten(0, 1)  # here", "# here"),
}


@pytest.mark.parametrize("name", FIXED)
def test_module_for_one_number_of_tokens_is_refused_with_its_own_line_and_the_option_that_it_needs(name, tmp_path):
    body, mark = FIXED[name]
    path = written(tmp_path, body)
    with pytest.raises(InputError) as caught:
        exported(path)
    text = str(caught.value)
    assert text.startswith("variant Mine: ")
    assert f"({line_of(path, mark)})" in text
    assert "--length N" in text
    assert "\n" not in text
    assert "TORCH_LOGS" not in text
    assert "s13" not in text


@pytest.mark.parametrize("name", FIXED)
def test_with_a_length_it_is_exported_for_exactly_that(name, tmp_path):
    path = written(tmp_path, FIXED[name][0])
    n = 5 if "traced" in name else 8
    artifact = exported(path, length=n)
    assert artifact.lengths == Lengths(n, n)
    np.testing.assert_allclose(logits(artifact, range(n)), expected(path, range(n)), rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match=f"exactly {n} tokens, where 3 are given; give {n}, or .* --length 3"):
        artifact.check_tokens([1, 2, 3])


def test_export_of_a_length_and_its_comparison_by_the_commands(tmp_path):
    path = written(tmp_path, LOOP)
    other = written(tmp_path, LOOP.replace("h / 2", "h / 3"), "other.py")
    runner, out = CliRunner(), tmp_path / "out"
    asked = ["export", "seed", "--variant", f"{path}:Mine", "--length", "4", "--out"]
    assert runner.invoke(main, [*asked, str(out)]).exit_code == 0
    asked[3] = f"{other}:Mine"
    assert runner.invoke(main, [*asked, str(tmp_path / "other")]).exit_code == 0
    pair = [str(out / "Mine.onnx"), str(tmp_path / "other" / "Mine.onnx")]
    same = runner.invoke(main, ["compare", pair[0], pair[0], "--tokens", "1,5,3,7"])
    assert same.exit_code == 0, same.output
    differ = runner.invoke(main, ["compare", *pair, "--tokens", "1,5,3,7", "--json", str(tmp_path / "result.json")])
    assert differ.exit_code == 1, differ.output
    assert json.loads((tmp_path / "result.json").read_text())["first_divergence"] == "body"
    wrong = runner.invoke(main, ["compare", *pair, "--tokens", "1,5,3"])
    assert wrong.exit_code == 2
    assert len([line for line in wrong.stderr.splitlines() if not line.endswith(" s)")]) == 1
    assert "exported for exactly 4 tokens, where 3 are given" in wrong.stderr


def test_blocks_instantiated_from_two_are_of_the_length_too(tmp_path):
    from corpus.models import tiny_model, write_gguf

    model = str(write_gguf(tiny_model("qwen3", n_blocks=3), tmp_path / "model.gguf"))
    asked = ["export", model, "--variant", "reference", "--length", "4", "--out", str(tmp_path)]
    assert CliRunner().invoke(main, asked).exit_code == 0
    from opdiff.graphs.artifact import load_artifact

    artifact = load_artifact(tmp_path / "reference.onnx")
    assert artifact.lengths == Lengths(4, 4)
    assert logits(artifact, range(4)).shape[0] == 4
