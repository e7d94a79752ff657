"""Results as JSON: read back whole, refused where they are none, and as their schema says."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result
from onnx_text import DECODER, save_decoder

from opdiff.__main__ import main
from opdiff.compare.diagnose import compare
from opdiff.compare.saved import read_saved
from opdiff.compare.schemas import schemas
from opdiff.graphs.errors import InputError

SCHEMAS = Path(__file__).parent.parent.parent / "docs" / "schema"


def opdiff(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def saved(tmp_path) -> Path:
    """The result of a pair of which B makes Inf of finite numbers, and so holds numbers that JSON has not."""
    other = DECODER.replace("act1 = Relu(up1)", "act1 = Exp(big)").replace("act1 =", "big = Mul(up1, ten)\n  act1 =")
    other = other.replace("embed = Gather", "ten = Constant<value = float {1e4}>()\n  embed = Gather")
    a, b = save_decoder(tmp_path / "a.onnx"), save_decoder(tmp_path / "b.onnx", text=other)
    path = tmp_path / "r.json"
    path.write_text(compare(a, b, [1, 5, 3]).to_json())
    return path


def test_result_is_read_back_as_it_was(saved):
    assert read_saved(saved).to_json() == saved.read_text()


def test_schemas_in_the_repository_are_those_of_the_records():
    for name, schema in schemas().items():
        assert json.loads((SCHEMAS / name).read_text()) == schema, (
            f"write docs/schema/{name} anew: python -m opdiff.compare.schemas docs/schema"
        )


def test_result_is_as_its_schema_says(saved):
    jsonschema.validate(json.loads(saved.read_text()), json.loads((SCHEMAS / "result.json").read_text()))


@pytest.mark.parametrize("case", ["seed", "trace"])
def test_results_of_real_sides_are_as_their_schema_says(case, tmp_path, seed):
    values = tmp_path / "values"
    result = compare(seed / "dsl.onnx", seed / "legacy.onnx", [1, 5, 3], seed / "reference.onnx", values=values)
    if case == "trace":
        result = compare(seed / "dsl.onnx", values / "b.safetensors")
    jsonschema.validate(json.loads(result.to_json()), json.loads((SCHEMAS / "result.json").read_text()))


def test_schema_refuses_what_is_no_result(saved):
    found = json.loads(saved.read_text())
    found["rows"][0]["error"] = "many"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, json.loads((SCHEMAS / "result.json").read_text()))


def test_alignment_and_tokens_are_as_their_schemas_say(tmp_path, smollm2):
    pair = [save_decoder(tmp_path / name) for name in ("a.onnx", "b.onnx")]
    assert opdiff("align", *pair, "--tokens", "1,5,3", "--json", tmp_path / "alignment.json").exit_code == 0
    assert opdiff("tokenize", smollm2 / "tokenizer.gguf", "is  42", "--json", tmp_path / "tokens.json").exit_code == 0
    for name in ("alignment.json", "tokens.json"):
        jsonschema.validate(json.loads((tmp_path / name).read_text()), json.loads((SCHEMAS / name).read_text()))


WRONG = {
    "an older schema": (lambda found: found | {"schema": "opdiff.result/2"}, "opdiff.result/2"),
    "no schema": (lambda found: {k: v for k, v in found.items() if k != "schema"}, "no result"),
    "another tool's": (lambda found: {"schema": "other/1"}, "no result"),
    "a list": (lambda found: [found], "no result"),
    "a row that is none": (lambda found: found | {"rows": [{"tap": "x"}]}, "rows.0"),
    "a number that is text": (lambda found: found | {"tokens": ["one"]}, "tokens.0"),
    "a field that is gone": (lambda found: {k: v for k, v in found.items() if k != "closed"}, "closed"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_result_is_refused_in_one_line(wrong, saved, tmp_path):
    change, word = WRONG[wrong]
    saved.write_text(json.dumps(change(json.loads(saved.read_text()))))
    done = opdiff("report", saved, "--html", tmp_path / "r.html")
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert word in line
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused(content, tmp_path):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(InputError, match=r"not (JSON|UTF-8)"):
        read_saved(tmp_path / "r.json")


def test_report_prints_what_compare_printed_and_ends_as_it_did(saved, tmp_path):
    a, b = tmp_path / "a.onnx", tmp_path / "b.onnx"
    first = opdiff("compare", a, b, "--tokens", "1,5,3", "--json", tmp_path / "again.json", "--tables")
    again = opdiff("report", tmp_path / "again.json", "--tables")
    assert (again.exit_code, again.stdout) == (first.exit_code, first.stdout)
    assert first.exit_code == 1


@pytest.mark.parametrize("option", ["--html", "--json", "--junit", "--summary"])
def test_file_that_cannot_be_written_is_refused_before_anything_runs(option, saved, tmp_path):
    done = opdiff("report", saved, option, tmp_path / "missing" / "f")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert not (tmp_path / "missing").exists()


def test_one_file_for_two_outputs_is_refused(saved, tmp_path):
    done = opdiff("report", saved, "--html", tmp_path / "x", "--junit", tmp_path / "x")
    assert done.exit_code == 2
    assert "a file of its own" in done.stderr
