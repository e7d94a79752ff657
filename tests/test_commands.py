"""The commands: results on stdout, the answer first, one line for what cannot be used, whatever is wrong with it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_text import DECODER, save_decoder

from opdiff.__main__ import main

COMMANDS = ["export", "trace", "compare", "report", "align", "tokenize", "verdict", "demo", "view", "completion"]


def opdiff(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    """Two graphs of a dozen nodes, one of which has another operator in its second block."""
    other = DECODER.replace("act1 = Relu(up1)", "act1 = Abs(up1)")
    return save_decoder(tmp_path / "a.onnx"), save_decoder(tmp_path / "b.onnx", text=other)


def test_answer_is_the_first_line_and_every_position_is_there(pair):
    done = opdiff("compare", *pair, "--tokens", "1,5,3")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0].startswith("differ: a (A: a) and b (B: b) part at blk.1.ffn_down")
    assert done.stderr == ""
    whole = opdiff("compare", *pair, "--tokens", "1,5,3", "--tables").stdout
    assert whole.startswith(done.stdout.rsplit("\n\n", 1)[0])
    for position, token in enumerate((1, 5, 3)):
        assert re.search(rf"│\s+{position} │\s+{token} │", whole)


def test_same_says_so_first(pair):
    done = opdiff("compare", pair[0], pair[0], "--tokens", "1,5,3")
    assert done.exit_code == 0
    assert done.stdout.startswith("same: a A (A: a) and a B (B: a)")


def test_every_tap_lists_each_tap_and_without_it_the_stages(pair):
    short, whole = (
        opdiff("compare", *pair, "--tokens", "1,2", *more).stdout for more in (("--tables",), ("--every-tap",))
    )
    assert len(re.findall(r"│ ffn_down\s+│", short)) == 1
    assert len(re.findall(r"│ ffn_down\s+│", whole)) == 2


def test_json_holds_what_is_printed(pair, tmp_path):
    opdiff("compare", *pair, "--tokens", "1,2", "--json", tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["parity"] is False
    assert found["first_divergence"] == "blk.1.ffn_down"
    assert found["tokens"] == [1, 2]


def assert_refused(done: Result, *words: str) -> None:
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("opdiff: ")
    for word in words:
        assert word in line


def test_json_that_cannot_be_written_is_refused_and_nothing_is_left(pair, tmp_path):
    done = opdiff("compare", *pair, "--tokens", "1,2", "--json", tmp_path / "missing" / "r.json")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith(f"opdiff: {tmp_path}/missing/r.json: ")
    assert not (tmp_path / "missing").exists()


def test_tokens_that_the_graph_cannot_look_up_are_refused(pair):
    """Its vocabulary is not recorded, so that it is the graph that says it."""
    assert_refused(opdiff("compare", *pair, "--tokens", "1,99"), "a.onnx", "cannot run on this input")


@pytest.mark.parametrize("tokens", ["1,,2", ",", "1.5", "1e3", "0x1", "one", "99999999999999999999999", "-1,2"])
def test_tokens_that_are_none_are_refused(tokens, pair):
    assert_refused(opdiff("compare", *pair, f"--tokens={tokens}"), "token")


def test_provider_that_is_not_there_is_refused(pair):
    assert_refused(opdiff("compare", *pair, "--tokens", "1", "--provider-b", "Nope"), "Nope", "CPUExecutionProvider")


def test_a_provider_for_both_sides_or_for_steps_is_refused(pair):
    asked = ["compare", *pair, "--tokens", "1,2", "--provider-b", "CPUExecutionProvider"]
    assert_refused(opdiff(*asked, "--provider-a", "CPUExecutionProvider"), "--provider-a", "give one of them")
    assert_refused(opdiff(*asked, "--schedule-b", "each"), "--provider-b", "--schedule-b")


def test_reference_that_is_no_graph_is_refused(pair, tmp_path):
    (tmp_path / "r.onnx").write_text("no graph")
    assert_refused(opdiff("compare", *pair, "--tokens", "1", "--reference", tmp_path / "r.onnx"), "r.onnx")


def test_view_refuses_what_is_no_graph(tmp_path):
    assert_refused(opdiff("view", tmp_path / "none.onnx", "--no-browser"), "none.onnx")


def test_message_of_a_path_with_a_line_break_in_it_is_one_line(tmp_path):
    assert_refused(opdiff("view", tmp_path / "two\nlines.onnx", "--no-browser"), "lines.onnx")


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_graph_with_bytes_changed_is_compared_or_refused_never_a_traceback(data):
    with TemporaryDirectory() as folder:
        a, b = (save_decoder(Path(folder) / name) for name in ("a.onnx", "b.onnx"))
        damaged = bytearray(b.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        b.write_bytes(damaged)
        done = opdiff("compare", a, b, "--tokens", "1,2")
        assert done.exit_code in (0, 1, 2)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        if done.exit_code == 2:
            assert_refused(done)


def examples() -> list[list[str]]:
    """Every command line in the help, after the word Example."""
    found = []
    for command in [(), *((name,) for name in COMMANDS)]:
        help_text = opdiff(*command, "--help").stdout
        lines = help_text[help_text.index("Example:") :].splitlines()
        found += [shlex.split(line) for line in lines if line.strip().startswith("opdiff ")]
    return found


@pytest.mark.parametrize("words", examples(), ids=lambda words: " ".join(words[:4]))
def test_every_example_of_the_help_can_be_parsed(words):
    name, *arguments = words[1:]
    command = main.commands[name]
    context = command.make_context(name, list(arguments))
    assert context.args == []


def test_every_command_has_an_example_of_its_own():
    assert set(COMMANDS) == set(main.commands)
    assert {words[1] for words in examples()} == set(COMMANDS)


def test_every_option_has_a_help_text():
    for command in main.commands.values():
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (command.name, parameter.name)


def test_every_command_of_the_readme_can_be_parsed():
    text = (Path(__file__).parent.parent / "README.md").read_text().replace("\\\n", " ")
    lines = [
        line.strip().removeprefix("$ ") for line in text.splitlines() if re.match(r"\s*(\$ )?opdiff [a-z]+ ", line)
    ]
    parsed = 0
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[1] in main.commands and not any(word.isupper() or "[" in word for word in words):
            main.commands[words[1]].make_context(words[1], words[2:])
            parsed += 1
    assert parsed >= 2


def test_closed_pipe_is_no_traceback(pair):
    command = f"{shlex.quote(sys.executable)} -m opdiff compare {pair[0]} {pair[1]} --tokens 1,2 | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("differ: ")
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr
